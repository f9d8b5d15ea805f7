"""Words that stand in many texts where another word is heard: one wrong habit of whoever wrote them down.

A clip of seven words with one wrong is still a likely one, so no verdict on a single clip finds this damage. Over the
data it stands out: of AN4 with one frequent word written as another, "one" is heard as "two" 37 of 120 times, by 18
speakers, and no pair of the clean texts 5 times (benchmarks/RESULTS.md). Whether the texts are wrong or both words are
ways of saying one thing, only a person can tell.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import Confusion
from shibolet.records.groups import cluster_of
from shibolet.speech.text import Language, get_language
from shibolet.speech.text.reading import compare

# Chosen, with the figures above.
MIN_COUNT = 10
MIN_FRAC = 0.1  # of the word's occurrences
MIN_CLUSTERS = 3  # speakers or recordings, where they are known
MIN_DISTANCE = (
    0.5  # of letters; nearer words are spellings, endings or homophones, which recognisers confuse by themselves
)
Pair = tuple[str, str]


@dataclass(slots=True)
class _Heard:
    """Where a word of the texts was heard as a certain other one."""

    count: int = 0
    passed: dict[str, str] = field(default_factory=dict)  # utterances that are not flagged, and their domains
    clusters: set[str | None] = field(default_factory=set)


def confusions(rows: Iterable[Audited], language: str) -> tuple[list[Confusion], dict[str, int]]:
    """Confusions, the most frequent first, and by domain how many utterances hold one and are not flagged.

    Texts and hypotheses are compared in their nearest readings, so "26" is no confusion of "twenty six".
    """
    rules, found, occurrences = get_language(language), defaultdict(_Heard), Counter()
    for row in rows:
        if row.failure is not None:
            continue
        if not row.cer:  # letter by letter the same in the nearest reading, which is dear to find
            occurrences.update(row.words)
            continue
        text, pairs = _read_otherwise(row, rules)
        occurrences.update(text)
        for pair in pairs:
            one = found[pair]
            one.count += 1
            one.clusters.add(cluster_of(row.source, row.recording, row.speaker))
            if not row.is_low_quality:
                one.passed[row.id] = row.domain
    steady = {pair: one for pair, one in found.items() if _is_steady(one, occurrences[pair[0]])}
    listed = [
        Confusion(
            text=written, heard=said, count=one.count, occurrences=occurrences[written],
            clusters=len(one.clusters - {None}),
        )
        for (written, said), one in sorted(steady.items(), key=lambda item: (-item[1].count, item[0]))
    ]  # fmt: skip
    passed = {id: domain for one in steady.values() for id, domain in one.passed.items()}
    return listed, dict(sorted(Counter(passed.values()).items()))


def holds(row: Audited, pairs: Collection[Pair], language: str) -> Pair | None:
    """The first of these pairs, of a word and what is heard in its place, that stands in an utterance."""
    if not row.cer:
        return None
    return next((pair for pair in _read_otherwise(row, get_language(language))[1] if pair in pairs), None)


def _read_otherwise(row: Audited, rules: Language) -> tuple[list[str], list[Pair]]:
    """Words of the text in the reading that is nearest to what was heard, and those that were heard as another."""
    compared = compare(row.words, row.hypothesis, rules)
    text, heard = " ".join(compared.text).split(), " ".join(compared.heard).split()
    replaced = (block for block in Levenshtein.opcodes(text, heard) if block.tag == "replace")  # as jiwer aligns words
    pairs = [
        (written, said)
        for block in replaced
        for written, said in zip(text[block.src_start : block.src_end], heard[block.dest_start : block.dest_end])
        if Levenshtein.normalized_distance(written, said) > MIN_DISTANCE
    ]
    return text, pairs


def _is_steady(one: _Heard, occurrences: int) -> bool:
    known = one.clusters - {None}
    return (
        one.count >= MIN_COUNT
        and one.count >= MIN_FRAC * occurrences
        and (len(one.clusters) >= MIN_CLUSTERS or not known)  # where none is known, all may be of one
    )
