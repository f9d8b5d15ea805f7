"""What the program knows of a language: its letters, and its text as target, as words to align, as scoring text."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from shibolet.speech.text.lattice import Lattice
from shibolet.speech.text.rules import basic, split_words, tidy

# A lower-case word -> its readings; None: it is its own only reading. It reads every word with digits 0 to 9.
Reader = Callable[[str], Lattice | None]
_KNOWN_WORDS = 1 << 15  # that are remembered; a corpus has few different words, each many times


@dataclass(frozen=True, slots=True)
class Words:
    """A transcript as words for the aligner."""

    tokens: tuple[str, ...]
    # False: another script, or digits in a language without a reader, spoken in a way that the letters do not tell
    verifiable: tuple[bool, ...]

    @property
    def num_verifiable(self) -> int:
        """Words that count as expected in coverage."""
        return sum(self.verifiable)

    @property
    def num_letters(self) -> int:
        """Letters and digits of all tokens, unverifiable ones too: the length that speech must match."""
        return sum(char.isalnum() for token in self.tokens for char in token)


def _unchanged(text: str) -> str:
    return text


def punctuated(text: str) -> str:
    """A comma after each third word and a full stop."""
    words = text.split()
    return " ".join(word + "," * (i % 3 == 2) for i, word in enumerate(words)) + "."


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """A language by its name in the prompt and its ISO code, with versioned rules for its text."""

    name: str  # "Hebrew"
    code: str  # "he"
    letters: str  # inside a regular expression's [...], lower case
    target_version: str
    scoring_version: str
    other_codes: tuple[str, ...] = ()  # lower case: of three letters, or of an older standard
    unmark: Callable[[str], str] = _unchanged  # the script's own rules for targets and words, before the shared ones
    prescore: Callable[[str], str] = _unchanged  # the script's own rules for scoring, before the shared ones
    # by name, other ways in which the same words are written: an audit must not mind them
    respellings: Mapping[str, Callable[[str], str]] = field(default_factory=lambda: {"punctuation": punctuated})
    reader: Reader | None = None  # how numbers, signs and abbreviations are said; called often, so it remembers
    prefixes: str = ""  # letters that are written before digits with a hyphen, and said as one word with the number
    digits_of: Mapping[str, str] = field(default_factory=dict)  # "three" -> "3", of words that a reader reads alike

    def to_target(self, text: str) -> str:
        """What a model is trained to write."""
        return tidy(self.unmark(text))

    def to_words(self, text: str) -> Words:
        """What an aligner is given, and which of it can be checked against the audio."""
        tokens = split_words(self.to_target(text))
        reads_numbers = self.reader is not None
        return Words(tuple(tokens), tuple(_is_verifiable(token, self.letters, reads_numbers) for token in tokens))

    def tokens_of(self, word: str) -> tuple[str, ...]:
        """The tokens of `to_words`, of one word between spaces."""
        return _tokens_of(word, self.unmark)

    def to_scoring(self, text: str) -> str:
        """What references and hypotheses are compared as."""
        return basic(self.prescore(text))


@lru_cache(_KNOWN_WORDS)
def _tokens_of(word: str, unmark: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(split_words(tidy(unmark(word))))


@lru_cache(_KNOWN_WORDS)
def _is_verifiable(token: str, letters: str, reads_numbers: bool) -> bool:
    """Whether the token's letters, or a reading of its digits, tell how it sounds."""
    if re.fullmatch(f"[{letters}\"']+", token):
        return True
    if not reads_numbers or not any(map(str.isnumeric, token)):
        return bool(re.fullmatch(f"[{letters}\"'&]+", token))
    foreign = re.sub(f"[{letters}]", "", token)
    return not any(char.isalpha() or (char.isdecimal() and not char.isascii()) for char in foreign)
