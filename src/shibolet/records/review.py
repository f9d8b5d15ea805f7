"""What a person said of an utterance."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A person's verdict on one utterance, as the page saves it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    verdict: Literal["good", "bad", "unsure"]
    text: str  # that was judged: a verdict on another text of the same id does not count
