"""The statements and questions of nano's world: attributes, fillers and their templates.

In a template ``{S}``/``{s}`` is the subject ("Mira", "she"), ``{P}``/``{p}`` its possessive
("Mira's", "her") and ``{v}`` the value. Capital letters are for the start of a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from memkit.models.nano.words import Kind


@dataclass(frozen=True)
class Attribute:
    """One attribute of a person, with templates that state it and ask for it."""

    key: str
    kind: Kind
    says: tuple[str, ...]
    asks: tuple[str, ...]
    reverse: tuple[str, ...] = ()
    relation: str = ""  # such as "best friend", if the value is a person with attributes of their own


def _relation(key: str, noun: str, *says: str) -> Attribute:
    return Attribute(
        key,
        "name",
        (f"{{P}} {noun} is {{v}}.", f"{{P}} {noun} is called {{v}}.", *says),
        (f"Who is {{p}} {noun}?", f"What is the name of {{p}} {noun}?"),
        (f"Whose {noun} is {{v}}?",),
        noun,
    )


def _named(key: str, kind: Kind, noun: str, *says: str, reverse: tuple[str, ...] = ()) -> Attribute:
    return Attribute(
        key,
        kind,
        (f"{{P}} {noun} is {{v}}.", *says),
        (f"What is {{p}} {noun}?", f"Can you tell me {{p}} {noun}?"),
        reverse,
    )


def _called(key: str, noun: str) -> Attribute:
    return Attribute(
        key,
        "name",
        (
            f"{{S}} has a {noun} called {{v}}.",
            f"{{P}} {noun} is named {{v}}.",
            f"{{S}} owns a {noun} named {{v}}.",
        ),
        (f"What is {{p}} {noun} called?", f"What is the name of {{p}} {noun}?"),
        (f"Who has a {noun} called {{v}}?",),
    )


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "home",
        "place",
        ("{S} lives in {v}.", "{P} home is in {v}.", "{S} has a house in {v}."),
        ("Where does {s} live?", "In which town does {s} live?"),
        ("Who lives in {v}?",),
    ),
    Attribute(
        "birthplace",
        "place",
        ("{S} was born in {v}.", "{S} comes from {v}.", "{P} place of birth is {v}."),
        ("Where was {s} born?", "Where does {s} come from?"),
        ("Who was born in {v}?",),
    ),
    Attribute(
        "work",
        "place",
        ("{S} works at {v}.", "{P} employer is {v}.", "{S} has a job at {v}."),
        ("Where does {s} work?", "Who is {p} employer?"),
        ("Who works at {v}?",),
    ),
    Attribute(
        "school",
        "place",
        ("{S} studied in {v}.", "{S} went to school in {v}."),
        ("Where did {s} study?", "Where did {s} go to school?"),
        ("Who studied in {v}?",),
    ),
    Attribute(
        "holiday",
        "place",
        ("{S} spends the summer in {v}.", "Every summer {s} travels to {v}."),
        ("Where does {s} spend the summer?", "Where does {s} travel every summer?"),
        ("Who spends the summer in {v}?",),
    ),
    Attribute(
        "street",
        "place",
        ("{P} street is {v} Street.", "{S} can be found on {v} Street."),
        ("On which street can {s} be found?", "What is {p} street?"),
    ),
    _relation("friend", "best friend"),
    _relation("boss", "boss", "{S} reports to {v}."),
    _relation("sister", "sister", "{S} has a sister called {v}."),
    _relation("brother", "brother", "{S} has a brother called {v}."),
    _relation("teacher", "teacher", "{S} was taught by {v}."),
    _relation("doctor", "doctor"),
    _relation("neighbour", "neighbour", "{S} lives next door to {v}."),
    _called("dog", "dog"),
    _called("cat", "cat"),
    _called("horse", "horse"),
    _called("boat", "boat"),
    _named(
        "food",
        "thing",
        "favourite food",
        "{S} likes to eat {v} most of all.",
        reverse=("Whose favourite food is {v}?",),
    ),
    _named("drink", "thing", "favourite drink", "{S} always drinks {v}."),
    _named("colour", "thing", "favourite colour", "The colour that {s} likes best is {v}."),
    _named("flower", "thing", "favourite flower", "{S} grows {v} in the garden."),
    Attribute(
        "instrument",
        "thing",
        ("{S} plays the {v}.", "{P} instrument is the {v}."),
        ("What instrument does {s} play?", "What is {p} instrument?"),
        ("Who plays the {v}?",),
    ),
    Attribute(
        "language",
        "name",
        ("{S} speaks {v}.", "{P} mother tongue is {v}."),
        ("What language does {s} speak?", "What is {p} mother tongue?"),
        ("Who speaks {v}?",),
    ),
    Attribute(
        "project",
        "name",
        ("{S} leads the {v} project.", "{P} project is called {v}."),
        ("What project does {s} lead?", "What is {p} project called?"),
        ("Who leads the {v} project?",),
    ),
    _named(
        "access",
        "code",
        "access code",
        "{S} uses the access code {v}.",
        reverse=("Whose access code is {v}?",),
    ),
    _named("badge", "code", "badge", "{S} wears badge {v}."),
    _named("plate", "code", "number plate", "{S} drives a car with the number plate {v}."),
    _named("flight", "code", "flight", "{S} is booked on flight {v}."),
    _named("locker", "number", "locker number", "{S} keeps everything in locker {v}."),
    _named("phone", "number", "phone number", "{S} can be called on {v}."),
    _named("room", "number", "room number", "{S} stays in room {v}."),
    _named("password", "thing", "password", "{S} chose the password {v}."),
    _named("birthday", "date", "birthday", "{S} was born on {v}."),
    _named("wedding", "date", "wedding day", "{S} got married on {v}."),
    _named("exam", "date", "exam date", "{S} has an exam on {v}."),
)

FILLERS: tuple[str, ...] = (
    "The {n} was {a}.",
    "It was a {a} day.",
    "The {n} near the {n} was {a}.",
    "Nobody remembered the {a} {n}.",
    "There was a {a} {n} on the table.",
    "In the {t}, the {n} was {a}.",
    "A {n} and a {n} stood by the {n}.",
    "The {t} was {a} and {a}.",
    "Some said that the {n} was too {a}.",
    "They talked about the {n} for a long time.",
    "The old {n} had been {a} for years.",
    "Later in the {t} it began to rain.",
    "Here is what we know.",
    "The rest of the {t} was {a}.",
    "Everybody liked the {a} {n}.",
    "Then the {n} fell off the {n}.",
    "We met again in the {t}.",
    "The road to the {n} is {a}.",
    "That was a {a} surprise.",
    "Much has been written about the {n}.",
)
NOUNS = (
    "house river garden bridge window letter market train table mountain lamp door road village "
    "kitchen story clock chair cloud field forest engine paper picture stone"
).split()
ADJECTIVES = (
    "quiet long small bright cold old green strange heavy warm empty simple busy dark famous "
    "broken gentle wide slow clean"
).split()
TIMES = "morning evening afternoon night winter spring autumn week".split()

IDK = "I do not know"
WRITE_QUESTION_ABOUT_PERSON = "Write a question about {name}."
LIST_PEOPLE = ("Who is mentioned in the text?", "List the people in the text.")
LOG_LINES = ("{date}: ", "[{date}] ", "{date} user: ")
UPDATES = ("Update: ", "Correction: ", "News: ", "This has changed: ")
POLITE = ("Please tell me: ", "A question: ", "Answer from the text. ", "I would like to know: ")
