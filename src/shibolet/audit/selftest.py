"""The instrument's test on itself: does it notice damage, and does it leave harmless copies alone?

Its material are copies of the very clips that are judged: they always have the right voices, noise and language. It
has to hold in each domain that is judged: an instrument that is deaf in one of two passes a test of both together.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shibolet.audit.audio_changes import Gain, NoSpeech, Speed
from shibolet.audit.damage import (
    Row,
    babbled,
    cut_audio,
    cut_text,
    edited,
    shuffle_letters,
    sounding,
    substitute,
    swapped,
)
from shibolet.records.documents.alignment import SelfTest, SelfTestTallies, Tally

UNTOUCHED = "untouched"
NOISE_DB = 10.0
# Damage of a part of the text: the map does not learn from it, no limit of the gate is held against it, and it costs no
# sound of its own. A probability is fitted on it too, and the report says how much of it is found.
MILD_ROWS = (
    Row(kind="fifth_substituted", change=edited(0.2, substitute)),
    Row(kind="text_quarter_cut", change=cut_text(0.25, "either")),
)
ROWS = (
    Row(kind="swapped", change=swapped("nearest length")),
    Row(kind="text_halved", change=cut_text(0.5, "either")),
    Row(kind="audio_halved", change=cut_audio(0.5, "either")),
    Row(kind="silent", change=sounding(NoSpeech("silence"))),
    Row(kind="shuffled_letters", change=shuffle_letters),
    Row(kind="quieter", harmless=True, change=sounding(Gain(-6.0))),
    Row(kind="faster", harmless=True, change=sounding(Speed(1.05))),
    Row(kind="slower", harmless=True, change=sounding(Speed(0.95))),
    Row(kind="in_babble", harmless=True, change=babbled(NOISE_DB)),
    *MILD_ROWS,
)
MILD = tuple(row.name for row in MILD_ROWS)
DAMAGES = tuple(row.name for row in ROWS if not row.harmless and row.name not in MILD)  # the map learns from these
# Noise teaches the map and its line what may still be good; a verdict that changes in it is no fault of the instrument.
TAUGHT = tuple(row.name for row in ROWS if row.harmless)
HARMLESS = ("quieter", "faster", "slower")
# Copies at most, of sounds that are heard for their own sake: 240 harmless ones together show a share of 5%.
MOST = {"quieter": 80, "faster": 80, "slower": 80, "silent": 80, "in_babble": 120}
NUM_FOLDS = 5  # a map of four fifths of the clips is nearly the one that judges; of half of 25 clips it is a poor one
MAX_CLUSTER_FRAC = 0.5  # of a domain's clips; a larger cluster is dealt out
MIN_CLIPS = 20  # of a domain; one with fewer is named as untested
MIN_LONG = 20  # clips of `min_words` or more; where there are fewer, clips of any length count
Flags = Mapping[str, Mapping[str, bool]]  # by kind, by key of the clip: whether it is low quality


def has_copy(kind: str, place: int, num: int) -> bool:
    """Whether the clip at this place of `num`, counted from 0, has a copy of this kind: spread evenly."""
    most = min(MOST.get(kind, num), num)
    place += list(MOST).index(kind) if kind in MOST else 0  # not all kinds of the same clips
    return place * most // num != (place + 1) * most // num


def num_copies(num: int) -> int:
    """How many copies so many clips have."""
    return sum(min(MOST.get(row.kind, num), num) for row in ROWS)


def summarise(flagged: Flags, num_words: Mapping[str, int], domains: Mapping[str, str], min_words: int) -> SelfTest:
    """Tallies of `flagged`, where kind "untouched" holds the clips as they are: of all clips, and by domain.

    `domains` are of all clips that are judged: a domain without one that was tested is named too.

    Damage is tallied over clips of `min_words` words or more, where there are enough of them.
    """
    members: dict[str, list[str]] = {domain: [] for domain in domains.values()}
    for key in flagged[UNTOUCHED]:
        members[domains[key]].append(key)
    tested = {name: keys for name, keys in sorted(members.items()) if len(keys) >= MIN_CLIPS}
    tallies = lambda keys: _tallies(flagged, keys, num_words, min_words)  # noqa: E731
    return SelfTest(
        **tallies(list(flagged[UNTOUCHED])),
        domains={name: SelfTestTallies(**tallies(keys)) for name, keys in tested.items()},
        untested={name: len(keys) for name, keys in sorted(members.items()) if name not in tested},
    )


def _tallies(flagged: Flags, keys: Sequence[str], num_words: Mapping[str, int], min_words: int) -> dict[str, Any]:
    untouched, found = flagged[UNTOUCHED], {}
    for kind in (*DAMAGES, *MILD):
        rows = {key: flagged[kind][key] for key in keys if key in flagged.get(kind, {})}
        long = [hit for key, hit in rows.items() if num_words[key] >= min_words]
        found[kind] = _tally(long if len(long) >= MIN_LONG else rows.values())
    changed = [
        flagged[kind][key] != untouched[key] for kind in HARMLESS for key in keys if key in flagged.get(kind, {})
    ]
    return {
        "damaged": {kind: found[kind] for kind in DAMAGES},
        "mild": {kind: found[kind] for kind in MILD},
        "harmless": _tally(changed),
        UNTOUCHED: _tally(untouched[key] for key in keys),
    }


def _tally(hits: Iterable[bool]) -> Tally:
    hits = list(hits)
    return Tally(hits=sum(hits), total=len(hits))


def folds(keys: Iterable[str], cluster_of: Mapping[str, str], domains: Mapping[str, str]) -> list[list[str]]:
    """Clips in `NUM_FOLDS` parts, each judged by a map of the others; no recording or speaker is in two.

    By rank and not by the hash itself, which puts 8 of 12 on one side: clusters go, the largest first, to the part
    that has the fewest clips of their domain. Where a domain is mostly one cluster, its clips are dealt out by rank:
    else the map that judges it would never have heard it.
    """
    members: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        members.setdefault((domains[key], cluster_of[key]), []).append(key)
    size = Counter(domain for (domain, _), own in members.items() for _ in own)
    groups: list[tuple[str, str, list[str]]] = []
    for (domain, cluster), own in members.items():
        is_most = len(own) > MAX_CLUSTER_FRAC * size[domain]
        groups += [(domain, key, [key]) for key in own] if is_most else [(domain, cluster, own)]
    found: list[list[str]] = [[] for _ in range(NUM_FOLDS)]
    counts = [Counter() for _ in range(NUM_FOLDS)]
    part_of: dict[str, int] = {}  # of a cluster that stands in several domains
    for domain, name, own in sorted(groups, key=lambda group: (-len(group[2]), _lot(group[1]))):
        fewest = min(range(NUM_FOLDS), key=lambda i: (counts[i][domain], len(found[i]), i))
        part = part_of.setdefault(name, fewest)
        found[part].extend(own)
        counts[part][domain] += len(own)
    return [part for part in found if part]


def _lot(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
