"""The instrument's test on itself: does it notice damage, and does it leave harmless copies alone?

Its material are copies of the very clips that are judged: they always have the right voices, noise and language.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from shibolet.audit.hearing import Clip
from shibolet.listen.protocols import Alignment
from shibolet.speech.augment import change_speed, scale_gain

FITTED = ("swapped", "text_halved", "audio_halved", "silent", "other_text")  # the confidence map learns from these
TIMES = ("constant_times", "random_times")  # a broken aligner's answer to an untouched clip
DAMAGES = (*FITTED, *TIMES)
HARMLESS = ("quieter", "faster", "slower")
MIN_DIFFERENT = 0.6  # of the words of a swapped transcript


def copies(clips: Sequence[Clip], seed: int) -> dict[str, list[Clip]]:
    """By kind, a changed copy of each clip, keyed `kind/key`; kinds that a clip is too small for leave it out.

    The kinds of `TIMES` need no copy: `with_broken_times` asks for them beside the clip itself.
    """
    rng = random.Random(seed)
    made: dict[str, list[Clip]] = {kind: [] for kind in (*FITTED, *HARMLESS)}
    for clip in clips:
        if other := _other_text(clip, clips, rng):
            made["swapped"].append(_texted(clip, "swapped", other.words, other.verifiable))
        if len(clip.words) >= 4:
            half = len(clip.words) // 2
            part = slice(half) if rng.random() < 0.5 else slice(half, None)
            made["text_halved"].append(_texted(clip, "text_halved", clip.words[part], clip.verifiable[part]))
            made["audio_halved"].append(
                _changed(clip, "audio_halved", _first_half if rng.random() < 0.5 else _last_half)
            )
        shuffled = tuple("".join(rng.sample(word, len(word))) for word in clip.words)
        made["other_text"].append(_texted(clip, "other_text", shuffled, clip.verifiable))
        made["silent"].append(_changed(clip, "silent", _silence))
        made["quieter"].append(_changed(clip, "quieter", _quieter))
        made["faster"].append(_changed(clip, "faster", _faster))
        made["slower"].append(_changed(clip, "slower", _slower))
    return made


def summarise(flagged: dict[str, dict[str, bool]], num_words: dict[str, int], min_words: int) -> dict:
    """Tallies of `flagged[kind][clip key]`, where kind "untouched" holds the clips as they are.

    Damage is tallied over clips of `min_words` words or more, where there are ten or more of them.
    """
    untouched = flagged["untouched"]
    damaged = {}
    for kind in DAMAGES:
        rows = flagged.get(kind, {})
        long = [hit for key, hit in rows.items() if num_words[key] >= min_words]
        damaged[kind] = _tally(long if len(long) >= 10 else rows.values())
    changed = [hit != untouched[key] for kind in HARMLESS for key, hit in flagged.get(kind, {}).items()]
    return {"damaged": damaged, "harmless": _tally(changed), "untouched": _tally(untouched.values())}


def _tally(hits: Iterable[bool]) -> dict[str, int]:
    hits = list(hits)
    return {"hits": sum(hits), "total": len(hits)}


def _texted(clip: Clip, kind: str, words: Sequence[str], verifiable: Sequence[bool]) -> Clip:
    return replace(clip, key=f"{kind}/{clip.key}", words=tuple(words), verifiable=tuple(verifiable))


def _changed(clip: Clip, kind: str, change) -> Clip:
    return replace(clip, key=f"{kind}/{clip.key}", change_audio=change)


def _other_text(clip: Clip, clips: Sequence[Clip], rng: random.Random) -> Clip | None:
    """Another clip, most of whose words are not in this one, of similar length where one of twenty draws is."""
    drawn = [rng.choice(clips) for _ in range(20)]
    differing = [
        other for other in drawn
        if any(other.verifiable) and sum(w not in clip.words for w in other.words) >= MIN_DIFFERENT * len(other.words)
    ]  # fmt: skip
    return min(differing, key=lambda other: abs(len(other.words) - len(clip.words)), default=None)


def _first_half(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples[: len(samples) // 2]


def _last_half(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples[len(samples) // 2 :]


def _silence(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise 60 dB under full scale, as a microphone gives that nobody speaks into."""
    return (1e-3 * rng.standard_normal(len(samples))).astype(np.float32)


def _quieter(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return scale_gain(samples, -6.0)


def _faster(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return change_speed(samples, 1.05)


def _slower(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return change_speed(samples, 0.95)


def with_broken_times(clip: Clip) -> Clip:
    return replace(clip, change_times={"constant_times": _constant, "random_times": _random})


def _constant(alignment: Alignment, duration_s: float, rng: np.random.Generator) -> Alignment:
    middle = np.full_like(alignment.starts_s, duration_s / 2)
    return replace(alignment, starts_s=middle, ends_s=middle.copy())


def _random(alignment: Alignment, duration_s: float, rng: np.random.Generator) -> Alignment:
    times = rng.uniform(0, duration_s, (2, len(alignment.starts_s)))
    return replace(alignment, starts_s=times[0], ends_s=times[1])


def fold_of(key: str) -> int:
    """0 or 1 from the key: half of the clips fits the map that is tested on the other half."""
    return hashlib.sha256(key.encode()).digest()[0] % 2
