"""Lines about models on standard error, for what people wait for: the conversion of one, and its failure."""

from __future__ import annotations

import logging

from memkit.cli.output import Output


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        Output().note(record.getMessage())


def show_notes() -> None:
    """Write the log records of `memkit.models` as lines for people, unless all records are written anyway."""
    models = logging.getLogger("memkit.models")
    models.handlers = [] if logging.getLogger("memkit").handlers else [_Notes()]
    models.setLevel(logging.INFO)
