"""A small grammar of Hebrew sentences over the lexicon: three to nine words, with agreement in gender and number.

Every sentence is built around one word drawn uniformly from the lexicon, so that no type is rare.
"""

import random
from dataclasses import dataclass
from functools import cache
from itertools import product

from shibolet.demo.lexicon import Entry, Lexicon
from shibolet.errors import DataError

# A slot is category/sense:group; slots of one group agree in gender and number. A name in capitals is a rule.
RULES = {
    "SUBJECT": ["the/person:1", "the/person:1 whose", "name:1", "noun/person:1 adj/person:1", "count:1 noun/person:1"],
    "THEY": ["pronoun:1", "SUBJECT"],
    "THING": ["noun/thing:2 adj/thing:2", "object the/thing:2", "object the/thing:2 whose", "count:2 noun/thing:2"],
    "MEAL": ["noun/food:2 adj/food:2", "object the/food:2", "object the/food:2 whose", "count:2 noun/food:2"],
    "COMPANY": ["with name:3", "with the/person:3", "with count:3 noun/person:3"],
    "GOAL": [
        "to_do/thing THING",
        "to_do/food MEAL",
        "to_do/to to",
        "to_do/at at",
        "to_do/from from",
        "to_do/alone how",
    ],
    "NOW": ["", "when/any", "when/present"],
    "THEN": ["", "when/any", "when/past"],
    "DOES": [
        "present/thing:1 THING",
        "present/food:1 MEAL",
        "present/to:1 to",
        "present/from:1 from",
        "present/at:1 at",
        "present/alone:1 how",
        "present/alone:1 COMPANY",
        "present/wish:1 GOAL",
    ],
    "DID": [
        "past/thing:1 THING",
        "past/food:1 MEAL",
        "past/to:1 to",
        "past/from:1 from",
        "past/at:1 at",
        "past/alone:1 how",
        "past/alone:1 COMPANY",
        "past/wish:1 GOAL",
    ],
    "DESCRIBED": [
        "the/person:5 very adj/person:5",
        "the/thing:5 very adj/thing:5",
        "the/food:5 very adj/food:5",
        "the/place:5 very adj/place:5",
        "name:5 very adj/person:5",
        "pronoun/third:5 adj/person:5",
        "exist give count:5 noun/thing:5",
    ],
    "NEWS": ["present/that:1 because/that", "past/that:1 because/that"],
    "SENTENCE": [
        "THEY DOES NOW",
        "pronoun:1 not DOES",
        "SUBJECT DID THEN",
        "pronoun/third:1 not DID",
        "when/past SUBJECT DID",
        "ask SUBJECT DOES",
        "ask SUBJECT DID",
        "who:1 DOES NOW",
        "who:1 DID THEN",
        "DESCRIBED",
        "DESCRIBED because this:4 noun/thing:4 adj/thing:4",
        "SUBJECT NEWS DESCRIBED",
        "SUBJECT DOES because pronoun/third:1 adj/person:1",
        "SUBJECT present/alone:1 but not present/alone:1",
        "SUBJECT past/alone:1 but not past/alone:1 THEN",
        "exist give THING",
        "exist give MEAL",
        "exist at noun/thing:2 adj/thing:2",
        "exist at count:2 noun/person:2",
        "this:1 noun/person:1 adj/person:1",
        "this:1 noun/thing:1 adj/thing:1",
        "this:1 noun/food:1 adj/food:1",
        "this:1 noun/place:1 adj/place:1",
        "this:1 noun/place:1 of the/person:2 whose",
        "this:1 noun/thing:1 of name:2 link of name:3",
        "the/thing:1 beside the/thing:2 of name:3",
        "the/place:1 beside the/place:2 NOW",
        "the/person:1 beside name:2 when/any",
        "name:1 link name:2 at when/any",
        "count:1 noun/place:1 adj/place:1",
        "exist give count:1 noun/place:1",
        "exist give noun/place:1 adj/place:1",
        "exist beside the/person:2 noun/place:1 adj/place:1",
    ],
}
MIN_WORDS, MAX_WORDS = 3, 9
MAX_TRIES = 1000
TRIES_A_WORD = 50  # before another word is drawn: most patterns fit a word of some number and gender only


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a sentence: which words can stand there and which other slots they agree with."""

    category: str
    sense: str
    group: str

    @classmethod
    def parse(cls, text: str) -> "Slot":
        kind, _, group = text.partition(":")
        category, _, sense = kind.partition("/")
        return cls(category, sense, group)


def expand(text: str) -> list[tuple[Slot, ...]]:
    """Every sequence of slots that the right-hand side of a rule stands for."""
    parts = [
        [slots for option in RULES[word] for slots in expand(option)] if word in RULES else [(Slot.parse(word),)]
        for word in text.split()
    ]
    return [tuple(slot for part in choice for slot in part) for choice in product(*parts)]


@cache
def patterns_around(category: str, sense: str) -> list[list[tuple[tuple[Slot, ...], int]]]:
    """Patterns with a place for such a word, and the place's index; grouped by the sentence rule they come from."""
    found = [
        [
            (pattern, index)
            for pattern in expand(rule)
            if MIN_WORDS <= len(pattern) <= MAX_WORDS
            for index, slot in enumerate(pattern)
            if slot.category == category and ("any" in (sense, slot.sense) or slot.sense in ("", sense))
        ]
        for rule in RULES["SENTENCE"]
    ]
    return [patterns for patterns in found if patterns]


def fill(
    rng: random.Random, lexicon: Lexicon, pattern: tuple[Slot, ...], index: int, word: Entry
) -> list[Entry] | None:
    """A sentence of this pattern with the word at the index; None when agreement leaves a slot without candidates."""
    chosen = {index: word}
    agreed = {pattern[index].group: (word.gender, word.number)}
    for place, slot in enumerate(pattern):
        if place == index:
            continue
        gender, number = agreed.get(slot.group, ("", "")) if slot.group else ("", "")
        options = [
            entry
            for entry in lexicon.candidates(slot.category, slot.sense)
            if (not gender or entry.gender in ("", gender)) and (not number or entry.number in ("", number))
        ]
        if not options:
            return None
        entry = chosen[place] = rng.choice(options)
        agreed[slot.group] = (gender or entry.gender, number or entry.number)
    return [chosen[place] for place in range(len(pattern))]


def sample_sentence(rng: random.Random, lexicon: Lexicon) -> list[Entry]:
    """A sentence of the lexicon's words; no word stands in it twice. DataError where its words make none."""
    if not lexicon.entries:
        raise DataError("the grammar was given no words: pass at least one allowed spelling of the lexicon")
    for attempt in range(MAX_TRIES):
        if attempt % TRIES_A_WORD == 0:
            word = rng.choice(lexicon.entries)
        pattern, index = rng.choice(rng.choice(patterns_around(word.category, word.sense)))
        sentence = fill(rng, lexicon, pattern, index, word)
        if sentence and len({entry.spelling for entry in sentence}) == len(sentence):
            return sentence
    raise DataError(f"no sentence in {MAX_TRIES} tries from {len(lexicon.entries)} allowed words: allow more of them")
