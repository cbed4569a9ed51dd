"""Context-agnostic queries that ship with memkit (LCC §3.4): they keep an artifact on the
instruction-following manifold. Written for memkit, under its licence."""

from __future__ import annotations

from memkit.models.loading import LoadedModel

QUERIES: tuple[str, ...] = tuple(
    line.strip()
    for line in """
What is the capital of France?
Name three fruits that are red.
Explain why the sky is blue.
Write a short poem about the sea.
How do I boil an egg?
Translate 'good morning' into Spanish.
What is 17 plus 25?
List five animals that live in Africa.
Give me a synonym for happy.
What is the difference between a virus and a bacterium?
Write a sentence with the word bridge.
How many days are in a leap year?
Suggest a name for a cat.
What does photosynthesis mean?
Who wrote Romeo and Juliet?
Give a tip for sleeping better.
Convert 10 kilometres to miles.
What are the primary colours?
Describe a sunset in one sentence.
Write a Python function that adds two numbers.
What is the boiling point of water?
Name a famous scientist and say what they discovered.
What should I pack for a weekend trip?
Give the past tense of the verb go.
How does a bicycle stay upright?
Write a polite reply to an invitation.
What is the largest planet in the solar system?
Name two uses of salt.
Explain what a metaphor is.
What is the square root of 81?
Give me a simple recipe for pancakes.
What languages are spoken in Switzerland?
How do vaccines work?
Write a slogan for a bookshop.
Which ocean is the deepest?
Is a tomato a fruit or a vegetable?
Tell me a joke.
What is the opposite of generous?
Why do leaves fall in autumn?
How can I learn to play the guitar?
What does the word ephemeral mean?
Name a country in South America.
Write a haiku about snow.
Give an example of renewable energy.
How many sides does a hexagon have?
What is inflation?
Suggest a healthy breakfast.
Who painted the Mona Lisa?
""".strip().splitlines()
)


def queries_for(base: LoadedModel) -> tuple[str, ...]:
    """The queries that suit a model: nano knows only its own."""
    if base.name == "nano":
        from memkit.models.nano.general import REGULARIZERS

        return tuple(question for question, _ in REGULARIZERS)
    return QUERIES
