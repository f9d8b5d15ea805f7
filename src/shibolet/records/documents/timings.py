"""`timings.jsonl`: what each stage of a round took by the clock. Plans are made from it; no stage reads it."""

from pathlib import Path
from typing import ClassVar, Self

from shibolet.errors import DataError
from shibolet.records.cores import usable_cores
from shibolet.records.documents.base import Part
from shibolet.records.files import hash_json, write_bytes
from shibolet.records.reading import read_lines

REMEDY = "delete it: nothing but plans is made from it, and the next round in a new folder has one"


class Work(Part):
    """How much a stage did; None: it does no such thing."""

    clips: int | None = None  # that an audit asked for
    heard: int | None = None  # of them, that were not known from before
    utterances: int | None = None  # that were prepared or transcribed
    audio_s: float | None = None  # in all of them
    train: int | None = None  # utterances that prepare left in each split
    dev: int | None = None


NO_WORK = Work()


class PhaseTime(Part):
    """The steps of a phase."""

    seconds: float
    utterances: int  # over all epochs


class TrainTime(Part):
    """What the seconds of a training went to."""

    start_s: float  # until the first step began
    phases: dict[str, PhaseTime]
    checkpoints_s: float  # that steps waited for
    checkpoints: int
    dev_s: float  # scores, and what a phase does before its steps
    dev_utterances: int  # in all scores together
    end_s: float  # after the last step
    gpus: int  # 0: a CPU
    parameters: int  # of the model, adapters included


class StageTime(Part):
    """A line: a stage that was finished, in the start of a command that finished it."""

    REMEDY: ClassVar[str] = REMEDY

    stage: str
    seconds: float  # since the stage before it ended, reading and hashing included: those of one start add up
    is_whole: bool  # False: an earlier start had begun it, and its seconds are not here
    cpus: int | None  # that the process could use
    done: Work
    training: TrainTime | None
    sha256: str  # of the rest, so that a line that was changed is noticed

    @classmethod
    def of(cls, stage: str, seconds: float, is_whole: bool, done: Work, training: TrainTime | None = None) -> Self:
        """The line of this machine, to the millisecond."""
        line = cls(
            stage=stage, seconds=round(seconds, 3), is_whole=is_whole, cpus=usable_cores(), done=done,
            training=training, sha256="",
        )  # fmt: skip
        return line.model_copy(update={"sha256": line.checksum})

    @property
    def checksum(self) -> str:
        return hash_json(self.model_dump(mode="json", exclude={"sha256"}))


def add_time(path: Path, line: StageTime) -> None:
    """Add a line to the file, which is replaced as a whole; what stands there stays as it is."""
    before = path.read_bytes() if path.is_file() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    write_bytes(path, before + line.model_dump_json().encode() + b"\n")


def read_times(path: Path) -> list[StageTime]:
    """The lines, at least one; DataError where the file is not there or not as it was written."""
    lines = read_lines(path, StageTime, REMEDY)
    for number, line in enumerate(lines, 1):
        if line.sha256 != line.checksum:
            raise DataError(f"{path}, line {number}: not as it was written; {REMEDY}")
    if not lines:
        raise DataError(f"{path} is empty; {REMEDY}")
    return lines
