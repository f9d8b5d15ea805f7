"""`verify.json`: what `shibolet verify` found of a model on a machine; small, and fit to be sent with a bug report."""

from typing import ClassVar, Literal

from shibolet.records.documents.base import Document, Part

CheckState = Literal["passed", "warning", "failed", "not done"]


class Check(Part):
    """One thing that was looked at."""

    name: str  # "weights"
    state: CheckState
    sentences: tuple[str, ...]  # what was found; of a fault, what it is and what to do
    numbers: dict[str, float | None]  # None: no finite number


class Machine(Part):
    """What it ran on."""

    platform: str
    python: str
    packages: dict[str, str | None]
    commit: str | None  # of a checkout of shibolet
    device: str  # a GPU's name, or "cpu"
    device_gib: float | None
    driver: str | None
    num_threads: int


class Verified(Part):
    """The model; of a folder its last name alone."""

    name: str
    identity: str | None  # None: it does not open
    family: str | None
    layout: str | None


class Texts(Part):
    """An utterance's reference and what was written for it."""

    reference: str
    ours: str
    theirs: str | None  # of transformers; None: not compared


class VerifyReport(Document):
    """Every check in its order; no text and no audio of the data unless they were asked for."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet verify MODEL DATA' makes it anew"

    model: Verified
    machine: Machine
    language: str
    recipe: str  # whose phases were trained
    utterances: int
    audio_s: float
    steps: int  # of each phase
    checks: tuple[Check, ...]
    texts: tuple[Texts, ...]
    timing: dict[str, float]  # seconds of each check, and of a step of each phase

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.state == "failed"]
