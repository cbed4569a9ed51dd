"""Who calls: the tenant of an API key, and the user within it.

In the bank, a tenant's users are the tenants ``tenant/user``, and the tenant itself is ``tenant``. As neither
part may hold a slash, no two pairs of tenant and user have the same name, so that no user's name reaches
another tenant's memories.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from memkit.bank.records import MAX_TENANT
from memkit.errors import ConfigError

SEPARATOR = "/"
MAX_USER = 128  # characters


@dataclass(frozen=True)
class Caller:
    """A key's ``tenant``, and the ``user`` within it whose memories are meant; "" is the tenant's own."""

    tenant: str
    user: str = ""

    def __post_init__(self) -> None:
        if not self.tenant or SEPARATOR in self.tenant:
            raise ConfigError(f"a tenant's name holds no {SEPARATOR!r}, which parts it from its users' names")
        if self.user:
            check_user(self.user)
        if len(self.owner) > MAX_TENANT:
            raise ConfigError(
                f"the names of tenant and user have more than {MAX_TENANT - 1} characters together"
            )

    @property
    def owner(self) -> str:
        """Whose memories they are in the bank."""
        return f"{self.tenant}{SEPARATOR}{self.user}" if self.user else self.tenant


def check_user(name: str) -> str:
    """A user's name, or `ConfigError`."""
    if not 1 <= len(name) <= MAX_USER or not name.isprintable() or SEPARATOR in name or name != name.strip():
        raise ConfigError(
            f"a user is named by 1 to {MAX_USER} printable characters without {SEPARATOR!r}, and without "
            "spaces at its ends"
        )
    return name


def header_text(value: str) -> str:
    """The text of an ``X-Memkit-*`` header: UTF-8, percent-encoded where it is not plain."""
    try:
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeError as error:
        raise ConfigError("a header is not UTF-8: percent-encode it") from error


def users_of(tenant: str, owners: list[str]) -> list[str]:
    """The users of a tenant among all the bank's tenants; "" stands for the tenant itself."""
    prefix = tenant + SEPARATOR
    found = [name.removeprefix(prefix) for name in owners if name.startswith(prefix)]
    return [""] * (tenant in owners) + sorted(name for name in found if SEPARATOR not in name)
