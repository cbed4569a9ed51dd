"""Whose memories they are. In the bank each tenant, user and namespace has one name, whoever asks.

Every door makes that name here: Python, the command, HTTP, MCP and the integrations. What parts a name's
pieces is escaped inside them, so that no value of one can spell another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memkit.errors import ConfigError

MAX_OWNER = 1024  # bytes of an owner's name in UTF-8: with a key, as much as PostgreSQL can index
_USER, _NAMESPACE = "/", "#"
_ESCAPES = (("%", "%25"), (_USER, "%2F"), (_NAMESPACE, "%23"), ("\x00", "%00"))  # PostgreSQL keeps no NUL


@dataclass(frozen=True)
class Owner:
    """A ``user``, of a server's ``tenant`` or of none, and a ``namespace`` of a store beneath them.

    A tenant's own memories have no user. Raises `ConfigError` for what cannot be named.
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
    def group(self) -> str:
        """The tenant's name in the bank, which all its users share; a user of no tenant is their own."""
        return Owner(tenant=self.tenant).name if self.tenant else Owner(self.user).name

    @property
    def namespaces(self) -> str:
        """What the names of all namespaces of the same user begin with, and no others."""
        return Owner(self.user, self.tenant).name + _NAMESPACE

    @property
    def beneath(self) -> str:
        """What the names of all namespaces beneath this owner begin with, and no others."""
        return self.name + (_USER if self.namespace else _NAMESPACE)

    @property
    def users(self) -> str:
        """What the names of all of the tenant's users begin with, and no others."""
        return Owner(tenant=self.tenant).name

    @classmethod
    def of(cls, name: str) -> Owner:
        """The owner of a name in the bank."""
        whose, separator, labels = name.partition(_NAMESPACE)
        tenant, slash, user = whose.rpartition(_USER)
        namespace = tuple(map(_plain, labels.split(_USER))) if separator else ()
        return cls(_plain(user), _plain(tenant) if slash else "", namespace)

    def __str__(self) -> str:
        return self.name


def check_name(what: str, text: str) -> str:
    """A name that can be kept, in any script, or `ConfigError`."""
    if not isinstance(text, str):
        raise ConfigError(f"a {what} is named by a text, got {text!r:.80}")
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


def _plain(text: str) -> str:
    for character, escape in reversed(_ESCAPES):
        text = text.replace(escape, character)
    return text
