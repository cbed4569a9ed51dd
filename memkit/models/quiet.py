"""Keep the progress bars and the advice of transformers and the hub's client out of the output."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging

_LOADING = threading.RLock()  # what is silenced meanwhile belongs to the whole process


@contextmanager
def quietly() -> Iterator[None]:
    """Load a model without the libraries' progress bars and advice; afterwards they are as they were.

    One load at a time. Where ``HF_HUB_DISABLE_PROGRESS_BARS=0`` asks for the bars, they are shown.
    """
    with _LOADING:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        bars = bars and HF_HUB_DISABLE_PROGRESS_BARS is not False
        hub = bars and not are_progress_bars_disabled()
        logging.set_verbosity_error()
        if bars:
            logging.disable_progress_bar()
        shown = _gguf_bar(logging.tqdm)
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
                if not hub:
                    disable_progress_bars()
            _gguf_bar(shown)


def _gguf_bar(bar: Any) -> Any:
    """Let transformers' reader of GGUF files, whose own bar heeds no setting, show ``bar``; returns what it
    showed."""
    reader: Any = modeling_gguf_pytorch_utils
    before = getattr(reader, "tqdm", None)
    if before is not None:
        reader.tqdm = bar
    return before


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of this process's output.

    Where ``TRANSFORMERS_VERBOSITY`` or ``HF_HUB_DISABLE_PROGRESS_BARS`` asks for them, they are shown.
    """
    if not os.environ.get("TRANSFORMERS_VERBOSITY"):
        logging.set_verbosity_error()
    if HF_HUB_DISABLE_PROGRESS_BARS is not False:
        logging.disable_progress_bar()
        disable_progress_bars()
