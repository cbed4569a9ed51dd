"""Owners of memories: each tenant, user and namespace has one name in the bank.

All interfaces (Python, command line, HTTP, MCP, integrations) build the name here. Separators are escaped
inside its parts, so that no value of a part can produce the name of another owner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memkit.errors import ConfigError

MAX_OWNER = 1024  # bytes of an owner's name in UTF-8: together with a key, what PostgreSQL can index
_USER, _NAMESPACE = "/", "#"
_ESCAPES = (("%", "%25"), (_USER, "%2F"), (_NAMESPACE, "%23"), ("\x00", "%00"))  # PostgreSQL keeps no NUL


@dataclass(frozen=True)
class Owner:
    """A ``user``, optionally of a server's ``tenant``, and optionally a ``namespace`` of a store.

    The tenant's own memories have no user. Raises `ConfigError` for invalid names.
    """

    user: str = ""
    tenant: str = ""
    namespace: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, text in (("user", self.user), ("tenant", self.tenant), *_labels(self.namespace)):
            check_name(what, text)
        if not self.user and not self.tenant:
            raise ConfigError("a user's name is empty")
        if len(self.name.encode()) > MAX_OWNER:
            raise ConfigError(
                f"the names of tenant, user and namespace have more than {MAX_OWNER:,} bytes together"
            )

    @property
    def name(self) -> str:
        """The name in the bank: ``user``, ``tenant/user`` or ``tenant/``, and ``#label/label`` behind it."""
        name = f"{_escaped(self.tenant)}{_USER}{_escaped(self.user)}" if self.tenant else _escaped(self.user)
        if self.namespace:
            name += _NAMESPACE + _USER.join(map(_escaped, self.namespace))
        return name

    @property
    def words(self) -> str:
        """The owner as a part of a sentence."""
        if not self.tenant:
            return f"the user {self.user!r:.80}"
        return (
            f"the user {self.user!r:.80} of {self.tenant!r:.80}"
            if self.user
            else f"the tenant {self.tenant!r:.80}"
        )

    @property
    def group(self) -> str:
        """The name shared by all users of the tenant; a user without a tenant is a group of one."""
        return Owner(tenant=self.tenant).name if self.tenant else Owner(self.user).name

    @property
    def namespaces(self) -> str:
        """The prefix of the names of all namespaces of the same user, and of no others."""
        return Owner(self.user, self.tenant).name + _NAMESPACE

    @property
    def beneath(self) -> str:
        """The prefix of the names of all namespaces below this owner, and of no others."""
        return self.name + (_USER if self.namespace else _NAMESPACE)

    @property
    def users(self) -> str:
        """The prefix of the names of all users of the tenant, and of no others."""
        return Owner(tenant=self.tenant).name

    @classmethod
    def of(cls, name: str) -> Owner:
        """The owner with that name in the bank; the inverse of `name`."""
        whose, separator, labels = name.partition(_NAMESPACE)
        tenant, slash, user = whose.rpartition(_USER)
        namespace = tuple(map(_unescaped, labels.split(_USER))) if separator else ()
        return cls(_unescaped(user), _unescaped(tenant) if slash else "", namespace)

    def __str__(self) -> str:
        return self.name


def check_name(what: str, text: str) -> str:
    """Return ``text`` if it is a valid name, in any script; ``what`` names it in the `ConfigError`."""
    if not isinstance(text, str):
        raise ConfigError(f"the {what} name must be a string, got {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the {what}'s name holds half a character at {error.start}") from error
    return text


def _labels(namespace: Iterable[str]) -> Iterable[tuple[str, str]]:
    return (("namespace", label) for label in namespace)


def _escaped(text: str) -> str:
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text


def _unescaped(text: str) -> str:
    for character, escape in reversed(_ESCAPES):
        text = text.replace(escape, character)
    return text
