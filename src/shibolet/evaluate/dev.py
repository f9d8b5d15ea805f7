"""Scores of a model in training on the dev split."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.describe import summarise
from shibolet.listen.transcribe import Transcriber
from shibolet.model.encoder import encoder_hash, encoder_is_frozen
from shibolet.model.family import LoadedModel
from shibolet.records.ahead import Ahead
from shibolet.records.documents.scores import DevScores
from shibolet.records.files import hash_json
from shibolet.records.shards import read_shard
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.selection import fold_sums
from shibolet.speech import audio
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Language

ShareOut = Callable[[Callable[[Sequence], list], Sequence], list]  # (work, items) -> work(items), done by several


MOST_ROWS = 128  # decoded at once where nobody says another number; 11 GB at the real size
KEPT_BELOW_FRAC = 0.85  # of a GPU's memory: a later phase takes more of it

_OF_UTTERANCE = ("id", "text", "duration_s", "domain", "recording", "speaker")


@dataclass(frozen=True, slots=True)
class DevRow:
    """A row of the prepared dev shards."""

    utterance: Utterance
    flac: bytes


@dataclass(frozen=True, slots=True)
class ScoreDev:
    """Scores a model; between two scores it may keep memory of the GPU, until `release`.

    `release` says whether there was anything to let go of.
    """

    score: Callable[[LoadedModel], DevScores]
    release: Callable[[], bool]
    ids: frozenset[str] = frozenset()  # of the utterances that are scored

    def __call__(self, loaded: LoadedModel) -> DevScores:
        return self.score(loaded)


def read_dev(prepared_dir: Path, *, with_source: bool = False) -> list[DevRow]:
    """The dev split; empty where there is none. Shards of older versions name no sources, and only styles need them."""
    names = [*_OF_UTTERANCE, *(["source"] if with_source else [])]
    return [
        DevRow(Utterance(audio=AudioRef(path=""), **{"source": "dev", **dict(zip(names, values, strict=True))}), flac)
        for shard in sorted(prepared_dir.glob("dev-*.parquet"))
        for flac, *values in read_shard(shard, "audio", *names)
    ]


def dev_scorer(
    rows: Iterable[DevRow],
    language: str,
    config: EvaluateConfig,
    share_out: ShareOut | None = None,
    styles: Mapping[str, str] | None = None,
) -> ScoreDev:
    """What scores a model, which must be in evaluation mode, on the dev set.

    Of more than `config.dev_utterances` rows always the same are taken, by the hash of their ids. Audio is decoded
    once, from now on, and asked for at the first score. With `share_out` several processes transcribe a part each, and
    all have the score. `styles` are what prompts say of how to write, by source, as in training.
    """
    spoken = get_language(language)
    rows = list(rows)
    chosen = set(sorted((row.utterance.id for row in rows), key=hash_json)[: config.dev_utterances])
    rows = [row for row in rows if row.utterance.id in chosen]
    utterances, decoded = [row.utterance for row in rows], Ahead(lambda: [_decoded(row) for row in rows])
    if not any(spoken.to_scoring(utterance.text) for utterance in utterances):
        raise DataError("the dev set has no words to score; raise prepare.dev_frac")

    places = _places_by_style(utterances, styles or {})

    def new_transcriber(loaded: LoadedModel, keep_encoded: bool, style: str) -> Transcriber:
        most = min(MOST_ROWS, loaded.family.clips_at_once(loaded.model.device.type, beam_size=1))
        settings = config.greedy.engine_settings(style) | {"batch_utterances": config.batch_utterances or most}
        return Transcriber(loaded, spoken.name, keep_encoded=keep_encoded, **settings)

    kept = {style: _Kept(partial(new_transcriber, style=style)) for style in places}

    def score(loaded: LoadedModel) -> DevScores:
        clips = decoded.get()
        _check_lengths(loaded, utterances, clips)
        texts = [""] * len(clips)
        for style, own in places.items():
            some = [clips[place] for place in own]
            with kept[style].transcriber(loaded) as transcriber:
                found = share_out(transcriber.transcribe, some) if share_out else transcriber.transcribe(some)
            for place, text in zip(own, found, strict=True):
                texts[place] = text
        scored = _scored(utterances, texts, spoken)
        return DevScores(**dict(summarise(scored, config.buckets_s)), folds=fold_sums(scored))

    return ScoreDev(score, lambda: any([one.release() for one in kept.values()]), frozenset(chosen))


def transcribe_rows(
    loaded: LoadedModel, rows: Sequence[DevRow], language: str, config: EvaluateConfig, styles: Mapping[str, str]
) -> list[ScoredRow]:
    """The scored row of each, of a model in evaluation mode; greedy and in these styles, as dev is in a training."""
    spoken, utterances, clips = get_language(language), [row.utterance for row in rows], [_decoded(row) for row in rows]
    _check_lengths(loaded, utterances, clips)
    texts = [""] * len(clips)
    for style, own in _places_by_style(utterances, styles).items():
        transcriber = Transcriber(loaded, spoken.name, **config.greedy.engine_settings(style))
        for place, text in zip(own, transcriber.transcribe([clips[place] for place in own]), strict=True):
            texts[place] = text
    return _scored(utterances, texts, spoken)


def _scored(utterances: Sequence[Utterance], texts: Sequence[str], spoken: Language) -> list[ScoredRow]:
    return [
        score_row(utterance, text, set="dev", normaliser=spoken.to_scoring)
        for utterance, text in zip(utterances, texts, strict=True)
    ]


def _places_by_style(utterances: Sequence[Utterance], styles: Mapping[str, str]) -> dict[str, list[int]]:
    """The places of each style, in one order on every rank; `styles` are by source."""
    places: dict[str, list[int]] = {}
    for place, utterance in enumerate(utterances):
        places.setdefault(styles.get(utterance.source, ""), []).append(place)
    return places


class _Kept:
    """A transcriber for one score, and for the next where that costs the steps in between no memory.

    Made anew it has to get its rows, and on a GPU to capture its graphs, which takes as long as decoding. On a CPU it
    is kept for what a frozen encoder made, which is most of a Whisper's score.
    """

    def __init__(self, new: Callable[[LoadedModel, bool], Transcriber]) -> None:
        self._new = new
        self._transcriber: Transcriber | None = None
        self._bound_to: tuple[list[int], str | None] = ([], None)  # addresses of weights, which graphs hold; encoder

    @contextmanager
    def transcriber(self, loaded: LoadedModel) -> Iterator[Transcriber]:
        model, device = loaded.model, loaded.model.device
        encoder = encoder_hash(model) if device.type == "cpu" and encoder_is_frozen(model) else None
        bound_to = ([weight.data_ptr() for weight in model.parameters()], encoder)
        held, self._transcriber = self._transcriber, None
        if held is None or bound_to != self._bound_to:
            held = None  # its memory goes before the next one's is taken
            held, self._bound_to = self._new(loaded, encoder is not None), bound_to
        room = _Room(device) if device.type == "cuda" else None
        yield held
        if room.is_left() if room else encoder:
            self._transcriber = held

    def release(self) -> bool:
        """Let go of what is kept, for steps that need its memory; whether there was anything."""
        if self._transcriber is None:
            return False
        self._transcriber = None
        torch.cuda.empty_cache()
        return True


class _Room:
    """Whether a GPU's memory holds what training had reserved before a score beside what the score left."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reserved, self._allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)

    def is_left(self) -> bool:
        free, total = torch.cuda.mem_get_info(self._device)
        of_others = total - free - torch.cuda.memory_reserved(self._device)
        kept = torch.cuda.memory_allocated(self._device) - self._allocated
        return self._reserved + kept + of_others < KEPT_BELOW_FRAC * total


