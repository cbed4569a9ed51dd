"""The caller: the tenant or user that an API key acts for.

A key acts for a tenant, with memories of its own and those of its users, or for one user outside any tenant,
as in the command and the Python API. See `memkit.bank.owners` for names in the bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from memkit.bank.api_keys import Scope
from memkit.bank.owners import Owner
from memkit.errors import ConfigError


@dataclass(frozen=True)
class Caller:
    """The ``holder`` of a key, and the ``user`` of that tenant ("" for the tenant itself).

    Raises `ConfigError` for a user that the key does not cover, or an invalid name.
    """

    holder: str
    user: str = ""
    scope: Scope = "tenant"

    def __post_init__(self) -> None:
        if self.scope == "user" and self.user not in ("", self.holder):
            raise ConfigError("this key acts for one user, and cannot name another")
        if not self.holder:
            raise ConfigError("the name of a key's holder is empty")
        _ = self.whose

    @property
    def whose(self) -> Owner:
        """The owner of the memories."""
        return Owner(self.holder) if self.scope == "user" else Owner(self.user, self.holder)

    @property
    def owner(self) -> str:
        """The owner's name in the bank."""
        return self.whose.name

    @property
    def group(self) -> str:
        """The name of everything that the key covers: a tenant with all its users, or one user."""
        return self.whose.group

    def users(self, owners: list[str]) -> list[str]:
        """The users that the key covers, of all ``owners`` in the bank; "" is the tenant itself."""
        parsed = [Owner.of(name) for name in owners]
        if self.scope == "user":
            return ["" for each in parsed if each == self.whose]
        return sorted(each.user for each in parsed if each.tenant == self.holder and not each.namespace)


def header_text(value: str) -> str:
    """The text of an ``X-Memkit-*`` header: UTF-8, percent-encoded where it is not ASCII. Raises
    `ConfigError`."""
    try:
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeError as error:
        raise ConfigError("a header is not UTF-8: percent-encode it") from error
