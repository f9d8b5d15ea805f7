"""Train and dev, dealt before anything is cut or weighted: whole speakers, else whole recordings, else whole files."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shibolet.prepare.config import PrepareConfig
from shibolet.records.groups import OWN, Key, connected, keys_of
from shibolet.records.utterance import Utterance

Part = Literal["train", "dev", "surplus"]  # surplus: of a group held out, beyond max_dev_utterances
MIN_GROUPS = 5  # fewer speakers, recordings or files make no dev set that says anything of others


@dataclass(frozen=True, slots=True)
class Split:
    """Where each of U utterances goes; no group is in two parts."""

    by: str  # "speaker", "recording", "file", "utterance"
    groups: list[str]  # [U]
    parts: list[Part]  # [U]
    notes: list[str]  # sentences for the summary


def split(utterances: Sequence[Utterance], config: PrepareConfig, seed: int) -> Split:
    """Deal groups to train and dev by a hash of seed and group; every domain near its share of hours, as groups allow.

    The order of the utterances does not matter. Dev is never everything, and is empty where there is one group only.
    """
    by, groups = _grouped(utterances)
    share = config.dev_frac
    if config.max_dev_utterances is not None:
        share = min(share, config.max_dev_utterances / max(1, len(utterances)))
    held_out = _deal(utterances, groups, share, seed)
    dev = sorted(
        (i for i, group in enumerate(groups) if group in held_out),
        key=lambda i: _hash(seed, f"{utterances[i].source} {utterances[i].id}"),
    )
    surplus = dev[config.max_dev_utterances :] if config.max_dev_utterances is not None else []
    parts: list[Part] = ["dev" if group in held_out else "train" for group in groups]
    for i in surplus:
        parts[i] = "surplus"
    return Split(by, groups, parts, _notes(utterances, by, parts))


def shared_with(utterances: Sequence[Utterance], others: Sequence[Utterance]) -> list[bool]:
    """For each utterance whether one of the others has its speaker, its recording or its file."""
    keys = {key for other in others for key in _keys(other, "speaker") if key[0] != OWN}
    return [any(key in keys for key in _keys(utterance, "speaker")) for utterance in utterances]


def undivided(utterances: Sequence[Utterance]) -> Split:
    """All of them train."""
    by, groups = _grouped(utterances)
    return Split(by, groups, ["train"] * len(groups), ["nothing is held out of what is replayed"])


def _grouped(utterances: Sequence[Utterance]) -> tuple[str, list[str]]:
    """The key that was used and the group of each utterance.

    Two utterances that share a speaker, or a recording, or a file are in one group.
    """
    for by in ("speaker", "recording", "file"):
        groups = connected([_keys(utterance, by) for utterance in utterances])
        names = {getattr(utterance, by) for utterance in utterances} - {None} if by != "file" else groups
        if min(len(names), len(set(groups))) >= MIN_GROUPS:
            return by, groups
    return "utterance", [f"{utterance.source}/{utterance.id}" for utterance in utterances]


def _keys(utterance: Utterance, by: str) -> list[Key]:
    """What an utterance may share with others, and itself.

    A file comes last: its path changes when data are moved, and the hash of a group's name must not.
    """
    recording = utterance.recording if by != "file" else None
    speaker = utterance.speaker if by == "speaker" else None
    own = f"{utterance.source}/{utterance.id}"
    return [*keys_of(own, recording, speaker), (3, f"{utterance.audio.path} {utterance.audio.row}")]


def _deal(utterances: Sequence[Utterance], groups: Sequence[str], share: float, seed: int) -> set[str]:
    """The groups of dev: one after the other as long as it brings dev nearer to its share of every domain's hours."""
    hours: dict[str, dict[str | None, float]] = defaultdict(lambda: defaultdict(float))
    missing: dict[str | None, float] = defaultdict(float)
    for utterance, group in zip(utterances, groups, strict=True):
        hours[group][utterance.domain] += utterance.duration_s
        missing[utterance.domain] += share * utterance.duration_s

    def change(group: str) -> float:
        """Of the distance between dev and its share when the group joins it; below 0 is nearer."""
        return sum(abs(missing[domain] - s) - abs(missing[domain]) for domain, s in hours[group].items())

    order = sorted(hours, key=lambda group: _hash(seed, group))
    held_out: set[str] = set()
    for group in order:
        if change(group) < 0:
            held_out.add(group)
            for domain, seconds in hours[group].items():
                missing[domain] -= seconds
    if not held_out and len(order) > 1:
        held_out.add(min(order, key=change))
    return held_out


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _notes(utterances: Sequence[Utterance], by: str, parts: Sequence[Part]) -> list[str]:
    notes = []
    if by != "speaker":
        speakers = {utterance.speaker for utterance in utterances if utterance.speaker is not None}
        known = f"{len(speakers)} speakers are known" if speakers else "no speaker is known"
        unheard_of = " and recordings" if by in ("file", "utterance") else ""
        notes.append(
            f"split by {by}: {known}, fewer than {MIN_GROUPS} groups could be made of them{unheard_of}; "
            "a voice may be in both parts, so dev flatters what new voices would get"
        )
    return notes