def _check_lengths(loaded: LoadedModel, utterances: Sequence[Utterance], clips: Sequence[np.ndarray]) -> None:
    """DataError for the first clip that is longer than the model's family takes."""
    if (most := loaded.family.max_samples) is None:
        return
    most_s = most / audio.SAMPLE_RATE_HZ
    for utterance, clip in zip(utterances, clips, strict=True):
        if len(clip) > most:
            raise DataError(
                f"dev utterance '{utterance.id}' has {len(clip) / audio.SAMPLE_RATE_HZ:.2f} s and a "
                f"{loaded.family.title} takes {most_s:g} s at most; set prepare.max_duration_s to {most_s:g} or less "
                "and run 'shibolet prepare' again"
            )


def _decoded(row: DevRow) -> np.ndarray:
    try:
        samples, rate_hz = sf.read(io.BytesIO(row.flac), dtype="float32")
    except sf.LibsndfileError as error:
        raise DataError(
            f"dev utterance '{row.utterance.id}' cannot be decoded ({error}); run 'shibolet prepare' again"
        ) from error
    if rate_hz != audio.SAMPLE_RATE_HZ or samples.ndim != 1:
        raise DataError(f"dev utterance '{row.utterance.id}' is not mono at 16,000 Hz; run 'shibolet prepare' again")
    return samples
