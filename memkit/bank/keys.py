"""API keys: each lets its holder act for one tenant. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update

from memkit.bank import queries
from memkit.bank.catalog import AnyCatalog
from memkit.bank.records import check_line, check_tenant
from memkit.bank.tables import api_keys
from memkit.errors import ConfigError, NotFoundError

PREFIX = "mk"
MAX_LABEL = 128  # characters


@dataclass(frozen=True)
class Key:
    """What is known of a key; ``id`` is part of it and no secret."""

    id: str
    tenant: str
    label: str
    created: datetime
    revoked: datetime | None


class Keys:
    """The API keys of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def create(self, tenant: str, label: str = "") -> tuple[Key, str]:
        """A new key and its secret, which nobody can look up later.

        Raises `ConfigError` for a name with a slash, which parts a tenant from its users.
        """
        check_tenant(tenant)
        if "/" in tenant:
            raise ConfigError(
                f"a key's tenant has no '/' in its name, got {tenant!r:.80}: it parts a tenant from its users"
            )
        if label:
            check_line("a label", label, MAX_LABEL)
        key_id = secrets.token_hex(8)
        secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        created = queries.now()
        with self._catalog.write() as connection:
            row = {"id": key_id, "tenant": tenant, "label": label, "created": created}
            connection.execute(insert(api_keys).values(**row, hash=_hash(secret)))
        return Key(key_id, tenant, label, queries.time_of(created), None), secret

    def tenant(self, secret: str) -> str | None:
        """Whose key that is; None for an unknown, wrong or revoked one, which takes as long to tell."""
        parts = secret.split("_", 2) if secret.isascii() else []
        key_id = parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""
        with self._catalog.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).first()
        known = row.hash if row else _hash("")
        right = hmac.compare_digest(known, _hash(secret))
        return row.tenant if row is not None and right and row.revoked is None else None

    def list(self, tenant: str) -> list[Key]:
        """All keys of a tenant, oldest first; revoked ones, too."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            query = select(api_keys).where(api_keys.c.tenant == tenant)
            rows = connection.execute(query.order_by(api_keys.c.created, api_keys.c.id)).all()
        return [
            Key(
                row.id,
                row.tenant,
                row.label,
                queries.time_of(row.created),
                None if row.revoked is None else queries.time_of(row.revoked),
            )
            for row in rows
        ]

    def revoke(self, tenant: str, key_id: str) -> None:
        """Let a key open nothing any more. Raises `NotFoundError` when the tenant has none of that id."""
        check_tenant(tenant)
        mine = (api_keys.c.tenant == tenant) & (api_keys.c.id == key_id)
        with self._catalog.write() as connection:
            unrevoked = update(api_keys).where(mine, api_keys.c.revoked.is_(None))
            connection.execute(unrevoked.values(revoked=queries.now()))
            if connection.execute(select(api_keys.c.id).where(mine)).first() is None:
                raise NotFoundError(f"this user has no key {key_id!r:.40}")


def _hash(secret: str) -> str:
    # The secret is random and long, so that a slow hash would add nothing.
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
