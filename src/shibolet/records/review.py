"""What a person said of an utterance: `review.jsonl`, one answer an utterance, by which the later stages go."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shibolet.records.reading import read_lines

REMEDY = (
    "save the file from audit.html again, or write lines like "
    '{"id": "...", "verdict": "good, bad or unsure", "text": "that was judged"}'
)
Verdict = Literal["good", "bad", "unsure"]


class Answer(BaseModel):
    """A person's verdict on one utterance, as the page saves it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    verdict: Verdict
    text: str  # that was judged: a verdict on another text of the same id does not count
    corrected: str | None = None  # the text that is said, accepted to train in place of `text`
    corrected_by: str | None = None  # who wrote it

    def to_json(self) -> dict:
        """Without a correction where there is none, as files had it before there were any."""
        return self.model_dump(exclude_none=True)


def read_review(path: Path) -> dict[str, Answer]:
    """Answers by utterance id; of two on the same utterance the later. DataError names the line that is none."""
    return {answer.id: answer for answer in read_lines(path, Answer, REMEDY)}
