"""What a run folder keeps of itself: with what it was made, which stages are done, what was asked beside the recipe."""

from typing import Any, ClassVar, Literal

from shibolet.records.documents.base import Document, Part


class Start(Part):
    """One start of a command in a run folder; no paths."""

    command: str
    num_threads: int | None  # as the recipe says; None: as many as there are
    time: str  # UTC
    python: str
    platform: str
    cpus: int | None
    packages: dict[str, str | None]  # name -> version; None: not installed
    git: str | None  # commit, with + when it has changes; None: not a checkout


class Provenance(Document):
    """provenance.json: versions, platform and commit of every start."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "the next 'shibolet run' in this folder begins a new one"

    starts: tuple[Start, ...]

    @property
    def training(self) -> Start:
        """The last start that can have trained."""
        commands = ("run", "train", "demo")
        return next((start for start in reversed(self.starts) if start.command in commands), self.starts[-1])


class StageMarker(Document):
    """.stages/<stage>.json: what a stage was begun with, and what it made once it is done."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "the stage is made anew"

    state: Literal["begun", "done"]
    inputs: dict[str, Any]  # plain data; content hashes for whatever is large
    outputs: dict[str, str] | None = None  # None until it is done; path in the run folder -> content hash


class Extension(Document):
    """audit/extended.json: sizes of the sample that `audit --extend` has asked for."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and 'shibolet audit RECIPE --extend' asks again"

    data: str  # digest of the data that they are of
    sizes: tuple[int, ...]  # one after the other
