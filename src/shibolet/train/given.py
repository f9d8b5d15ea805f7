"""What an epoch gives the decoder beside the audio, and asks of it: the text before, and timestamps in the text.

Drawn from (seed, epoch, utterance id) and nothing else, as the augmentation is. Until an epoch draws, an utterance
stands there in its longest form, so that plans of memory hold for every epoch.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from shibolet.errors import RecipeError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Frame, Targets, TimedIds
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.whisper_slices import parse_slice
from shibolet.train.augment import augmentation_of
from shibolet.train.config import AugmentConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.draws import Stream, generator

AS_IT_IS = 1.0, 0.0  # how much faster an utterance is heard, and the seconds of quiet before it


@dataclass(frozen=True, slots=True)
class Beside:
    """What the data have of an utterance beside its text, in tokens."""

    previous_ids: Sequence[int]
    segments: tuple[TimedIds, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How often what an utterance's data have beside its text is trained with; shared by all utterances."""

    previous_frac: float
    timestamps_frac: float
    seed: int
    augment: AugmentConfig | None  # faster speech has earlier times, speech after a pause has later ones

    @classmethod
    def of(cls, config: TrainConfig, family: Outline, seed: int) -> "Drawing | None":
        """The recipe's, or the family's where it does not say; None where nothing is ever drawn.

        A training that learns from more than the references draws nothing (`TrainConfig`). RecipeError for what the
        family cannot do.
        """
        if not config.learns_references_alone:
            return None
        if config.timestamps_frac and not family.writes_timestamps:
            raise RecipeError(
                f"train.timestamps_frac is {config.timestamps_frac:g}, and a {family.title} writes no timestamps; its "
                "forced aligner finds the times of words: leave it out"
            )
        previous, timestamps = config.previous_text_frac, config.timestamps_frac
        previous = family.previous_text_frac if previous is None else previous
        timestamps = family.timestamps_frac if timestamps is None else timestamps
        return cls(previous, timestamps, seed, config.augment) if previous or timestamps else None

    def draw(self, example: TrainExample, epoch: int) -> tuple[bool, bool]:
        """Whether the epoch gives it its previous text, and whether it asks for timestamps."""
        drawn = generator(self.seed, epoch, example.id, Stream.GIVEN).random(2)
        return bool(drawn[0] < self.previous_frac), bool(drawn[1] < self.timestamps_frac)

    def timing(self, example: TrainExample, epoch: int) -> tuple[float, float]:
        """The factor by which the epoch hears it faster, and the seconds of quiet before it."""
        augmentation = augmentation_of(self.augment, self.seed, example, epoch)
        return (augmentation.speed, augmentation.pauses[0] / SAMPLE_RATE_HZ) if augmentation else AS_IT_IS

    def beside(self, rows: Iterable[tuple[str | None, str | None]], targets: Targets) -> Iterator[Beside]:
        """What each utterance's previous text and text between timestamps are in tokens, where they are ever drawn."""
        found = [
            (previous or "" if self.previous_frac else "", parse_slice(timed or "" if self.timestamps_frac else ""))
            for previous, timed in rows
        ]
        texts = [text for previous, timed in found for text in (previous, *(one.text for one in timed.segments))]
        ids = iter(targets.encode(texts) if texts else ())
        for _, timed in found:
            yield Beside(next(ids), tuple((one.start_s, one.end_s, array("i", next(ids))) for one in timed.segments))

    def with_forms(self, example: TrainExample, beside: Beside, frame: Frame, max_tokens: int) -> TrainExample:
        """An utterance with its forms, in the longest; itself where its data have nothing beside its text.

        A text with timestamps that the model has no positions for is never drawn, and a previous text is cut at its
        start to what there is room for.
        """
        family, segments, plain = example.family, beside.segments, example.num_tokens
        timed = 0
        if segments:
            num_text = len(frame.with_times(segments))
            timed = frame.given((), True).num_tokens(family.num_audio_tokens(example.num_frames), num_text)
        if timed > max_tokens:
            segments, timed = (), 0
        room = max_tokens - max(plain, timed) - 1  # what opens a previous text takes one
        most = min(room, family.max_previous_tokens)
        previous = array("i", beside.previous_ids[-most:] if most > 0 else ())
        if not (previous or segments):
            return example
        return Forms(self, frame, example.text_ids, previous, segments).longest(example)


@dataclass(frozen=True, slots=True)
class Forms:
    """The ways in which an epoch may have one utterance."""

    drawing: Drawing
    frame: Frame  # of its prompt alone
    text_ids: array  # its tokens without timestamps, int32
    previous_ids: array  # int32; empty: it has no previous text
    segments: tuple[TimedIds, ...]  # of its text with timestamps; empty: it has none, or no room for them

    @property
    def identity(self) -> list:
        """What of it decides a weight, as plain data."""
        return [list(self.previous_ids), [[start, end, list(ids)] for start, end, ids in self.segments]]

    def in_epoch(self, example: TrainExample, epoch: int) -> TrainExample:
        """The utterance as the epoch has it."""
        with_previous, timed = self.drawing.draw(example, epoch)
        timing = self.drawing.timing(example, epoch) if timed and self.segments else AS_IT_IS
        return self._laid(example, with_previous, timed, timing)

    def longest(self, example: TrainExample) -> TrainExample:
        """The utterance as it is longest; epochs are drawn from that."""
        return replace(self._laid(example, True, True, AS_IT_IS), forms=self)

    def _laid(
        self, example: TrainExample, with_previous: bool, timed: bool, timing: tuple[float, float]
    ) -> TrainExample:
        timed = timed and bool(self.segments)
        text_ids = array("i", self.frame.with_times(self.segments, *timing)) if timed else self.text_ids
        frame = self.frame.given(self.previous_ids if with_previous else (), timed)
        family = example.family
        return replace(
            example, text_ids=text_ids, frame=frame, forms=None, num_targets=frame.num_targets(len(text_ids)),
            num_tokens=frame.num_tokens(family.num_audio_tokens(example.num_frames), len(text_ids)),
        )  # fmt: skip
