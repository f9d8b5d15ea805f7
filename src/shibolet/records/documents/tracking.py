"""`tracking/<tracker>.json`: what a tracker was shown, so that a later process shows nothing twice."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from shibolet.errors import DataError
from shibolet.records.documents.base import Document
from shibolet.records.files import hash_json


class TrackerState(Document):
    """What one tracker was shown of a round."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete the folder 'tracking', and the round is tracked anew"

    run: str | None = None  # id of the W&B run
    lines: int = 0  # of its history
    training: str | None = None  # what was trained last, with its roll-backs
    attempt: int = 0  # how often steps were taken anew, by a roll-back or another training
    furthest: dict[str, int] = Field(default_factory=dict)  # family of keys -> last step shown of this attempt
    told: dict[str, str] = Field(default_factory=dict)  # name of a document -> digest of what was shown

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        return {**content, "sha256": hash_json(content)}

    @classmethod
    def from_json(cls, content: Any, path: Path) -> Self:
        """DataError also where its own checksum is another."""
        if isinstance(content, dict) and content.pop("sha256", None) != hash_json(content):
            raise DataError(f"{path} is not as it was written; {cls.REMEDY}")
        return super().from_json(content, path)
