"""Limits on what a tenant stores, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, delete, func, insert, select

from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import artifacts, memories, policies
from memkit.bank.types import check_tenant, tenant_key
from memkit.errors import ConfigError, QuotaError


@dataclass(frozen=True)
class Policy:
    """Limits of one tenant; None means no limit."""

    keep_days: int | None = None  # days until the nightly recompilation forgets a document or a log's entry
    max_memories: int | None = None
    max_characters: int | None = None  # of all source texts
    max_bytes: int | None = None  # of all artifacts

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{each.name} must be a whole number from 1 on, got {value!r}")


class Policies:
    """The policies of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def get(self, tenant: str) -> Policy:
        """The tenant's policy; without limits if none was set."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return _policy(connection, tenant)

    def set(self, tenant: str, policy: Policy) -> None:
        """Set the limits of a tenant. Existing memories beyond them stay, except that `Policy.keep_days`
        applies."""
        check_tenant(tenant)
        key = tenant_key(tenant)
        with self._catalog.write() as connection:
            connection.execute(delete(policies).where(policies.c.key == key))
            if policy != Policy():
                connection.execute(insert(policies).values(key=key, **asdict(policy)))


def require_within(connection: Connection, tenant: str) -> None:
    """Raise `QuotaError` if the tenant exceeds its policy; called before a commit."""
    policy = _policy(connection, tenant)
    own = memories.c.tenant == tenant
    usage = {
        "max_memories": select(func.count()).select_from(memories).where(own),
        "max_characters": select(func.sum(memories.c.characters)).where(own),
        "max_bytes": select(func.sum(artifacts.c.nbytes)).where(artifacts.c.tenant == tenant),
    }
    units = {"max_memories": "memories", "max_characters": "characters", "max_bytes": "artifact bytes"}
    for name, query in usage.items():
        limit = getattr(policy, name)
        if limit is not None and (used := connection.execute(query).scalar() or 0) > limit:
            raise QuotaError(
                f"the user would have {used:,} {units[name]}, and may have {limit:,}: forget some, or raise "
                f"the limit ({name})"
            )


def _policy(connection: Connection, tenant: str) -> Policy:
    query = select(*(policies.c[each.name] for each in fields(Policy)))
    row = connection.execute(query.where(policies.c.key == tenant_key(tenant))).mappings().first()
    return Policy(**row) if row else Policy()
