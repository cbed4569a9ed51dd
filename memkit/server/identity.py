"""Who calls: what an API key acts for, and the user within it.

A key acts for a tenant, whose users have memories of their own beside the tenant's; or for one user of no
tenant, as the command and the Python API know them. See `memkit.bank.owners` for their names in the bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from memkit.bank.api_keys import Scope
from memkit.bank.owners import Owner
from memkit.errors import ConfigError


@dataclass(frozen=True)
class Caller:
    """Whom a key acts for, and the ``user`` of that tenant who is meant; "" is the tenant itself."""

    holder: str
    user: str = ""
    scope: Scope = "tenant"

    def __post_init__(self) -> None:
        if self.scope == "user" and self.user not in ("", self.holder):
            raise ConfigError("this key acts for one user, and cannot name another")
        if not self.holder:
            raise ConfigError("a key acts for somebody, whose name is not empty")
        _ = self.whose

    @property
    def whose(self) -> Owner:
        """Whose memories they are."""
        return Owner(self.holder) if self.scope == "user" else Owner(self.user, self.holder)

    @property
    def owner(self) -> str:
        """What the bank calls them."""
        return self.whose.name

    @property
    def group(self) -> str:
        """What the bank calls all that the key acts for."""
        return self.whose.group

    def users(self, owners: list[str]) -> list[str]:
        """The users that the key acts for, among all whom the bank knows; "" is the tenant itself."""
        found = [Owner.of(name) for name in owners]
        if self.scope == "user":
            return ["" for each in found if each == self.whose]
        return sorted(each.user for each in found if each.tenant == self.holder and not each.namespace)


def header_text(value: str) -> str:
    """The text of an ``X-Memkit-*`` header: UTF-8, percent-encoded where it is not plain."""
    try:
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeError as error:
        raise ConfigError("a header is not UTF-8: percent-encode it") from error
