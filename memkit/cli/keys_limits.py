"""``memkit limit`` and ``memkit keys``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from memkit.cli.options import Home, Json, Tenant, User, open_bank, owner_option
from memkit.cli.output import Output
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.bank.api_keys import Scope

Group = Annotated[
    str | None,
    typer.Option(
        "--tenant", metavar="T", help="A server's tenant; the key may name its users.", show_default=False
    ),
]
One = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="U",
        help="A user outside any tenant, as in other commands.",
        show_default=False,
    ),
]


def _number(help: str) -> object:
    return typer.Option(metavar="N", min=0, help=f"{help}; 0: no limit.", show_default=False)


def limit(
    user: User = None,
    tenant: Tenant = None,
    keep_days: Annotated[int | None, _number("Days after which `memkit recompile` forgets")] = None,
    max_memories: Annotated[int | None, _number("Most memories")] = None,
    max_characters: Annotated[int | None, _number("Most characters of text")] = None,
    max_bytes: Annotated[int | None, _number("Most bytes of artifacts")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show or change how much a user or a tenant may store, and for how long."""
    output, owner = Output(json), owner_option(user, tenant)
    given = {
        "keep_days": keep_days,
        "max_memories": max_memories,
        "max_characters": max_characters,
        "max_bytes": max_bytes,
    }
    changes = {name: value or None for name, value in given.items() if value is not None}
    with open_bank(home) as bank:
        policy = replace(bank.policies.get(owner.name), **changes)
        if changes:
            bank.policies.set(owner.name, policy)
    rows = asdict(policy).items()
    result = {"user": owner.user, "tenant": owner.tenant, "limits": policy}
    output.result(result, lambda: output.table(("limit", ""), rows))


def create_key(
    tenant: Group = None,
    user: One = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Create a key. It is shown only now: the bank stores its hash."""
    output = Output(json)
    with open_bank(home) as bank:
        key, secret = bank.keys.create(*_holder(tenant, user, label))
    output.result({"key": key, "secret": secret}, lambda: output.say(secret))


def list_keys(tenant: Group = None, user: One = None, home: Home = None, json: Json = False) -> None:
    """List the keys of a tenant or a user, oldest first."""
    output = Output(json)
    with open_bank(home) as bank:
        name, _, scope = _holder(tenant, user)
        keys = bank.keys.list(name, scope)
    rows = [(key.id, key.label, key.created, key.revoked) for key in keys]
    columns = ("id", "label", "created (UTC)", "revoked (UTC)")
    output.result({"keys": keys}, lambda: output.table(columns, rows))


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="A key's id; `memkit keys list` shows them.")],
    tenant: Group = None,
    user: One = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Revoke a key."""
    output = Output(json)
    with open_bank(home) as bank:
        name, _, scope = _holder(tenant, user)
        bank.keys.revoke(name, key_id, scope)
    output.result({"revoked": key_id}, lambda: output.say(f"revoked {key_id}"))


def _holder(tenant: str | None, user: str | None, label: str = "") -> tuple[str, str, Scope]:
    """The holder of a key, its label, and its scope."""
    if (tenant is None) == (user is None):
        raise ConfigError("name the key's holder: --tenant T, or --user U")
    return (tenant, label, "tenant") if tenant is not None else (user or "", label, "user")
