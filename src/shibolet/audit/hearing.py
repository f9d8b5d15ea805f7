"""Listening to clips in chunks that are put on disk as they come; a chunk that is there is not heard again.

A clip is an utterance, or a damaged copy of one for the self-test. Chunks are cut from the whole list before anything
is looked up, so that what was cut off continues with the same batches and ends with the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals, measure
from shibolet.errors import AudioError
from shibolet.listen.long_audio import align_in_pieces
from shibolet.listen.protocols import Aligner, Alignment, Hearing, Recogniser
from shibolet.records.files import hash_json, read_json, write_json
from shibolet.records.utterance import AudioRef

VERSION = 6  # of the signals; raising it makes every chunk be heard again
AudioChange = Callable[[np.ndarray, np.random.Generator], np.ndarray]
TimesChange = Callable[[Alignment, float, np.random.Generator], Alignment]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What is to be heard, and how it is to be changed before or after for the self-test."""

    key: str  # unique; with the content it names the cached evidence
    audio: AudioRef
    words: tuple[str, ...]
    verifiable: tuple[bool, ...]
    change_audio: AudioChange | None = None
    change_times: Mapping[str, TimesChange] = field(default_factory=dict)  # kind -> a second evidence, `kind/key`


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Signals of a clip with what a person wants to see; or why there are none."""

    key: str
    failure: str | None = None  # a ledger rule: undecodable, too_short, ...
    detail: str = ""
    hypothesis: str = ""
    starts_s: tuple[float, ...] = ()  # of each word, raw
    ends_s: tuple[float, ...] = ()
    signals: Signals | None = None


class Listener:
    """An aligner and a recogniser with a folder of what they heard before."""

    def __init__(
        self, aligner: Aligner, recogniser: Recogniser, cache_dir: Path, load: Callable, config: AuditConfig
    ) -> None:
        self.identities = (aligner.identity, recogniser.identity)
        self._aligner, self._recogniser = aligner, recogniser
        self._cache_dir, self._load = cache_dir, load
        self._hearing, self._aligning = Lock(), Lock()  # two chunks at a time: one is heard while the other is aligned
        self._chunk, self._max_piece_s = config.chunk_utterances, config.aligner_max_s

    def hear(self, clips: Sequence[Clip], on_progress: Callable[[int, int], None] | None = None) -> dict[str, Evidence]:
        """Evidence by key, for every clip."""
        found: dict[str, Evidence] = {}
        # A clip and its copies stand together: those that share their audio have it decoded and heard once.
        clips = sorted(clips, key=lambda clip: (clip.key.rpartition("/")[2], clip.key))
        chunks = [clips[first : first + self._chunk] for first in range(0, len(clips), self._chunk)]
        done = 0
        with ThreadPoolExecutor(2, initializer=_share_cores) as pool:
            for chunk, rows in zip(chunks, pool.map(self._chunk_rows, chunks), strict=True):
                for row in rows:
                    signals = Signals(**row["signals"]) if row["signals"] else None
                    found[row["key"]] = Evidence(**{**row, "signals": signals})
                done += len(chunk)
                if on_progress:
                    on_progress(done, len(clips))
        return found

    def _chunk_rows(self, chunk: Sequence[Clip]) -> list[dict]:
        """Evidence of one chunk as it stands on disk, heard first where it is not there."""
        parts = [[c.key, asdict(c.audio), c.words, sorted(c.change_times)] for c in chunk]
        path = self._cache_dir / f"{hash_json([VERSION, self.identities, self._max_piece_s, parts])}.json"
        if not path.exists():
            write_json(path, [asdict(evidence) for evidence in self._hear_chunk(chunk)])
        return read_json(path)

    def _hear_chunk(self, chunk: Sequence[Clip]) -> list[Evidence]:
        samples_of: dict[AudioRef, np.ndarray | AudioError] = {}
        loaded = [self._load_clip(clip, samples_of) for clip in chunk]
        usable = [(c, s) for c, s in zip(chunk, loaded, strict=True) if isinstance(s, np.ndarray)]
        clips, samples = [c for c, _ in usable], [s for _, s in usable]
        words = [list(clip.words) for clip in clips]
        hearings, alignments = [], []
        if clips:
            with self._hearing:
                hearings = self._recogniser.hear(samples, words)
            with self._aligning:
                alignments = align_in_pieces(self._aligner, samples, words, hearings, self._max_piece_s)
        found = [s for s in loaded if isinstance(s, Evidence)]
        for clip, heard, alignment, hearing in zip(clips, samples, alignments, hearings, strict=True):
            found.append(_evidence(clip.key, clip, heard, alignment, hearing))
            for kind, change in clip.change_times.items():
                changed = change(alignment, len(heard) / 16000, _rng(clip))
                found.append(_evidence(f"{kind}/{clip.key}", clip, heard, changed, hearing))
        return found

    def _load_clip(self, clip: Clip, samples_of: dict[AudioRef, np.ndarray | AudioError]) -> np.ndarray | Evidence:
        if clip.audio not in samples_of:
            try:
                samples_of[clip.audio] = self._load(clip.audio)
            except AudioError as error:
                samples_of[clip.audio] = error
        samples = samples_of[clip.audio]
        if isinstance(samples, AudioError):
            return Evidence(key=clip.key, failure=samples.reason, detail=str(samples))
        if clip.change_audio:
            samples = clip.change_audio(samples, _rng(clip))
        if len(samples) < 1600:
            return Evidence(key=clip.key, failure="too_short", detail=f"{len(samples) / 16000:.2f} s of audio")
        return samples


def _evidence(key: str, clip: Clip, samples: np.ndarray, alignment: Alignment, hearing: Hearing) -> Evidence:
    signals = measure(samples, clip.words, clip.verifiable, alignment, hearing)
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in signals.to_json().items()}
    return Evidence(
        key=key,
        hypothesis=hearing.hypothesis,
        starts_s=tuple(round(float(t), 3) for t in alignment.starts_s),
        ends_s=tuple(round(float(t), 3) for t in alignment.ends_s),
        signals=replace(signals, **rounded),
    )


def _share_cores() -> None:
    """Half of the cores to each of the two threads; more would only make them wait for each other."""
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))


def _rng(clip: Clip) -> np.random.Generator:
    return np.random.default_rng(int(hash_json(clip.key), 16))
