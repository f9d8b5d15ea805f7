"""A run folder's copy in a store of objects: what it holds, and how the folder stands to it."""

from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from shibolet.records.documents.base import Document, Part


def _inside(name: str) -> str:
    """A path in the run folder; ValueError for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != name or "\0" in name:
        raise ValueError(f"'{name[:100]}' is no path in a run folder")
    return name


class MirroredFile(Part):
    """A file of the run folder; the object `objects/<sha256>` has its bytes."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class MirrorIndex(Document):
    """index.json of a mirror: the run folder as it was at one moment. It is written after all that it names."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "name another place with --mirror"

    version: str  # another one each time
    host: str  # that wrote it
    time: str  # UTC
    files: dict[Annotated[str, AfterValidator(_inside)], MirroredFile]  # by path in the run folder


class MirrorState(Document):
    """.mirror.json of a run folder: where its mirror is, and which version of it the folder goes on from."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and name another place with --mirror"

    url: str
    versions: tuple[str, ...]  # the one in the store, and one that may have come to be there since
    is_whole: bool  # false while the folder is being fetched
