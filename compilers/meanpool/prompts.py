"""Instructions that the decoder gets with a memory: short, medium and long forms (Appendix G.1).

A question is its own instruction.
"""

from __future__ import annotations

from collections.abc import Mapping

from memkit.prompts import PromptSet

RECONSTRUCTION = (
    "Reconstruct the text.",
    "Write out the text in memory.",
    "Repeat the text.",
    "Restore the original text.",
    "Decompress the memory.",
    "Write out the original text that the memory above stands for.",
    "Repeat, word for word, the text that was compressed above.",
    "Reconstruct the original text from the compressed memory above.",
    "Turn the memory above back into the text it was made from.",
    "Restore the text above exactly as it was before compression.",
    "The memory above holds a whole text in compressed form. Write that text out in full, exactly as it was, "
    "leaving out nothing.",
    "Everything above was made from one text. Reproduce it from beginning to end without changing a word.",
    "Read the compressed memory above from its start to its end and write down the original text completely "
    "and in the original order.",
    "Above stands a text in compressed form. Give it back in its original form, with every word in place.",
    "Use the compressed memory above to rebuild the full original text, with the same words and signs.",
)
CONTINUATION = (
    "Continue:",
    "Go on:",
    "Continue the text:",
    "Write what comes next:",
    "Keep writing:",
    "Continue the text from where the memory above ends:",
    "Write the part that follows the text in memory:",
    "Go on with the text that is compressed above:",
    "Continue writing, with the memory above as what came before:",
    "Write on from the end of the compressed text:",
    "The memory above holds the beginning of a text. Go on exactly where it ends, in the same style:",
    "Above stands the first part of a text in compressed form. Take it as context and write what follows:",
    "Take the compressed memory above as everything written so far, and continue the text naturally:",
    "What came before is compressed above. Without repeating any of it, write how the text goes on:",
    "Use what the memory above tells as background and continue the text from the point where it breaks off:",
)
SUMMARIZATION = (
    "Summarize the text.",
    "Give a summary.",
    "Sum up the text briefly.",
    "What is the text about?",
    "State the main point.",
    "Summarize the text above in a few sentences.",
    "Give the main idea of the text that is compressed above.",
    "Write a short summary of what the memory holds.",
    "Sum up the passage above with its key points.",
    "Describe briefly what the text above says.",
    "Read the compressed text above with care and sum up its most important points in your own words.",
    "Write a summary of the text above for somebody who has not read it, and leave out minor details.",
    "The memory above holds a text in compressed form. Say in a few sentences what it tells and why.",
    "Go through the text above from its start to its end and condense it to the points that a reader needs.",
    "Give a summary of the passage above that keeps its message and its order but drops the details.",
)


_INSTRUCTIONS = {
    "reconstruction": RECONSTRUCTION,
    "continuation": CONTINUATION,
    "summarization": SUMMARIZATION,
}


def instructions(own: PromptSet) -> Mapping[str, tuple[str, ...]]:
    """Forms of the instruction of each task: a model's ``own``, or else those of this module."""
    return own.instructions or _INSTRUCTIONS
