"""What a training leaves: `train/result.json`, and the lines of metrics.jsonl, dev.jsonl and events.jsonl."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Folds, Optimism, WordErrors
from shibolet.records.files import write_jsonl
from shibolet.records.reading import read_lines


class Line(Part):
    """A line of a JSONL file of a training."""

    REMEDY: ClassVar[str] = (
        "a training that was cut off mends it when it goes on; of one that is done, delete the file, and pages leave "
        "out what it said"
    )

    @classmethod
    def read_all(cls, path: Path) -> list[Self]:
        """The lines of a file, none when there is no file; DataError names the line that is none."""
        return read_lines(path, cls, cls.REMEDY) if path.exists() else []


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a JSONL file, whole or not at all."""
    write_jsonl(path, (line.model_dump(mode="json") for line in lines))


class Timing(Part):
    """What a step took by the clock, in seconds; these numbers alone differ between two runs of the same training."""

    step_s: float
    data_s: float  # waited for packs, the first of the next step among them where workers decode
    device_s: float  # waited for the device
    checkpoint_s: float  # stood still for a checkpoint before it
    utterances_per_s: float
    audio_s_per_s: float


class Memory(Part):
    """GPU memory in a step."""

    device_used_gib: float  # the fullest GPU of all ranks: context, NCCL, fragments and other processes too
    device_used_pct: float
    allocated_peak_gib: float  # of the main rank's allocator: tensors, and not what graphs of layers hold
    allocated_peak_pct: float


class StepRow(Line):
    """A line of metrics.jsonl: one optimizer step; a skipped one has a reason, and neither loss nor norms."""

    step: int  # from 1
    phase: str
    phase_index: int
    step_in_phase: int
    epoch: float
    loss: float | None  # mean over the targets of the step
    lr: dict[str, float]  # part -> rate, as the optimizer holds it
    grad_norm: float | None
    grad_norm_by_part: dict[str, float]
    skipped: str | None
    utterances: int
    audio_s: float
    tokens: int
    targets: int
    numbers: dict[str, float]  # of the objective, beside its loss
    timing: Timing
    memory: Memory | None  # None: on a CPU


class DevRates(Line):
    """Error rates of a model on dev, shares."""

    wer: float
    cer: float
    loss: float | None = None  # nats a label, of the texts given the audio; None: the scorer tells none
    folds: Folds | None = None  # None: the scorer tells no folds
    by_domain: dict[str, WordErrors] = Field(default_factory=dict)  # empty: the scorer tells no domains


class DevScore(DevRates):
    """A line of dev.jsonl: the rates after a step."""

    step: int  # 0: before the first one
    phase: str


class Event(Line):
    """A line of events.jsonl: what did not go as planned."""

    step: int
    event: str  # "skipped", "outlier", "roll_back", "out_of_memory", "memory_full"
    detail: str


class Earlier(Part):
    """Steps that were trained before a training went on from an older checkpoint, with other settings than its own."""

    first_step: int
    last_step: int
    settings: dict[str, str | None]  # path in the recipe -> the value then, as JSON; None: there was none

    @property
    def sentence(self) -> str:
        values = ", ".join(f"{path} {'not set' if value is None else value}" for path, value in self.settings.items())
        if self.first_step == self.last_step:
            return f"step {self.first_step:,} was trained with other settings: {values}"
        return f"steps {self.first_step:,} to {self.last_step:,} were trained with other settings: {values}"


class TrainResult(Document):
    """What a training came to, and which weights are its result."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "'shibolet train RECIPE' in a new run folder makes one"

    fingerprint: dict[str, str]  # what makes two trainings the same one
    earlier: tuple[Earlier, ...]  # what the fingerprint does not tell of the first steps; none without `--from-step`
    steps: int
    utterances_seen: int
    through: str  # the phase whose end the training was asked for
    chosen_step: int
    chosen_by: str  # "dev WER"
    chosen_dev: DevRates | None  # the rates alone; None: there was no dev score of it
    optimism: Optimism | None  # None: not chosen by dev WER, or not known
    averaged_steps: tuple[int, ...]  # more than one, or none
    warning: str | None  # that the model was better on dev before it trained; None: it was not, or it is not known
    dev: tuple[DevScore, ...]
    events: tuple[Event, ...]
    dropped: int  # utterances that did not train
    num_threads: int

    @property
    def weights_of(self) -> tuple[int, ...]:
        """The steps whose checkpoints, averaged when there are several, are the result."""
        return self.averaged_steps or (self.chosen_step,)
