"""``memkit search``."""

from __future__ import annotations

from typing import Annotated

import typer

from memkit.cli.options import (
    EmbedderName,
    Home,
    Json,
    Model,
    Tenant,
    User,
    check_text,
    memory_document,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    k: Annotated[int, typer.Option("-k", "--most", min=1, metavar="N", help="At most N memories.")] = 4,
    user: User = None,
    tenant: Tenant = None,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Search memories: the best passage of each, the best memory first.

    No model is loaded, unless --embedder names one.
    """
    output = Output(json)
    check_text("query", query)
    with open_memory(home, model, owner_option(user, tenant), embedder=embedder) as memory:
        results = [each for each in memory.search(query, k) if each.score > 0]  # 0: nothing in common

    def show() -> None:
        if not results:
            output.note("nothing was found")
            return
        rows = [
            (each.memory.id, f"{each.score:.2f}", each.memory.title, " ".join(each.text.split()))
            for each in results
        ]
        output.table(("id", "score", "title", "passage"), rows)

    output.result(
        {
            "query": query,
            "found": [{**vars(each), "memory": memory_document(each.memory)} for each in results],
        },
        show,
    )
