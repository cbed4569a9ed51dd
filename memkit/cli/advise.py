"""``memkit advise``."""

from __future__ import annotations

from datetime import UTC, datetime

from memkit.cli.memories import Id
from memkit.cli.options import (
    Compiler,
    Home,
    Json,
    Model,
    Options,
    Ratio,
    Tenant,
    User,
    compiler_options,
    memory_document,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output


def advise(
    memory_id: Id,
    user: User = None,
    tenant: Tenant = None,
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Say whether compiling a memory is worthwhile, and after how many questions it pays off.

    `memkit remember --wait`, `memkit recompile` and the servers follow this advice, unless told otherwise.
    """
    from memkit.pipeline.compile import snapshot
    from memkit.recompile.plan import Scope, due_tonight

    output, options = Output(json), compiler_options(option, ratio)
    with open_memory(home, model, owner_option(user, tenant), compiler=compiler, options=options) as memory:
        info = memory.get(memory_id)
        source, _ = snapshot(memory.context, info)
        choice = memory.chosen_compiler
        due = due_tonight(memory, info, source, choice, Scope(), datetime.now(UTC))
    advice, cost = due.advice, due.cost
    rows = [
        ("memory", f"{info.id} {info.title}"),
        ("advice", "compile" if advice.compile else f"leave it on its text ({advice.reason})"),
        ("compiler", choice),
        ("due", due.reason or "no"),
        *([("would be compiled by", due.compiler)] if due.reason else []),
        ("tokens", advice.tokens),
        ("lines of a table", f"{advice.tabular:.0%}"),
        ("questions so far", advice.asked),
        ("FLOPs before an answer, by its text", advice.text_flops),
        ("FLOPs before an answer, by an artifact", advice.latent_flops),
        ("FLOPs of a compilation", cost and cost.flops),
        ("artifact bytes", cost and cost.nbytes),
        ("pays for itself after questions", advice.break_even),
    ]
    document = {
        "memory": memory_document(info),
        "compiler": choice,
        "due": due.reason,
        "advice": advice,
        "cost": cost,
    }
    output.result(document, lambda: output.table(("", ""), rows))
