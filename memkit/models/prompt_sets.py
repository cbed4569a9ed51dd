"""The prompts of a model, by its name."""

from __future__ import annotations

from importlib import import_module

from memkit.prompts import PromptSet

_DEFAULT = PromptSet()
# Models that bring their own: modules with a `PROMPTS`, imported when one is asked for.
_MODULES = {"nano": "memkit.models.nano.prompts"}


def prompt_set(model: str) -> PromptSet:
    """The prompts that a model understands; the default ones where it brings none."""
    module = _MODULES.get(model)
    if module is None:
        return _DEFAULT
    prompts: PromptSet = import_module(module).PROMPTS
    return prompts
