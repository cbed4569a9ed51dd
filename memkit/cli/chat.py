"""``memkit chat``: a conversation whose statements are remembered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from memkit.cli.notes import note_toy
from memkit.cli.options import (
    Compiler,
    EmbedderName,
    EngineOption,
    Home,
    Model,
    Tenant,
    Urls,
    User,
    check_text,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output
from memkit.errors import MemkitError
from memkit.text.dialogue_acts import extract_statements, is_question

if TYPE_CHECKING:
    from memkit.answer import Answer
    from memkit.memory import Memory

_HELP = """Statements are remembered and questions answered, with or without a question mark. Commands:
/why      explain the last answer
/list     list the entries of the running memory
/compile  compile the running memory now
/forget   forget the whole running memory
/quit     leave (or exit, quit, Ctrl-D)"""
_LEAVE = ("/quit", "/exit", "quit", "exit")


def chat(
    user: User = None,
    tenant: Tenant = None,
    name: Annotated[
        str, typer.Option("--memory", metavar="NAME", help="The running memory to add to.")
    ] = "profile",
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 64,
    compiler: Compiler = "auto",
    embedder: EmbedderName = None,
    engine: EngineOption = None,
    url: Urls = None,
    home: Home = None,
    model: Model = "nano",
) -> None:
    """Chat with the model. It remembers your statements and answers questions from all memories."""
    output = Output()
    owner, settings = owner_option(user, tenant), {"compiler": compiler, "embedder": embedder}
    with open_memory(home, model, owner, engine=engine, urls=url, **settings) as memory:
        if sys.stdin.isatty():
            output.note(_HELP)
            note_toy(output, memory.model)
        Chat(memory, name, max_tokens, output).run(_lines())


class Chat:
    """A conversation. Earlier turns are read again with every question."""

    def __init__(self, memory: Memory, name: str, max_tokens: int, output: Output) -> None:
        self.memory, self.name, self.max_tokens, self.output = memory, name, max_tokens, output
        self.turns = list[tuple[str, str]]()
        self.last: Answer | None = None

    def run(self, lines: Iterator[str]) -> None:
        """Answer each line; errors are shown and do not end the conversation."""
        for line in lines:
            if line.lower() in _LEAVE:
                return
            try:
                self._command(line) if line.startswith("/") else self._say(line)
            except MemkitError as error:
                self.output.note(f"error: {error}")

    def _say(self, line: str) -> None:
        statements, question = extract_statements(line), is_question(line)
        if statements:
            self.memory.remember(statements, memory=self.name)
            self.output.note("remembered")
        if statements and not question:
            return
        line = (
            f"{line}?" if question and line[-1].isalnum() else line
        )  # models are trained on questions with a question mark
        text, live = "", self.output.out.is_terminal
        with self.memory.stream(line, history=self.turns, max_tokens=self.max_tokens) as stream:
            for piece in stream:
                text += piece
                if live:
                    self.output.out.out(piece, end="", highlight=False)
            self.last = stream.answer
        self.output.say("" if live else text)
        self.turns.append((line, text))

    def _command(self, line: str) -> None:
        memory, output = self.memory, self.output
        info = memory.bank.logs.find(memory.owner, self.name)
        if line == "/why" and self.last is not None:
            output.say(f"{self.last.route}: {self.last.trace.reason}")
        elif line == "/list":
            for entry in memory.bank.logs.entries(memory.owner, info.id) if info else []:
                output.say(entry.line)
        elif line == "/compile" and info is not None:
            done = memory.compile(info.id)
            output.note(f"compiled {done.entries} entries")
        elif line == "/forget":
            if info is not None:
                memory.forget(info.id)
            self.turns.clear()
            output.note("forgotten")
        else:
            output.note(_HELP)
            note_toy(output, memory.model)


def _lines() -> Iterator[str]:
    """Lines of standard input, stripped; empty ones are skipped."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 # lets input() edit lines
    while True:
        try:
            line = (input("> ") if terminal else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        if line:
            yield check_text("line", line)
