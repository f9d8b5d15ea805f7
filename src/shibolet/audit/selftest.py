"""The instrument's test on itself: does it notice damage, and does it leave harmless copies alone?

Its material are copies of the very clips that are judged: they always have the right voices, noise and language.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from shibolet.audit.clip import Clip
from shibolet.audit.damage import Gain, NoSpeech, Row, Speed, cut_audio, cut_text, shuffle_letters, sounding, swapped
from shibolet.listen.protocols import Alignment

ROWS = (
    Row(kind="swapped", change=swapped("nearest length")),
    Row(kind="text_halved", change=cut_text(0.5, "either")),
    Row(kind="audio_halved", change=cut_audio(0.5, "either")),
    Row(kind="silent", change=sounding(NoSpeech("silence"))),
    Row(kind="shuffled_letters", change=shuffle_letters),
    Row(kind="quieter", harmless=True, change=sounding(Gain(-6.0))),
    Row(kind="faster", harmless=True, change=sounding(Speed(1.05))),
    Row(kind="slower", harmless=True, change=sounding(Speed(0.95))),
)
FITTED = tuple(row.name for row in ROWS if not row.harmless)  # the confidence map learns from these
HARMLESS = tuple(row.name for row in ROWS if row.harmless)
TIMES = ("constant_times", "random_times")  # a broken aligner's answer to an untouched clip
DAMAGES = (*FITTED, *TIMES)


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
