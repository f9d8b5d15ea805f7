"""What is heard together, and how: the unit of an audit's work, in this process, on any GPU, in any job of an array.

A chunk is heard by the processes that decode it and by the models of one place, and ends as one file of evidence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import BoundedSemaphore
from typing import Annotated

from pydantic import Field

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.evidence import to_line, write_lines
from shibolet.audit.workers import AnyWorker, Decoders, Load, WorkerLost, decode, run_each, weigh
from shibolet.listen.lazy import load_now
from shibolet.listen.long_audio import align
from shibolet.listen.protocols import Aligner, Alignment, ByName, Recogniser
from shibolet.records.utterance import AudioRef

NOT_IN_FILE = "the file of hypotheses has none of this utterance"
Job = tuple[str, Clip]  # a content id, and what is to be heard for it
Lost = dict[str, Evidence]  # by content id, what was given up as no fault of its own


@dataclass(frozen=True, kw_only=True)
class HearChunk:
    """The work: hear a chunk and put its evidence on disk; what was given up comes back."""

    aligner: Aligner | None
    recogniser: Recogniser | ByName
    folder: Path  # of the evidence
    load: Load
    config: AuditConfig
    language: str
    decoders: Decoders

    @property
    def at_once(self) -> int:
        return self.decoders.at_once

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Job]], Lost]]:
        load_now(self.aligner, self.recogniser)
        turns = BoundedSemaphore(2)  # one chunk is prepared while the models have the other
        with self.decoders:
            yield partial(self._hear, turns)

    def _hear(self, turns: BoundedSemaphore, jobs: Sequence[Job]) -> Lost:
        with self.decoders.borrow() as worker:
            found = self._evidence_of(turns, worker, [clip for _, clip in jobs])
        lines, lost = {}, {}
        for (content_id, clip), one in zip(jobs, found, strict=True):
            if isinstance(one, WorkerLost):
                lost[content_id] = given_up(clip, one)
            else:
                lines[content_id] = to_line(one) if isinstance(one, Evidence) else one
        if lines:
            write_lines(self.folder, lines)
        return lost

    def _evidence_of(
        self, turns: BoundedSemaphore, worker: AnyWorker, clips: Sequence[Clip]
    ) -> list[bytes | Evidence | WorkerLost]:
        """Of each clip the line of its evidence, the failure that it is, or why it was given up."""
        # What sounds the same is decoded once, and listeners get the same array for it.
        distinct = {(clip.audio, clip.change_audio): clip for clip in clips}
        sounds = decode_by(worker, list(distinct.values()), self.load, self.config)
        sound_of = dict(zip(distinct, sounds, strict=True))
        decoded = [sound_of[clip.audio, clip.change_audio] for clip in clips]
        known = None
        if hasattr(self.recogniser, "look_up"):
            known = self.recogniser.look_up([clip.key if clip.change_audio else clip.utterance for clip in clips])
        found: list[bytes | Evidence | WorkerLost | None] = [
            _failure(clip, one, not_in_file=known is not None and known[i] is None)
            for i, (clip, one) in enumerate(zip(clips, decoded, strict=True))
        ]
        usable = [i for i, failure in enumerate(found) if failure is None]
        if not usable:
            return found
        samples, words = [decoded[i][0] for i in usable], [list(clips[i].words) for i in usable]
        with turns:
            hearings = [known[i] for i in usable] if known else self.recogniser.hear(samples, words)
            alignments: list[Alignment | None] = [None] * len(usable)
            if self.aligner is not None:
                alignments = align(self.aligner, samples, words, hearings, self.config.aligner_max_s)
        material = [
            (clips[i], decoded[i][1], alignment, hearing, self.language)
            for i, alignment, hearing in zip(usable, alignments, hearings, strict=True)
        ]
        limit_s = lambda jobs: _limit_s([clip for clip, *_ in jobs], self.config)  # noqa: E731
        for i, line in zip(usable, run_each(worker, weigh, material, limit_s), strict=True):
            found[i] = line
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """What a recogniser hears at once."""

    window_s: Annotated[float, Field(gt=0)] | None  # None: of one that has no choice


@dataclass(frozen=True, kw_only=True)
class ChooseWindow:
    """The work: choose with which window a recogniser hears, on clips; None where they cannot be decoded."""

    recogniser: Recogniser
    load: Load
    config: AuditConfig
    decoders: Decoders
    at_once = 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Clip]], Window | None]]:
        load_now(self.recogniser)
        with self.decoders:
            yield self._choose

    def _choose(self, clips: Sequence[Clip]) -> Window | None:
        with self.decoders.borrow() as worker:
            decoded = zip(decode_by(worker, clips, self.load, self.config), clips, strict=True)
            usable = [(one[0], list(clip.words)) for one, clip in decoded if isinstance(one, tuple)]
        if not usable:
            return None
        return Window(self.recogniser.choose_window(*map(list, zip(*usable, strict=True))))


def decode_by(worker: AnyWorker, clips: Sequence[Clip], load: Load, config: AuditConfig) -> list:
    """What `decode` finds, WorkerLost for clips that a process was lost over again and again."""
    return run_each(worker, partial(decode, load=load), clips, partial(_limit_s, config=config))


def _limit_s(clips: Sequence[Clip], config: AuditConfig) -> float:
    """How long clips may take that are decoded together."""
    return config.decode_timeout_s + sum(clip.duration_s for clip in clips) / 10


def _failure(
    clip: Clip, found: tuple | Evidence | WorkerLost, not_in_file: bool = False
) -> Evidence | WorkerLost | None:
    """Why a clip cannot be heard; None for samples that a worker has `found`."""
    if isinstance(found, Evidence | WorkerLost):
        return found
    return Evidence(key=clip.key, failure="no_hypothesis", detail=NOT_IN_FILE) if not_in_file else None


def given_up(clip: Clip, lost: WorkerLost) -> Evidence:
    return Evidence(key=clip.key, failure=lost.reason, detail=str(lost))


def chunks_of(
    clips: Sequence[Clip], content_ids: Sequence[str], max_clips: int, max_audio_s: float
) -> Iterator[list[int]]:
    """Places of clips that are heard together, each content once; what sounds the same is in one chunk.

    Under one audio stand first the texts of it as it is, then those of each of its changes. A chunk goes over a limit
    only when it holds nothing but the texts of one sound.
    """
    first_with: dict[AudioRef | tuple, int] = {}
    for i, clip in enumerate(clips):
        first_with.setdefault(clip.audio, i)
        if clip.change_audio:
            first_with.setdefault((clip.audio, clip.change_audio), i)

    def sound(i: int) -> tuple[int, int]:
        clip = clips[i]
        changed = first_with[clip.audio, clip.change_audio] if clip.change_audio else -1
        return first_with[clip.audio], changed

    first_of: dict[str, int] = {}
    for i, content_id in enumerate(content_ids):
        first_of.setdefault(content_id, i)
    once = sorted(first_of.values(), key=lambda i: (*sound(i), i))
    chunk, audio_s = [], 0.0
    for _, same in groupby(once, key=sound):
        same = list(same)
        same_s = sum(clips[i].duration_s for i in same)
        if chunk and (len(chunk) + len(same) > max_clips or audio_s + same_s > max_audio_s):
            yield chunk
            chunk, audio_s = [], 0.0
        chunk += same
        audio_s += same_s
    if chunk:
        yield chunk
