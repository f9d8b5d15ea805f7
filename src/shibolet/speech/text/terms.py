"""Names and terms of recordings: as a file has them, as a model is told them, and as words that scores count."""

from collections.abc import Callable, Iterable
from pathlib import Path

from shibolet.errors import DataError


def read_terms(path: Path) -> tuple[str, ...]:
    """The terms of a text file, one a line, each once; empty lines and lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"context: {path} cannot be read: {error.strerror}; give a text file with a term a line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"context: {path} is not UTF-8 at byte {error.start:,}; save it as UTF-8 text") from error
    terms = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip() and line.lstrip()[0] != "#"))
    if not terms:
        raise DataError(f"context: {path} has no term; write one a line")
    return terms


def as_context(terms: Iterable[str]) -> str:
    """What a prompt says of terms: training, evaluation and transcription tell a model in the same words."""
    return ", ".join(terms)


def words_of(terms: Iterable[str], normaliser: Callable[[str], str]) -> frozenset[str]:
    """The words of terms as scores count them; a term of several words gives each of them."""
    return frozenset(word for term in terms for word in normaliser(term).split())
