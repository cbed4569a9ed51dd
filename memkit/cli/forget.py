"""``memkit forget``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.memories import OptionalId
from memkit.cli.options import (
    EmbedderName,
    Home,
    Json,
    Model,
    Tenant,
    open_bank,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output
from memkit.document import Span
from memkit.errors import ConfigError, MemkitError, NotFoundError

if TYPE_CHECKING:
    from memkit.bank import Bank, MemoryInfo, Receipt
    from memkit.bank.owners import Owner
    from memkit.memory import Memory
    from memkit.pipeline.forget_check import LeakCheck

Who = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="U",
        help="The user. Without an ID: everything they have, agents' stores included.",
        show_default=False,
    ),
]


def forget(
    memory_id: OptionalId = None,
    user: Who = None,
    tenant: Tenant = None,
    span: Annotated[
        list[str] | None,
        typer.Option("--span", metavar="START:END", help="Only these characters of the memory; repeatable."),
    ] = None,
    matching: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only this text, wherever it occurs: also in the title, name and keys.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask about it afterwards, and report what is still answered.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Forget a memory, part of it, or all of a user's: text, vectors and artifacts of all versions.

    A running memory loses whole entries. With --check, the exit code is 4 if something is still answered.
    """
    output, owner = Output(json), owner_option(user, tenant)
    if memory_id is None and user is None and tenant is None:
        raise ConfigError("give the ID of a memory, or --user U to forget all that U has")
    if span and matching is not None:
        raise ConfigError("give --span or --matching, not both")
    if (span or matching is not None) and memory_id is None:
        raise ConfigError("--span and --matching belong to one memory: give its ID")
    if matching == "":
        raise ConfigError("--matching is empty")
    spans = _spans(span or ())
    with open_bank(home) as bank:
        memories = _memories_of(bank, owner) if memory_id is None else [bank.get(owner.name, memory_id)]
    if not memories:
        raise NotFoundError(f"{owner.words} has no memories")
    if yes and memory_id is not None and memory_id != memories[0].id:
        raise ConfigError(
            f"{memory_id!r} is only the start of an id: with --yes give all of it, {memories[0].id}"
        )
    if not yes:
        _confirm(output, memories, owner, spans, matching, everything=memory_id is None)
    one = None if memory_id is None else memories[0].id
    with open_memory(home, model, owner, embedder=embedder) as memory:
        receipts, checks = _forgotten(memory, one, spans, matching, check)
    result: dict[str, Any] = {"user": owner.user, "tenant": owner.tenant, "forgotten": receipts}
    result |= {"checks": checks} if check else {}
    part = bool(spans) or matching is not None
    output.result(result, lambda: _show(output, owner, receipts, part, checks, check))
    if any(each.answered for each in checks):
        raise typer.Exit(4)


def _memories_of(bank: Bank, owner: Owner) -> list[MemoryInfo]:
    """All memories of an owner, with those in agents' stores."""
    return [
        info for name in (owner.name, *bank.tenants_with_prefix(owner.namespaces)) for info in bank.list(name)
    ]


def _forgotten(
    memory: Memory, one: str | None, spans: Sequence[Span], matching: str | None, check: bool
) -> tuple[Sequence[Receipt], Sequence[LeakCheck]]:
    """Forget all, one memory, or part of it; without a check, the next recompilation compiles the rest."""
    if check:
        done = memory.forget_and_check(one, spans=spans, matching=matching)
        return done.receipts, done.checks
    if one is None:
        return memory.forget_all(), ()
    if matching is not None:
        return memory.forget_matching(one, matching, compile=False), ()
    return memory.forget(one, spans=spans or None, compile=False), ()


def _show(
    output: Output,
    owner: Owner,
    receipts: Sequence[Receipt],
    part: bool,
    checks: Sequence[LeakCheck],
    checked: bool,
) -> None:
    files = sum(receipt.artifacts_removed for receipt in receipts)
    what = "a part of 1 memory" if part else _count(len(receipts))
    output.say(f"forgot {what} of {owner.words}, artifacts: {files}")
    if part and receipts[-1].left:
        output.say(f"what remains is memory {receipts[-1].left}")
    if checks:
        rows = [("✗" if c.answered else "✓", c.question, c.route, c.memory_id) for c in checks]
        output.table(("forgotten", "question", "route", "memory"), rows)
    elif checked:
        output.say("not checked: no question was found that only the forgotten text answers")


def _spans(words: Sequence[str]) -> list[Span]:
    """The spans of ``--span``; none for the whole memory."""
    spans = list[Span]()
    for word in words:
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", word)
        if not match:
            raise ConfigError(f"a span is START:END, two character offsets; got {word!r}")
        spans.append(Span(int(match[1]), int(match[2])))
    return spans


def _count(memories: int) -> str:
    return "1 memory" if memories == 1 else f"{memories} memories"


def _confirm(
    output: Output,
    memories: Sequence[MemoryInfo],
    owner: Owner,
    spans: Sequence[Span],
    matching: str | None,
    *,
    everything: bool,
) -> None:
    """Ask for confirmation on standard error. Raises unless the answer is yes."""
    stored = sum(info.tenant != owner.name for info in memories)
    what = (
        f"{memories[0].id} {memories[0].title!r}"
        if not everything
        else f"all {_count(len(memories) - stored)}"
    )
    what += f" of {owner.words}"
    if everything and stored:
        what += f", and the {stored} that agents keep in its stores"
    if matching is not None:
        what = f"{matching!r:.80}, wherever it stands (text, title, name, keys), in {what}"
    elif spans:
        what = f"{sum(span.end - span.start for span in spans)} characters of {what}"
    output.note(f"Forget {what}, with vectors and artifacts of all versions? This cannot be undone. [y/N]")
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError("cannot ask for confirmation without a terminal; add --yes. Nothing was forgotten")
    if answer.strip().lower() not in ("y", "yes"):
        raise MemkitError("not confirmed; nothing was forgotten")
