"""How much audio a listener takes at once, and who may compute meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock

import numpy as np
import torch

from shibolet.records.cores import usable_cores
from shibolet.speech.audio import SAMPLE_RATE_HZ

LARGE_BYTES = 40 << 30  # of a GPU: 1.7B, its prefills and those of a second call leave room for rows
WARM_CLIP_S = 15  # the longest of ordinary clips
_CPU = Lock()


def forward_lock(device: torch.device) -> AbstractContextManager:
    """A lock for a model's forward: a GPU takes one of each model, and a CPU one of any, with all of its cores.

    Where torch's threads leave cores idle, a CPU takes one of each model too.
    """
    is_full = device.type == "cpu" and usable_cores() < 2 * torch.get_num_threads()
    return _CPU if is_full else Lock()


def calls_at_once(device: torch.device) -> int:
    """Calls of a recogniser that compute at the same time: on a GPU, while rows of one run empty, others are full.

    Their rows share its memory, so one has it where that is small.
    """
    is_large = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= LARGE_BYTES
    return 2 if is_large else 1


def own_stream(device: torch.device, *, urgent: bool = False) -> Callable[[], AbstractContextManager]:
    """A stream of a model's own: what a thread computes within it runs on a GPU beside what others compute.

    Only what is on the host by its end may leave it. Small steps are `urgent`: they go before others' large ones.
    """
    if device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)

    @contextmanager
    def entered() -> Iterator[None]:
        stream.wait_stream(torch.cuda.current_stream(device))  # where the weights may still be on their way
        with torch.cuda.stream(stream):
            yield

    return entered


def made_up_clips(max_s: float) -> list[np.ndarray]:
    """Noise that fills a pack of `max_s`, and a clip more: what takes time at first use is done on it."""
    rng = np.random.default_rng(0)
    clip = (0.05 * rng.standard_normal(WARM_CLIP_S * SAMPLE_RATE_HZ)).astype(np.float32)
    return [clip] * (int(max_s) // WARM_CLIP_S + 1)


def pack_audio_s(device: torch.device) -> float:
    """Seconds of audio of one pack: what fills a GPU's matrix units, or stays within a CPU's caches."""
    return 900.0 if device.type == "cuda" else 60.0


def by_audio(clips: Sequence[np.ndarray], max_s: float) -> Iterator[tuple[int, int]]:
    """First and last + 1 of runs of clips (mono, 16 kHz) that hold at most `max_s` of audio, or one clip."""
    first, total_s = 0, 0.0
    for i, clip in enumerate(clips):
        length_s = len(clip) / SAMPLE_RATE_HZ
        if i > first and total_s + length_s > max_s:
            yield first, i
            first, total_s = i, 0.0
        total_s += length_s
    if first < len(clips):
        yield first, len(clips)
