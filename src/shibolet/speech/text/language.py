"""What the program knows of a language: its letters, and its text as target, as words to align, as scoring text."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shibolet.speech.text.rules import basic, split_words, tidy


@dataclass(frozen=True, slots=True)
class Words:
    """A transcript as words for the aligner."""

    tokens: tuple[str, ...]
    verifiable: tuple[bool, ...]  # False: digits or another script, spoken in a way that the letters do not tell

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
    unmark: Callable[[str], str] = _unchanged  # the script's own rules for targets and words, before the shared ones
    prescore: Callable[[str], str] = _unchanged  # the script's own rules for scoring, before the shared ones
    # by name, other ways in which the same words are written: an audit must not mind them
    respellings: Mapping[str, Callable[[str], str]] = field(default_factory=lambda: {"punctuation": punctuated})

    def to_target(self, text: str) -> str:
        """What a model is trained to write."""
        return tidy(self.unmark(text))

    def to_words(self, text: str) -> Words:
        """What an aligner is given, and which of it can be checked against the audio."""
        tokens = split_words(self.to_target(text))
        return Words(tuple(tokens), tuple(re.fullmatch(f"[{self.letters}\"']+", token) is not None for token in tokens))

    def to_scoring(self, text: str) -> str:
        """What references and hypotheses are compared as."""
        return basic(self.prescore(text))
