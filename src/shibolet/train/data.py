"""Training utterances and their lengths, from the tables alone; no audio is decoded here."""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shibolet.errors import DataError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Frame, Targets
from shibolet.records.ledger import LedgerLine
from shibolet.records.shards import has_columns, read_shard
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from shibolet.train.config import AugmentConfig

TAUGHT = "teacher/"  # before the id of an utterance that has a teacher's text
TOLERANCE_S = 0.05  # by which decoded audio may differ from the table's duration
TOLERANCE_SAMPLES = round(TOLERANCE_S * SAMPLE_RATE_HZ)


def frame_tolerance(family: Outline) -> int:
    """The same in frames of features."""
    return round(TOLERANCE_S * family.frames_per_s)


def samples_at(speed: float, num_samples: int) -> int:
    """Samples that are left of so many when they are played that much faster."""
    return round(num_samples / speed)


class Forms(Protocol):
    """The ways in which an epoch may have one utterance."""

    @property
    def identity(self) -> Any:
        """What of it decides a weight, as plain data."""

    def in_epoch(self, example: "TrainExample", epoch: int) -> "TrainExample":
        """The utterance as the epoch has it."""


class Drawing(Protocol):
    """Makes the forms of utterances from what their data have beside a text (`train/given.py`)."""

    def beside(self, rows: Iterable[tuple[str | None, str | None]], targets: Targets) -> Iterable[Any]:
        """Of each row's previous text and text with timestamps, what `with_forms` takes."""

    def with_forms(self, example: "TrainExample", beside: Any, frame: Frame, max_tokens: int) -> "TrainExample":
        """An utterance with its forms, in the longest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainExample:
    """One utterance as a step needs it, known without decoding its audio."""

    id: str
    audio: AudioRef
    text: str
    text_ids: array  # its tokens, int32
    duration_s: float
    num_frames: int  # of features
    num_tokens: int  # of the whole sequence: prompt, audio and target
    num_targets: int  # labels
    family: Outline  # whose lengths these are
    style: str = ""  # what its prompt says of how to write
    frame: Frame | None = None  # its own prompt, by its style, its language or its form; None: that of the training
    forms: Forms | None = None  # that epochs choose from; this is then the longest. None: it is the same in each
    replayed_in: str = ""  # the language of its prompt, of one that is replayed; empty: of the training's own data

    @property
    def num_samples(self) -> int:
        """At 16 kHz, by the table's duration."""
        return round(self.duration_s * SAMPLE_RATE_HZ)

    def in_epoch(self, epoch: int) -> "TrainExample":
        """The utterance with what the epoch gives its decoder and asks of it."""
        return self.forms.in_epoch(self, epoch) if self.forms else self

    def fits_at(self, speed: float, pauses_s: float = 0.0) -> bool:
        """Whether that much faster and with pauses it is no longer than the family takes; as it is, it never is."""
        most, pauses = self.family.max_samples, round(pauses_s * SAMPLE_RATE_HZ)
        is_as_it_is = speed == 1.0 and not pauses
        return is_as_it_is or most is None or samples_at(speed, self.num_samples + TOLERANCE_SAMPLES) + pauses <= most

    def longest(self, augment: "AugmentConfig | None") -> int:
        """Samples of the audio as an epoch hears it longest, by the table's duration."""
        if augment is None:
            return self.num_samples
        pauses = round(augment.longest_pauses_s * SAMPLE_RATE_HZ)
        return self._at_most(samples_at(augment.slowest_speed, self.num_samples) + pauses)

    def usual(self, augment: "AugmentConfig | None") -> int:
        """The same on average; speeds cancel out."""
        pauses_s = augment.mean_pauses_s if augment else 0.0
        return self._at_most(self.num_samples + round(pauses_s * SAMPLE_RATE_HZ))

    def _at_most(self, num_samples: int) -> int:
        return min(num_samples, self.family.max_samples or num_samples)

    def frames_of(self, num_samples: int) -> int:
        """Frames of its audio where an epoch hears so many samples."""
        return self.num_frames if num_samples == self.num_samples else self.family.num_frames(num_samples)

    def tokens_of(self, num_samples: int) -> int:
        """Length of the sequence where an epoch hears so many samples."""
        if num_samples == self.num_samples:
            return self.num_tokens
        num_audio_tokens = self.family.num_audio_tokens
        return self.num_tokens + num_audio_tokens(self.frames_of(num_samples)) - num_audio_tokens(self.num_frames)


@dataclass(frozen=True, slots=True)
class Styles:
    """Style words in prompts: one way to write for each source that has one."""

    by_source: Mapping[str, str]
    frames: Mapping[str, Frame]  # by style

    @classmethod
    def of(cls, by_source: Mapping[str, str], targets_of: Callable[[str], Targets]) -> "Styles | None":
        """`targets_of` gives the prompt of a style; None where no source has one."""
        frames = {style: targets_of(style).frame for style in dict.fromkeys(by_source.values())}
        return cls(by_source, frames) if frames else None


