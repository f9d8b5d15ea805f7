"""Texts, error rates, groups and intervals of `second_implementation`, without any code of the project."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import t as student

UNITS = {"wer": "words", "cer": "chars"}
SAMPLES = 20_000  # of the bootstrap
INVISIBLE = "\u061c\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
# Vowel points and dots of package `hebrew`, which has neither meteg (05BD) nor rafe (05BF) among them.
POINTS = "".join(map(chr, (*range(0x5B0, 0x5BD), 0x5C1, 0x5C2, 0x5C4, 0x5C5, 0x5C7)))


def basic(text: str) -> str:
    """Whisper's BasicTextNormalizer: no brackets, NFKC, a space for each mark, sign and punctuation character."""
    text = re.sub(r"\([^)]+?\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower()))
    text = unicodedata.normalize("NFKC", text)
    return " ".join("".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in text).lower().split())


def leaderboard(text: str) -> str:
    """The public Hebrew leaderboard's: direction marks, vowel points and quotation marks go, then Whisper's."""
    return basic(text.translate(dict.fromkeys(map(ord, INVISIBLE + POINTS + "\"'"))))


NORMALISERS: dict[str, Callable[[str], str]] = {"leaderboard-1": leaderboard, "basic-1": basic}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One utterance of one round."""

    set: str
    id: str
    domain: str
    recording: str | None
    speaker: str | None
    duration_s: float
    hypothesis: str  # as it came
    said: str  # normalised
    heard: str
    counts: dict[str, np.ndarray]  # measure -> hits, substitutions, deletions, insertions

    def errors(self, measure: str) -> int:
        return int(self.counts[measure][1:].sum())

    def length(self, measure: str) -> int:
        return int(self.counts[measure][:3].sum())

    @property
    def loops(self) -> bool:
        """A stretch of words four times in a row, or of letters ten times, where the reference has no such thing."""
        if letters_loop(self.heard) and not letters_loop(self.said):
            return True
        return times_repeated(self.heard) >= max(4, times_repeated(self.said) + 1)

    @property
    def fails(self) -> bool:
        return bool(self.said) and not self.heard


def read_rows(folder: Path, set_name: str) -> list[Row]:
    """The utterances of a scored set in its order."""
    normalise, rows = NORMALISERS[read(folder / "scores.json")["normaliser"]], []
    for line in (folder / "hypotheses.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            own = json.loads(line)
            said, heard = normalise(own["reference"]), normalise(own["hypothesis"])
            edits = {"wer": jiwer.process_words(said, heard), "cer": jiwer.process_characters(said, heard)}
            kept = {name: own[name] for name in ("id", "recording", "speaker", "duration_s", "hypothesis")}
            counts = {
                name: np.array([edit.hits, edit.substitutions, edit.deletions, edit.insertions])
                for name, edit in edits.items()
            }
            domain = own["domain"] or "unknown"
            rows.append(Row(set=set_name, domain=domain, said=said, heard=heard, counts=counts, **kept))
    return rows


def times_repeated(text: str) -> int:
    """How often in a row a text says the same 1 to 10 words, at most."""
    words, most = text.split(), min(1, len(text))
    for period in range(1, 11):
        for start in range(len(words) - 2 * period + 1):
            times, stretch = 1, words[start : start + period]
            while words[start + times * period : start + (times + 1) * period] == stretch:
                times += 1
            most = max(most, times)
    return most


def letters_loop(text: str) -> bool:
    """Whether a word says the same 1 to 8 letters ten times in a row."""
    return any(
        word[start : start + period] * 10 == word[start : start + 10 * period]
        for word in text.split()
        for period in range(1, 9)
        for start in range(len(word) - 10 * period + 1)
    )


def rates(rows: Sequence[Row], measure: str) -> dict:
    """Counts added up, then one rate."""
    hits, *edits = (int(count) for count in sum((row.counts[measure] for row in rows), np.zeros(4, dtype=int)))
    errors, length = sum(edits), hits + edits[0] + edits[1]
    named = dict(zip(("substitutions", "deletions", "insertions"), edits))
    return {"errors": errors, UNITS[measure]: length, "rate": errors / length if length else None, **named}


def places_by(names: Sequence[str]) -> dict[str, list[int]]:
    return {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}


def by_domain(rows: Sequence[Row]) -> dict[str, list[int]]:
    names = [row.domain or "unknown" for row in rows]
    return places_by(names) if set(names) != {"unknown"} else {}


def by_bucket(rows: Sequence[Row], buckets: Sequence) -> dict[str, list[int]]:
    def name_of(duration_s: float) -> str:
        names = [name for name, low, high in buckets if low <= duration_s < high]
        return names[0] if names else "shorter" if duration_s < buckets[0][1] else "longer"

    return places_by([name_of(row.duration_s) for row in rows])


@dataclass(frozen=True)
class Found:
    """A ratio of sums with the arm of its 95% interval, and the degrees of freedom of its Student's t."""

    value: float
    arm: float
    freedom: float

    @property
    def low(self) -> float:
        return self.value - self.arm

    @property
    def high(self) -> float:
        return self.value + self.arm


def groups_of(rows: Sequence[Row]) -> np.ndarray:
    """[U] numbers of the groups that share a recording or a speaker, themselves or through others; first seen first."""
    shared = [
        (i, (kind, name))
        for i, row in enumerate(rows)
        for kind, name in (("recording", row.recording), ("speaker", row.speaker))
        if name is not None
    ]
    nodes = {key: len(rows) + place for place, key in enumerate(dict.fromkeys(key for _, key in shared))}
    size = len(rows) + len(nodes)
    edges = coo_array((np.ones(len(shared)), ([i for i, _ in shared], [nodes[key] for _, key in shared])), (size, size))
    found = connected_components(edges, directed=False)[1][: len(rows)]
    first_seen = list(dict.fromkeys(found.tolist()))
    return np.array([first_seen.index(number) for number in found.tolist()])


def bootstrap(tops: np.ndarray, bottoms: np.ndarray, groups: np.ndarray, samples: int = SAMPLES) -> Found | None:
    """sum(tops) / sum(bottoms) with Student's t around a bootstrap over groups; None: under three groups or no words.

    A group's residual is drawn too small by the share of its own in the pooled rate, so squares are enlarged for that.
    """
    names = np.unique(groups)
    top, bottom = (np.array([values[groups == name].sum() for name in names]) for values in (tops, bottoms))
    num, length = len(names), bottom.sum()
    if num < 3 or not length:
        return None
    value = top.sum() / length
    times = np.random.default_rng(20_261_128).multinomial(num, np.full(num, 1 / num), samples)
    drawn = times @ np.stack([top, bottom], axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    share = bottom / length
    squares = (top - value * bottom) ** 2
    enlarged = (squares / np.maximum(1 - 2 * share + (share**2).sum(), 1e-6)).sum()
    error = np.std(drawn[:, 0] / drawn[:, 1]) * math.sqrt(enlarged / squares.sum() if squares.any() else 1)
    freedom = max((1 - 1 / num) / (share**2).sum(), 1)
    return Found(float(value), float(error * student.ppf(0.975, freedom)), float(freedom))


def per_row(rows: Sequence[Row], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """[U] errors and [U] reference lengths."""
    return np.array([row.errors(measure) for row in rows]), np.array([row.length(measure) for row in rows])
