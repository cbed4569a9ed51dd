"""The prompts that nano was trained on; it does not understand any others."""

from __future__ import annotations

from memkit.models.nano import world
from memkit.models.nano.general import HELD_OUT, REGULARIZERS
from memkit.prompts import REPEAT, WRITE_QUESTION, PromptSet

PROMPTS = PromptSet(
    question_requests=(WRITE_QUESTION,),
    unsupported=frozenset({"listing"}),
    paraphrase_request=None,
    drift_questions=tuple(question for question, _ in HELD_OUT[::4]),
    known_answers=HELD_OUT,
    short_answer="{question}",  # its answers are short
    agnostic_queries=tuple(question for question, _ in REGULARIZERS),
    instructions={
        "reconstruction": (REPEAT,),
        "continuation": ("Continue the text:",),
        "summarization": world.LIST_PEOPLE,
    },
)
