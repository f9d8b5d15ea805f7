"""What a run folder keeps of itself: with what it was made, which stages are done, what was asked beside the recipe."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from shibolet.errors import DataError
from shibolet.records.documents.base import Document, Part
from shibolet.records.files import hash_json


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
    outputs: dict[str, str] = Field(default_factory=dict)  # path -> content hash; empty until it is done
    records: dict[str, str] = Field(default_factory=dict)  # the same of files that people read and no stage does
    reads: dict[str, str] = Field(default_factory=dict)  # stage whose files it read -> digest of that stage then

    @property
    def digest(self) -> str:
        """Hash of the outputs."""
        return hash_json(self.outputs)

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        return {**content, "sha256": hash_json(content)}

    @classmethod
    def from_json(cls, content: Any, path: Path) -> Self:
        """DataError also where its own checksum is another; a marker of an earlier version has none."""
        if isinstance(content, dict) and content.pop("sha256", None) not in (None, hash_json(content)):
            raise DataError(f"{path} is not as it was written; {cls.REMEDY}")
        return super().from_json(content, path)


class Extension(Document):
    """audit/extended.json: sizes of the sample that `audit --extend` has asked for."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and 'shibolet audit RECIPE --extend' asks again"

    data: str  # digest of the data that they are of
    sizes: tuple[int, ...]  # one after the other
