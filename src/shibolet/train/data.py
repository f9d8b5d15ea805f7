"""Training utterances and their lengths, from the tables alone; no audio is decoded here."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shibolet.errors import DataError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Frame, Targets
from shibolet.records.ledger import LedgerLine
from shibolet.records.shards import read_shard
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import SAMPLE_RATE_HZ

TAUGHT = "teacher/"  # before the id of an utterance that has a teacher's text
TOLERANCE_S = 0.05  # by which decoded audio may differ from the table's duration
TOLERANCE_SAMPLES = round(TOLERANCE_S * SAMPLE_RATE_HZ)


def frame_tolerance(family: Outline) -> int:
    """The same in frames of features."""
    return round(TOLERANCE_S * family.frames_per_s)


def samples_at(speed: float, num_samples: int) -> int:
    """Samples that are left of so many when they are played that much faster."""
    return round(num_samples / speed)


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

    @property
    def num_samples(self) -> int:
        """At 16 kHz, by the table's duration."""
        return round(self.duration_s * SAMPLE_RATE_HZ)

    def fits_at(self, speed: float) -> bool:
        """Whether the audio that much faster is no longer than the family takes; at its own speed it never is."""
        most = self.family.max_samples
        return speed == 1.0 or most is None or samples_at(speed, self.num_samples + TOLERANCE_SAMPLES) <= most

    def frames_at(self, speed: float) -> int:
        """Frames of the audio that much faster, by the table's duration."""
        if speed == 1.0:
            return self.num_frames
        return self.family.num_frames(samples_at(speed, self.num_samples))

    def tokens_at(self, speed: float) -> int:
        """Length of the sequence with the audio that much faster."""
        if speed == 1.0:
            return self.num_tokens
        num_audio_tokens = self.family.num_audio_tokens
        return self.num_tokens + num_audio_tokens(self.frames_at(speed)) - num_audio_tokens(self.num_frames)


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
    prepared_dir: Path, split: str, family: Outline, targets: Targets, max_tokens: int, styles: "Styles | None" = None
) -> tuple[list[TrainExample], list[LedgerLine]]:
    """Utterances of `{split}-*.parquet` in the order of the files, and ledger lines of those that cannot be trained on.

    `max_tokens` is the longest sequence the model has positions for; a target is never shortened to fit it, nor audio
    to fit the family's `max_samples`. `styles` knows what the prompts of some sources say; None: all have `targets`'.
    """
    shards = sorted(prepared_dir.glob(f"{split}-*.parquet"))
    if not shards:
        raise DataError(f"no {split}-*.parquet in {prepared_dir}; run 'shibolet prepare' first")
    examples, ledger = [], []
    for shard in shards:
        # Shards of older versions name no sources, and only styles ask for them.
        table = list(read_shard(shard, "id", "text", "duration_s", *(["source"] if styles else [])))
        tokens = targets.encode([text for _, text, *_ in table]) if table else []
        for row, ((id, text, duration_s, *source), text_ids) in enumerate(zip(table, tokens, strict=True)):
            num_samples = round(duration_s * SAMPLE_RATE_HZ)
            num_frames = family.num_frames(num_samples)
            style = styles.by_source.get(source[0], "") if styles else ""
            frame = styles.frames[style] if style else targets.frame
            num_targets = frame.num_targets(len(text_ids))
            num_tokens = frame.num_tokens(family.num_audio_tokens(num_frames), len(text_ids))
            rule = detail = ""
            if not text.strip():
                rule, detail = "empty_text", "the target is empty"
            elif family.max_samples is not None and num_samples > family.max_samples:
                longest_s = family.max_samples / SAMPLE_RATE_HZ
                rule, detail = "too_long:audio", f"{duration_s:.2f} s, a {family.title} takes {longest_s:g} s at most"
            elif num_tokens > max_tokens:
                rule = "too_long:positions"
                room = max(0, max_tokens - (num_tokens - len(text_ids)))
                detail = (
                    f"the text has {len(text_ids)} tokens, and beside its audio and the prompt the model has positions "
                    f"for {room}; cut the utterance into shorter ones, or correct its text"
                )
            if rule:
                ledger.append(
                    LedgerLine(
                        id=id, source=shard.name, stage="train", rule=rule, detail=detail, duration_s=duration_s
                    )
                )  # fmt: skip
                continue
            examples.append(
                TrainExample(
                    id=id, audio=AudioRef(path=str(shard), row=row), text=text, text_ids=array("i", text_ids),
                    duration_s=duration_s, num_frames=num_frames, num_tokens=num_tokens, num_targets=num_targets,
                    family=family, style=style,
                )
            )  # fmt: skip
    if not examples:
        reasons = "; ".join(f"'{line.id}': {line.detail}" for line in ledger[:3])
        raise DataError(f"{prepared_dir}: none of {len(ledger)} {split} utterances can be trained on ({reasons})")
    return examples, ledger


def with_texts(
    examples: Sequence[TrainExample],
    texts: Mapping[str, str],
    targets: Targets,
    styles: "Styles | None",
    max_tokens: int,
) -> tuple[list[TrainExample], list[LedgerLine]]:
    """The examples, and after them their utterances once more with these other texts (by id); a line of one too long.

    Texts of utterances that are not among the examples are of ones that left, and leave with them.
    """
    found, lines = list(examples), []
    asked = [example for example in examples if example.id in texts]
    encoded = targets.encode([texts[example.id] for example in asked]) if asked else []
    for example, ids in zip(asked, encoded, strict=True):
        frame = styles.frames[example.style] if styles and example.style else targets.frame
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
