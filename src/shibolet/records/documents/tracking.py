"""`tracking/<tracker>.json`: what a tracker was shown, so that a later process shows nothing twice."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from shibolet.errors import DataError
from shibolet.records.documents.base import Document, Part
from shibolet.records.files import hash_json


class Told(Part):
    """A document as it was shown."""

    digest: str  # of its content
    step: int  # at which it was shown


class TrackerState(Document):
    """What one tracker was shown of a round."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "delete the folder 'tracking', and the round is tracked anew"

    run: str | None = None  # id of the W&B run
    lines: int = 0  # of its history
    training: str | None = None  # what was trained last, with its roll-backs
    attempt: int = 0  # how often steps were taken anew, by a roll-back or another training
    furthest: dict[str, int] = Field(default_factory=dict)  # first of keys shown together -> this attempt's last step
    told: dict[str, Told] = Field(default_factory=dict)  # name of a document -> what was shown of it

    def has_told(self, name: str, digest: str) -> bool:
        return name in self.told and self.told[name].digest == digest

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        return {**content, "sha256": hash_json(content)}

    @classmethod
    def from_json(cls, content: Any, path: Path) -> Self:
        """DataError also where its own checksum is another."""
        if isinstance(content, dict) and content.pop("sha256", None) != hash_json(content):
            raise DataError(f"{path} is not as it was written; {cls.REMEDY}")
        return super().from_json(content, path)
