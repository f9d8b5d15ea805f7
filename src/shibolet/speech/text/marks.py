"""Punctuation marks of a text, told apart from the signs inside its words and numbers."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from shibolet.speech.text.rules import without_brackets

MARKS = ".,?!:;"
# Sof pasuq ends a verse. Maqaf joins words, geresh and gershayim stand inside them, and quotation marks and dashes are
# written too differently to be compared: none of these is a mark.
_SAME = str.maketrans({"\u05c3": ".", "…": "."})
_LETTER = r"[^\W\d_]"
_MARK = re.compile(
    r"[?!;]"
    r"|[,:](?!(?<=\d[,:])\d)"  # not in 1,000 and 10:30
    rf"|\.(?!(?<=\d\.)\d)(?!(?<={_LETTER}\.){_LETTER})"  # not in 3.5 and e.g; the last one of "e.g." is a mark
)

_RUN = re.compile(rf"({_MARK.pattern})(?:\s*\1)*")
_CLOSING = " \t\n\"'”’״׳)]»"


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is compared, or a mark."""

    text: str
    is_mark: bool


def tokens(text: str, to_words: Callable[[str], str]) -> list[Token]:
    """Words, by `Language.to_scoring` or its like, and marks in their order; "..." and "!!" are one mark."""
    text = without_brackets(text).translate(_SAME)
    found: list[Token] = []
    start = 0
    for mark in _MARK.finditer(text):
        found += [Token(word, False) for word in to_words(text[start : mark.start()]).split()]
        token = Token(mark[0], True)
        if not found or found[-1] != token:
            found.append(token)
        start = mark.end()
    return [*found, *(Token(word, False) for word in to_words(text[start:]).split())]


def without_marks(text: str) -> str:
    """The text without its marks, brackets left as they are; a mark between two words gives a space."""
    return " ".join(_MARK.sub(" ", text.translate(_SAME)).split())


def count_marks(text: str) -> int:
    """Marks in a text; "..." and "!!" are one."""
    return len(_RUN.findall(text.translate(_SAME)))


def ends_in_mark(text: str) -> bool:
    """Whether the last thing in a text, quotation marks and brackets aside, is a mark."""
    return text.translate(_SAME).rstrip(_CLOSING)[-1:] in tuple(MARKS)
