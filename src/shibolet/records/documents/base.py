"""What the stages hand each other: a document is typed, has a version, and is read in one place."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shibolet.errors import DataError
from shibolet.records.files import write_json
from shibolet.records.reading import fault, read_own


class Part(BaseModel):
    """A piece of a document: fields are known, none is left out, none changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Document(Part):
    """A JSON file of a run folder."""

    FORMAT: ClassVar[int]  # raised with every change of its fields' names or meanings
    REMEDY: ClassVar[str]  # what to do about a file of another version: "'shibolet gate RECIPE' makes it anew"

    def to_json(self) -> dict[str, Any]:
        """As the file has it, the version first."""
        return {"format": self.FORMAT, **self.model_dump(mode="json", by_alias=True)}

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in a file; DataError when it is not there, not whole, or of another version of shibolet."""
        return cls.from_json(read_own(path, cls.REMEDY), path)

    @classmethod
    def from_json(cls, content: Any, path: Path | str) -> Self:
        """The document of a file's content; `path` is for the sentence when it is none."""
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != cls.FORMAT or isinstance(found, bool):
            version = f"version {found}" if type(found) is int else "a version that did not say so"
            raise DataError(
                f"{path} was written as {version} of this file, and this shibolet reads {cls.FORMAT}; {cls.REMEDY}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise DataError(f"{path} has been changed by hand or cut: {fault(error)}; {cls.REMEDY}") from error
