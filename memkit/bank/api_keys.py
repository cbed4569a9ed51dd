"""API keys: each authenticates its holder as one tenant or user. The catalog keeps only their hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Row, and_, insert, select, update

from memkit.bank import statements
from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import api_keys
from memkit.bank.types import check_line, check_tenant
from memkit.errors import ConfigError, NotFoundError

Scope = Literal["tenant", "user"]
PREFIX = "mk"
MAX_LABEL = 128  # characters


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret; ``id`` is the public part of the secret.

    The key acts for ``tenant``: with the ``scope`` "tenant" for a server's tenant and all its users, with
    "user" for a single user without a tenant.
    """

    id: str
    tenant: str
    label: str
    created: datetime
    revoked: datetime | None
    scope: Scope = "tenant"


class ApiKeys:
    """The API keys of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def create(self, tenant: str, label: str = "", scope: Scope = "tenant") -> tuple[ApiKey, str]:
        """Create a key; returns it with its secret, which cannot be looked up later.

        Raises `ConfigError` for an invalid tenant, label or scope.
        """
        check_tenant(tenant)
        if scope not in get_args(Scope):
            raise ConfigError(f"a key acts for a tenant or a user, not for a {scope!r:.40}")
        if label:
            check_line("a label", label, MAX_LABEL)
        key_id = secrets.token_hex(8)
        secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        created = statements.now()
        with self._catalog.write() as connection:
            row = {"id": key_id, "tenant": tenant, "label": label, "created": created, "scope": scope}
            connection.execute(insert(api_keys).values(**row, hash=_hash(secret)))
        return ApiKey(key_id, tenant, label, statements.time_of(created), None, scope), secret

    def find(self, secret: str) -> ApiKey | None:
        """The key with that secret; None for an unknown, wrong or revoked one, in the same time."""
        parts = secret.split("_", 2) if secret.isascii() else []
        key_id = parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""
        with self._catalog.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).first()
        expected = row.hash if row else _hash("")
        matches = hmac.compare_digest(expected, _hash(secret))
        return _key(row) if row is not None and matches and row.revoked is None else None

    def tenant(self, secret: str) -> str | None:
        """The tenant that the key with that secret acts for; see `find`."""
        key = self.find(secret)
        return None if key is None else key.tenant

    def list(self, tenant: str, scope: Scope = "tenant") -> list[ApiKey]:
        """All keys of a tenant or user, oldest first, including revoked ones."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            query = select(api_keys).where(_of(tenant, scope))
            rows = connection.execute(query.order_by(api_keys.c.created, api_keys.c.id)).all()
        return [_key(row) for row in rows]

    def revoke(self, tenant: str, key_id: str, scope: Scope = "tenant") -> None:
        """Revoke a key. Raises `NotFoundError` when the tenant has no key with that id."""
        check_tenant(tenant)
        this = _of(tenant, scope) & (api_keys.c.id == key_id)
        with self._catalog.write() as connection:
            unrevoked = update(api_keys).where(this, api_keys.c.revoked.is_(None))
            connection.execute(unrevoked.values(revoked=statements.now()))
            if connection.execute(select(api_keys.c.id).where(this)).first() is None:
                raise NotFoundError(f"this {scope} has no key {key_id!r:.40}")


def _of(tenant: str, scope: Scope) -> ColumnElement[bool]:
    return and_(api_keys.c.tenant == tenant, api_keys.c.scope == scope)


def _key(row: Row[Any]) -> ApiKey:
    revoked = None if row.revoked is None else statements.time_of(row.revoked)
    return ApiKey(row.id, row.tenant, row.label, statements.time_of(row.created), revoked, row.scope)


def _hash(secret: str) -> str:
    # The secret is random and long, so that a slow hash would add nothing.
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
