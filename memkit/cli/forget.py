"""``memkit forget``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.manage import OptionalId
from memkit.cli.options import EmbedderName, Home, Json, Model, open_bank, open_memory
from memkit.cli.output import Output
from memkit.document import Span
from memkit.errors import ConfigError, MemkitError, NotFoundError

if TYPE_CHECKING:
    from memkit.bank import Bank, MemoryInfo, Receipt
    from memkit.forgetting import Check

Who = Annotated[
    str | None,
    typer.Option(
        "--user", "-u", metavar="U", help="Whose; without an ID, all they have.", show_default=False
    ),
]


def forget(
    memory_id: OptionalId = None,
    user: Who = None,
    span: Annotated[
        list[str] | None,
        typer.Option("--span", metavar="START:END", help="Only these characters of it; repeatable."),
    ] = None,
    matching: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only where it holds this text.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask afterwards what it told, and say what is still answered.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Forget one memory, a part of it, or all of a user: text, vectors and artifacts of all versions.

    Of a running memory whole entries go. With --check, exit code 4 says that something is still answered.
    """
    output = Output(json)
    if memory_id is None and user is None:
        raise ConfigError("give the ID of a memory, or --user U to forget all that U has")
    tenant = "default" if user is None else user
    with open_bank(home) as bank:
        chosen = [bank.get(tenant, memory_id)] if memory_id is not None else bank.list(tenant)
        if not chosen:
            raise NotFoundError(f"the user {tenant!r} has no memories")
        spans = _spans(bank, tenant, chosen, span or (), matching, memory_id is None)
    if not yes:
        _confirm(output, chosen, tenant, spans, everything=memory_id is None)
    one = None if memory_id is None else chosen[0].id
    checks: Sequence[Check] = ()
    with open_memory(home, model, tenant, embedder=embedder) as memory:
        if check:
            from memkit.forgetting import forget_and_check

            done = forget_and_check(memory, one, spans)
            receipts, checks = list(done.receipts), done.checks
        else:
            receipts = memory.forget_all() if one is None else memory.forget(one, spans=spans, compile=False)
    result: dict[str, Any] = {"user": tenant, "forgotten": receipts}
    result |= {"checks": checks} if check else {}
    output.result(result, lambda: _show(output, tenant, receipts, spans, checks, check))
    if any(each.answered for each in checks):
        raise typer.Exit(4)


def _show(
    output: Output,
    tenant: str,
    receipts: Sequence[Receipt],
    spans: Sequence[Span],
    checks: Sequence[Check],
    checked: bool,
) -> None:
    files = sum(receipt.artifacts_removed for receipt in receipts)
    what = "a part of 1 memory" if spans else _count(len(receipts))
    output.say(f"forgot {what} of {tenant!r}, artifacts: {files}")
    if spans and receipts[0].left:
        output.say(f"what remains is memory {receipts[0].left}")
    if checks:
        rows = [("✗" if c.answered else "✓", c.question, c.route, c.memory_id) for c in checks]
        output.table(("forgotten", "question", "route", "memory"), rows)
    elif checked:
        output.say("there was nothing to check: the model knows all of it anyway, or asked nothing")


def _spans(
    bank: Bank,
    tenant: str,
    chosen: Sequence[MemoryInfo],
    words: Sequence[str],
    matching: str | None,
    everything: bool,
) -> list[Span]:
    """The parts that are meant; none for the whole."""
    if not words and matching is None:
        return []
    if everything:
        raise ConfigError("--span and --matching belong to one memory: give its ID")
    spans = list[Span]()
    for word in words:
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", word)
        if not found:
            raise ConfigError(f"a span is START:END, two numbers of characters; got {word!r}")
        spans.append(Span(int(found[1]), int(found[2])))
    if matching is not None:
        if not matching:
            raise ConfigError("--matching is empty")
        text = bank.source(tenant, chosen[0].id).text
        places = [each.start() for each in re.finditer(re.escape(matching), text)]
        if not places:
            raise NotFoundError(f"memory {chosen[0].id} does not hold that text")
        spans += [Span(start, start + len(matching)) for start in places]
    return spans


def _count(memories: int) -> str:
    return "1 memory" if memories == 1 else f"{memories} memories"


def _confirm(
    output: Output, chosen: Sequence[MemoryInfo], tenant: str, spans: Sequence[Span], *, everything: bool
) -> None:
    """Ask on standard error; raises unless the answer is yes."""
    what = f"all {_count(len(chosen))}" if everything else f"{chosen[0].id} {chosen[0].title!r}"
    part = f"{sum(span.end - span.start for span in spans)} characters of " if spans else ""
    output.note(f"Forget {part}{what} of {tenant!r}? This cannot be undone. [y/N]")
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError("nobody is there to confirm; add --yes. Nothing was forgotten")
    if answer.strip().lower() not in ("y", "yes"):
        raise MemkitError("not confirmed; nothing was forgotten")