def read_examples(
    prepared_dir: Path, split: str, family: Outline, targets: Targets, max_tokens: int, styles: "Styles | None" = None,
    drawing: Drawing | None = None,
) -> tuple[list[TrainExample], list[LedgerLine]]:  # fmt: skip
    """Utterances of `{split}-*.parquet` in the order of the files, and ledger lines of those that cannot be trained on.

    `max_tokens` is the longest sequence the model has positions for; a target is never shortened to fit it, nor audio
    to fit the family's `max_samples`. `styles` knows what the prompts of some sources say; None: all have `targets`'.
    With `drawing` utterances have the forms that epochs choose from; without it their texts stand alone.
    """
    shards = sorted(prepared_dir.glob(f"{split}-*.parquet"))
    if not shards:
        raise DataError(f"no {split}-*.parquet in {prepared_dir}; run 'shibolet prepare' first")
    examples, ledger = [], []
    for shard in shards:
        # Shards of older versions name no sources, and only styles ask for them.
        table = list(read_shard(shard, "id", "text", "duration_s", *(["source"] if styles else [])))
        tokens = targets.encode([text for _, text, *_ in table]) if table else []
        beside = None  # of each row, and nothing where nobody asks or an older version wrote the shard
        if drawing and has_columns(shard, "previous", "timed_text"):
            beside = list(drawing.beside(read_shard(shard, "previous", "timed_text"), targets))
        for row, ((id, text, duration_s, *source), text_ids) in enumerate(zip(table, tokens, strict=True)):
            num_frames = family.num_frames(round(duration_s * SAMPLE_RATE_HZ))
            style = styles.by_source.get(source[0], "") if styles else ""
            frame = styles.frames[style] if style else targets.frame
            num_targets = frame.num_targets(len(text_ids))
            num_tokens = frame.num_tokens(family.num_audio_tokens(num_frames), len(text_ids))
            example = TrainExample(
                id=id, audio=AudioRef(path=str(shard), row=row), text=text, text_ids=array("i", text_ids),
                duration_s=duration_s, num_frames=num_frames, num_tokens=num_tokens, num_targets=num_targets,
                family=family, style=style, frame=frame if style else None,
            )  # fmt: skip
            if why := _why_not(example, max_tokens):
                rule, detail = why
                ledger.append(
                    LedgerLine(
                        id=id, source=shard.name, stage="train", rule=rule, detail=detail, duration_s=duration_s
                    )
                )  # fmt: skip
                continue
            examples.append(drawing.with_forms(example, beside[row], frame, max_tokens) if beside else example)
    if not examples:
        reasons = "; ".join(f"'{line.id}': {line.detail}" for line in ledger[:3])
        raise DataError(f"{prepared_dir}: none of {len(ledger)} {split} utterances can be trained on ({reasons})")
    return examples, ledger


def _why_not(example: TrainExample, max_tokens: int) -> tuple[str, str] | None:
    """The rule by which an utterance cannot be trained on, with what speaks against it; None where it can."""
    family, num_text = example.family, len(example.text_ids)
    if not example.text.strip():
        return "empty_text", "the target is empty"
    if family.max_samples is not None and example.num_samples > family.max_samples:
        longest_s = family.max_samples / SAMPLE_RATE_HZ
        return "too_long:audio", f"{example.duration_s:.2f} s, a {family.title} takes {longest_s:g} s at most"
    if example.num_tokens > max_tokens:
        room = max(0, max_tokens - (example.num_tokens - num_text))
        return "too_long:positions", (
            f"the text has {num_text} tokens, and beside its audio and the prompt the model has positions for {room}; "
            "cut the utterance into shorter ones, or correct its text"
        )
    return None


def with_texts(
    examples: Sequence[TrainExample],
    texts: Mapping[str, str],
    targets: Targets,
    max_tokens: int,
) -> tuple[list[TrainExample], list[LedgerLine]]:
    """The examples, and after them their utterances once more with these other texts (by id); a line of one too long.

    The examples have no forms. Texts of utterances that are not among them are of ones that left, and leave with them.
    """
    found, lines = list(examples), []
    asked = [example for example in examples if example.id in texts]
    encoded = targets.encode([texts[example.id] for example in asked]) if asked else []
    for example, ids in zip(asked, encoded, strict=True):
        frame = example.frame or targets.frame
        num_targets = frame.num_targets(len(ids))
        num_tokens = frame.num_tokens(example.family.num_audio_tokens(example.num_frames), len(ids))
        name = f"{TAUGHT}{example.id}"
        if num_tokens > max_tokens:
            detail = f"the teacher's text has {len(ids)} tokens"
            lines.append(LedgerLine(id=name, source="teacher", stage="train", rule="too_long:positions", detail=detail))
            continue
        found.append(
            replace(
                example, id=name, text=texts[example.id], text_ids=array("i", ids), num_targets=num_targets,
                num_tokens=num_tokens,
            )
        )  # fmt: skip
    return found, lines
