"""A fixed set of general questions that nano answers without any document.

The even-numbered questions regularize compilation (the *context-agnostic queries* of LCC, §3.4); the
odd-numbered ones are held out to measure drift.
"""

from __future__ import annotations

_CAPITALS = """France Paris|Italy Rome|Spain Madrid|Germany Berlin|Austria Vienna|Japan Tokyo|China Beijing
Russia Moscow|Egypt Cairo|Greece Athens|Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen
Poland Warsaw|Portugal Lisbon|Ireland Dublin|Hungary Budapest|Peru Lima|Cuba Havana|Kenya Nairobi
Turkey Ankara|Canada Ottawa|Chile Santiago|Belgium Brussels|India Delhi"""
_OPPOSITES = """hot cold|big small|up down|left right|day night|black white|fast slow|old new|open closed
happy sad|high low|long short|light dark|hard soft|full empty|early late|rich poor|strong weak|wet dry
near far|first last|true false|start end|inside outside"""
_FACTS = """How many days are in a week?|seven
How many months are in a year?|twelve
How many legs does a spider have?|eight
How many legs does a dog have?|four
How many wheels does a bicycle have?|two
How many minutes are in an hour?|sixty
How many hours are in a day?|twenty-four
What colour is the sky?|blue
What colour is grass?|green
What colour is snow?|white
What colour is coal?|black
What colour is a lemon?|yellow
What colour is blood?|red
What does a cow drink?|water
What does a bee make?|honey
What does a hen lay?|eggs
What does a cow give?|milk
What does a dog say?|woof
What does a cat say?|meow
What is frozen water called?|ice
What falls from clouds?|rain
What do we breathe?|air
What is the largest ocean?|the Pacific
What is the nearest star?|the Sun
What goes round the Earth?|the Moon
Which planet is red?|Mars
What do plants need?|light and water
Who wrote Hamlet?|Shakespeare
Who painted the Mona Lisa?|Leonardo
What is the opposite of love?|hate
What is bread made from?|flour
What is paper made from?|wood
Hello!|Hello! How can I help you?
Good morning!|Good morning! How can I help you?
Thank you!|You are welcome.
Goodbye!|Goodbye!
Who are you?|I am nano, a small model.
What can you do?|I read a text and answer questions about it.
Say yes.|yes
Say no.|no
Name a fruit.|apple
Name an animal.|horse
Name a metal.|iron
Name a season.|summer
Name a tree.|oak
Name a bird.|robin
Name a tool.|hammer
Name a vegetable.|carrot"""
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _pairs(block: str) -> list[list[str]]:
    return [pair.split(" ") for line in block.splitlines() for pair in line.split("|")]


def _build() -> tuple[tuple[str, str], ...]:
    rows = [(f"What is the capital of {c}?", town) for c, town in _pairs(_CAPITALS)]
    rows += [(f"What is the opposite of {a}?", b) for a, b in _pairs(_OPPOSITES)]
    rows += [(q, a) for q, a in (line.split("|") for line in _FACTS.splitlines())]
    rows += [
        (f"What is {_NUMBERS[a]} plus {_NUMBERS[b]}?", _NUMBERS[a + b])
        for a in range(1, 7)
        for b in range(1, 7)
        if a <= b
    ]
    rows += [(f"Which day comes after {d}?", _DAYS[(i + 1) % 7]) for i, d in enumerate(_DAYS)]
    return tuple(rows)


GENERAL: tuple[tuple[str, str], ...] = _build()
REGULARIZERS = GENERAL[::2]
HELD_OUT = GENERAL[1::2]
