"""Lines about models on standard error: what people wait for, and that the default is a toy."""

from __future__ import annotations

import logging

from memkit.cli.output import Output

TOY = "nano"


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        Output().note(record.getMessage())


def show_notes() -> None:
    """Write the log records of `memkit.models` as lines for people, unless all records are written anyway."""
    models = logging.getLogger("memkit.models")
    models.handlers = [] if logging.getLogger("memkit").handlers else [_Notes()]
    models.setLevel(logging.INFO)


def note_toy(output: Output, model: str) -> None:
    """Say that nano, the default, is no model for ordinary text."""
    if model == TOY and not output.json:
        output.note(
            "note: nano is a toy model, which reads short generated texts only; name a real one with --model "
            "or MEMKIT_MODEL"
        )
