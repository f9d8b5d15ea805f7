"""What can be scored and compared: a model, or the hypotheses of another system."""

import re
from dataclasses import dataclass
from pathlib import Path

from shibolet.records.documents.comparison import Named


@dataclass(frozen=True, slots=True)
class Model:
    """A model to transcribe with."""

    name: str  # Hub id, folder or builtin:NAME
    trained_on: Path | None = None  # the prepared data of its run; None: not known


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Files that another system wrote."""

    files: tuple[tuple[str | None, Path], ...]  # with the set that each is of; None: its content decides


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name, and what is scored under it."""

    named: Named
    source: Model | Hypotheses

    @property
    def label(self) -> str:
        return self.named.label

    @property
    def title(self) -> str:
        return self.named.title


def named(title: str, parent: str | None = None) -> Named:
    """A name for people with its label."""
    return Named(label=label_of(title), title=title, parent=parent)


def label_of(title: str) -> str:
    """The folder under evaluate/ for a title: "Round 2" has "round2"; empty for a title without a letter or digit."""
    return re.sub(r"[^\w.-]+", "", title.lower()).strip(".-_")
