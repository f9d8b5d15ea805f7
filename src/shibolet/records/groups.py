"""Utterances that share their fate: those of one speaker or of one recording, joined where either is shared.

The same name in two sources, or in two sets, counts as the same: to take two for one costs a split nothing and widens
an interval; to take one for two leaks, and makes an interval too narrow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shibolet.records.files import hash_json

Key = tuple[int, str]  # the first in order names a group
OWN = 2  # first in the key that an utterance shares with none


class Spoken(Protocol):
    """What is known of who speaks and where."""

    @property
    def recording(self) -> str | None: ...

    @property
    def speaker(self) -> str | None: ...


def keys_of(own: str, recording: str | None, speaker: str | None) -> list[Key]:
    """What an utterance may share with others, and `own`, the name that it shares with none."""
    keys = [(OWN, own)]
    if recording is not None:
        keys.append((1, f"recording {recording}"))
    if speaker is not None:
        keys.append((0, f"speaker {speaker}"))
    return keys


def cluster_of(source: str, recording: str | None, speaker: str | None) -> str | None:
    """What shares its fate in an audit: a recording; of unknown recordings a speaker; None where neither is known."""
    if recording is not None:
        return f"{source}/{recording}"
    return None if speaker is None else f"{source}/speaker {speaker}"


def connected(keys: Sequence[Sequence[Key]]) -> list[str]:
    """For each list of keys the name of the first key, in order, among all that it is connected with."""
    parent: dict[Key, Key] = {}

    def root(key: Key) -> Key:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for given in keys:
        for key in given:
            first, second = sorted((root(given[0]), root(key)))
            parent[second] = first
    return [root(given[0])[1] for given in keys]


def halves(groups: Sequence[str], lengths: Sequence[float], seed: int) -> list[int]:
    """0 or 1 for each member: two parts of about equal length, by whole groups in an order that the seed decides."""
    total: dict[str, float] = {}
    for group, length in zip(groups, lengths, strict=True):
        total[group] = total.get(group, 0.0) + length
    of_parts, part_of = [0.0, 0.0], {}
    for group in sorted(total, key=lambda group: hash_json([seed, group])):
        part = int(of_parts[1] < of_parts[0])
        of_parts[part] += total[group]
        part_of[group] = part
    return [part_of[group] for group in groups]


@dataclass(frozen=True, slots=True)
class Counted:
    """What an interval counts as independent."""

    number: int  # of groups
    words: str  # "40 groups of recordings and speakers", "12 speakers", "46 utterances"
    caveat: str | None  # why the interval may be too narrow; without a capital and a full stop


def count_groups(members: Iterable[Spoken], groups: Sequence[str]) -> Counted:
    """The groups of some utterances, in words; `groups` are the names that `connected` gave."""
    members, number = list(members), len(set(groups))
    unknown = sum(member.recording is None and member.speaker is None for member in members)
    recordings = any(member.recording is not None for member in members)
    speakers = any(member.speaker is not None for member in members)
    if not recordings and not speakers:
        return Counted(
            number,
            _many(number, "utterance"),
            "recordings and speakers unknown: utterances counted as independent, so the interval may be too narrow",
        )
    if recordings and speakers:
        words = _many(number - unknown, "group") + " of recordings and speakers"
    else:
        words = _many(number - unknown, "recording" if recordings else "speaker")
    if not unknown:
        return Counted(number, words, None)
    return Counted(
        number,
        f"{words} and {_many(unknown, 'utterance')} of which neither is known",
        f"recording and speaker of {_many(unknown, 'utterance')} unknown: counted as independent, so the interval may "
        "be too narrow",
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
