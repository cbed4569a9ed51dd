"""Generate documents, with questions that can be answered only by reading them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import get_args

from memkit.models.nano import words, world
from memkit.models.nano.world import Attribute


@dataclass(frozen=True)
class Person:
    name: str
    pronouns: tuple[str, str]  # subject, possessive


@dataclass(frozen=True)
class Fact:
    person: Person
    attribute: Attribute
    value: str


@dataclass(frozen=True)
class Question:
    """A question about a document; ``kind`` names the skill that it tests."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Document:
    text: str
    people: tuple[Person, ...]
    facts: tuple[Fact, ...]  # in order of appearance, superseded ones removed
    superseded: tuple[Fact, ...] = field(default=())
    sentences: tuple[tuple[str, Fact | None], ...] = field(default=(), repr=False)  # None: states no fact


def _fill(template: str, subject: str, possessive: str, value: str = "") -> str:
    def upper(word: str) -> str:
        return word[:1].upper() + word[1:]

    return template.format(S=upper(subject), s=subject, P=upper(possessive), p=possessive, v=value)


def possessive(name: str) -> str:
    return f"{name}'s"


class Generator:
    """Draws documents and questions; the same ``seed`` gives the same sequence.

    ``split`` chooses which half of the open vocabulary names and values come from.
    """

    def __init__(self, seed: int, split: words.Split = "train") -> None:
        self.rng = random.Random(seed)
        self.split: words.Split = split

    # -- documents ---------------------------------------------------------------------------
    def _people(self, count: int) -> list[Person]:
        names = dict[str, None]()  # not a set, whose order differs between processes
        while len(names) < count:
            names[words.value(self.rng, "name", self.split)] = None
        return [Person(name, ("she", "her") if self.rng.random() < 0.5 else ("he", "his")) for name in names]

    def _facts(self, people: list[Person], count: int) -> list[Fact]:
        rng, facts, used = self.rng, list[Fact](), set[tuple[str, str]]()
        names = {person.name for person in people}
        while len(facts) < count:
            person, attribute = rng.choice(people), rng.choice(world.ATTRIBUTES)
            if (person.name, attribute.key) in used:
                continue
            others = [p.name for p in people if p is not person]
            if attribute.relation and others and rng.random() < 0.6:
                value = rng.choice(others)  # makes two-hop questions possible
            else:
                value = words.value(rng, attribute.kind, self.split)
                if value in names:
                    continue
                names.add(value)
            used.add((person.name, attribute.key))
            facts.append(Fact(person, attribute, value))
        if rng.random() < 0.6:  # the rest of the documents jump between people
            order = {person.name: i for i, person in enumerate(people)}
            facts.sort(key=lambda f: order[f.person.name])
        return facts

    def filler(self) -> str:
        """One sentence that states no fact."""
        rng, text = self.rng, self.rng.choice(world.FILLERS)
        for slot, pool in (("{n}", world.NOUNS), ("{a}", world.ADJECTIVES), ("{t}", world.TIMES)):
            while slot in text:
                text = text.replace(slot, rng.choice(pool), 1)
        return text

    def words(self, count: int) -> str:
        """A list of ``count`` values, mostly words, which can be predicted only by copying."""
        kinds = ("name", "place", "thing") * 4 + get_args(words.Kind)
        return " ".join(words.value(self.rng, self.rng.choice(kinds), self.split) for _ in range(count))

    def _say(self, fact: Fact, previous: Person | None) -> str:
        template = self.rng.choice(fact.attribute.says)
        if previous is fact.person and self.rng.random() < 0.5:
            return _fill(template, *fact.person.pronouns, fact.value)
        return _fill(template, fact.person.name, possessive(fact.person.name), fact.value)

    def document(self, facts: int, people: int, fillers: int = 0, updates: int = 0) -> Document:
        """A document of ``facts`` facts about ``people`` people, then ``updates`` corrections."""
        rng = self.rng
        persons = self._people(people)
        stated = self._facts(persons, facts)
        sentences, previous = list[tuple[str, Fact | None]](), None
        for fact in stated:
            sentences.append((self._say(fact, previous), fact))
            previous = fact.person
        old, current = list[Fact](), list(stated)
        for fact in rng.sample(stated, min(updates, len(stated))):
            new = Fact(fact.person, fact.attribute, words.value(rng, fact.attribute.kind, self.split))
            sentences.append((rng.choice(world.UPDATES) + self._say(new, None), new))
            current[current.index(fact)] = new
            old.append(fact)
        slots = sorted(rng.randint(0, len(sentences)) for _ in range(fillers))
        for offset, slot in enumerate(slots):
            # A filler may separate a pronoun from the name it stands for, which the model must resolve.
            sentences.insert(slot + offset, (self.filler(), None))
        text = rng.choice((" ", " ", " ", "\n")).join(sentence for sentence, _ in sentences)
        return Document(text, tuple(persons), tuple(current), tuple(old), tuple(sentences))

    def log(self, facts: int, people: int, changes: int) -> Document:
        """A running log of dated lines, in which the latest line about an attribute counts.

        ``changes`` later lines change the value of one of the ``facts``.
        """
        rng = self.rng
        persons = self._people(people)
        stated = self._facts(persons, facts)
        old, current, lines = list[Fact](), list(stated), list(stated)
        for _ in range(changes):
            fact = rng.choice(current)
            new = Fact(fact.person, fact.attribute, words.value(rng, fact.attribute.kind, self.split))
            lines.insert(rng.randint(lines.index(fact) + 1, len(lines)), new)
            current[current.index(fact)] = new
            old.append(fact)
        prefix, day = rng.choice(world.LOG_LINES), date(rng.randint(2020, 2029), 1, 1)
        sentences = list[tuple[str, Fact | None]]()
        for fact in lines:
            day += timedelta(days=rng.randint(0, 40))
            sentences.append((prefix.format(date=day.isoformat()) + self._say(fact, None), fact))
        text = "\n".join(line for line, _ in sentences)
        return Document(text, tuple(persons), tuple(current), tuple(old), tuple(sentences))

    def statement(self, fact: Fact) -> str:
        """A sentence that states a fact, with its subject's name."""
        return self._say(fact, None)

    # -- questions ---------------------------------------------------------------------------
    def about(self, fact: Fact, pronoun: bool = False) -> Question:
        """A direct question about a fact; with ``pronoun`` it refers to the person as "she" or "he"."""
        name = fact.person.name
        forms = fact.person.pronouns if pronoun else (name, possessive(name))
        return Question(_fill(self.rng.choice(fact.attribute.asks), *forms), fact.value, "fact")

    def two_hop(self, document: Document) -> Question | None:
        """A question such as "Where does Mira's best friend live?"; None if the document has no two linked
        facts."""
        by_name: dict[str, list[Fact]] = {}
        for fact in document.facts:
            by_name.setdefault(fact.person.name, []).append(fact)
        hops = [
            (first, second)
            for first in document.facts
            if first.attribute.relation
            for second in by_name.get(first.value, ())
        ]
        if not hops:
            return None
        first, second = self.rng.choice(hops)
        subject = f"{possessive(first.person.name)} {first.attribute.relation}"
        return Question(
            _fill(self.rng.choice(second.attribute.asks), subject, possessive(subject)),
            second.value,
            "two_hop",
        )

    def reverse(self, document: Document) -> Question | None:
        """A question such as "Who lives in Keldor?"; only about values that occur once."""
        return next(iter(self.reverses(document, 1)), None)

    def reverses(self, document: Document, count: int) -> list[Question]:
        """At most ``count`` distinct `reverse` questions."""
        values = [f.value for f in (*document.facts, *document.superseded)]
        people = {p.name for p in document.people}
        facts = [
            f
            for f in document.facts
            if f.attribute.reverse and values.count(f.value) == 1 and f.value not in people
        ]
        return [
            Question(fact.attribute.reverse[0].format(v=fact.value), fact.person.name, "reverse")
            for fact in self.rng.sample(facts, min(count, len(facts)))
        ]

    def missing(self, document: Document) -> Question:
        """A question that the document does not answer: another attribute, or a stranger."""
        rng = self.rng
        stated = {(f.person.name, f.attribute.key) for f in document.facts}
        while True:
            attribute = rng.choice(world.ATTRIBUTES)
            if document.people and rng.random() < 0.6:
                name = rng.choice(document.people).name
            else:
                name = words.value(rng, "name", self.split)
            if (name, attribute.key) not in stated and name not in {f.value for f in document.facts}:
                text = _fill(rng.choice(attribute.asks), name, possessive(name))
                return Question(text, world.IDK, "missing")

    def confusable(self, document: Document) -> Question | None:
        """A question that the document answers only for another person."""
        stated = {(f.person.name, f.attribute.key) for f in document.facts}
        open_ones = [
            (person.name, fact.attribute)
            for fact in document.facts
            for person in document.people
            if (person.name, fact.attribute.key) not in stated
        ]
        if not open_ones:
            return None
        name, attribute = self.rng.choice(open_ones)
        text = _fill(self.rng.choice(attribute.asks), name, possessive(name))
        return Question(text, world.IDK, "missing")

    def questions(self, document: Document) -> Iterator[Question]:
        """One direct question per fact, in random order."""
        for fact in self.rng.sample(document.facts, len(document.facts)):
            yield self.about(fact)
