"""``memkit limit`` and ``memkit keys``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from memkit.cli.options import Home, Json, User, open_bank
from memkit.cli.output import Output

Tenant = Annotated[str, typer.Option("--tenant", "--user", "-u", metavar="T", help="Whom the key acts for.")]


def _number(help: str) -> object:
    return typer.Option(metavar="N", min=0, help=f"{help}; 0: no limit.", show_default=False)


def limit(
    user: User = "default",
    keep_days: Annotated[int | None, _number("Days after which `memkit recompile` forgets")] = None,
    max_memories: Annotated[int | None, _number("Most memories")] = None,
    max_characters: Annotated[int | None, _number("Most characters of text")] = None,
    max_bytes: Annotated[int | None, _number("Most bytes of artifacts")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show or change what a user may keep, and for how long."""
    output = Output(json)
    given = {
        "keep_days": keep_days,
        "max_memories": max_memories,
        "max_characters": max_characters,
        "max_bytes": max_bytes,
    }
    changes = {name: value or None for name, value in given.items() if value is not None}
    with open_bank(home) as bank:
        policy = replace(bank.policies.get(user), **changes)
        if changes:
            bank.policies.set(user, policy)
    rows = asdict(policy).items()
    output.result({"user": user, "limits": policy}, lambda: output.table(("limit", ""), rows))


def create_key(
    tenant: Tenant,
    label: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a key. It is shown now and never again: only its hash is kept."""
    output = Output(json)
    with open_bank(home) as bank:
        key, secret = bank.keys.create(tenant, label)
    output.result({"key": key, "secret": secret}, lambda: output.say(secret))


def list_keys(tenant: Tenant, home: Home = None, json: Json = False) -> None:
    """List a user's keys, oldest first."""
    output = Output(json)
    with open_bank(home) as bank:
        keys = bank.keys.list(tenant)
    rows = [(key.id, key.label, key.created, key.revoked) for key in keys]
    columns = ("id", "label", "created (UTC)", "revoked (UTC)")
    output.result({"keys": keys}, lambda: output.table(columns, rows))


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `memkit keys list` shows it.")],
    tenant: Tenant,
    home: Home = None,
    json: Json = False,
) -> None:
    """Let a key open nothing any more."""
    output = Output(json)
    with open_bank(home) as bank:
        bank.keys.revoke(tenant, key_id)
    output.result({"revoked": key_id}, lambda: output.say(f"revoked {key_id}"))
