"""Words that stand in many texts where another word is heard: one wrong habit of whoever wrote them down.

A clip of seven words with one wrong is still a likely one, so no verdict on a single clip finds this damage. Over the
data it stands out: of AN4 with one frequent word written as another, "one" is heard as "two" 37 of 120 times, by 18
speakers, and no pair of the clean texts 5 times (benchmarks/RESULTS.md). Whether the texts are wrong or both words are
ways of saying one thing, only a person can tell.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from shibolet.audit.workers import Pair, Reading, Texts, read_otherwise
from shibolet.listen.decoders import AnyWorker, Decoders, run_each
from shibolet.listen.processes import WorkerLost
from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import Confusion
from shibolet.records.groups import cluster_of

# Chosen, with the figures above.
MIN_COUNT = 10
MIN_FRAC = 0.1  # of the word's occurrences
MIN_CLUSTERS = 3  # speakers or recordings, where they are known
# How rows are shared out. Chosen too: on any other values depend seconds and no count.
MANY_ROWS = 2000  # from here on processes compare sooner than this one
TOGETHER = 64  # rows that a process is given at once
AHEAD = 4  # of those, for each process, that may wait to be counted
LIMIT_S = 60.0  # for a row


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
    counted = Confusions(language)
    for _ in counted.passing(rows):
        pass
    return counted.found()


class Confusions:
    """Counts `confusions` of rows that pass by; the decoders, where there are any, compare meanwhile."""

    def __init__(self, language: str, decoders: Decoders | None = None) -> None:
        self._language, self._decoders = language, decoders
        self._heard, self._occurrences = defaultdict(_Heard), Counter()
        self._together: list[Audited] = []
        self._compared: deque[tuple[list[Audited], Future | None]] = deque()

    def passing(self, rows: Iterable[Audited]) -> Iterator[Audited]:
        """The same rows."""
        for row in rows:
            if row.failure is None and not row.cer:  # the same in the nearest reading, which is dear to find
                self._occurrences.update(row.words)
            elif row.failure is None:
                self._together.append(row)
                if len(self._together) == TOGETHER:
                    self._compare()
            yield row

    def found(self) -> tuple[list[Confusion], dict[str, int]]:
        """Those of all rows that have passed."""
        if self._together:
            self._compare()
        while self._compared:
            self._count()
        steady = {pair: one for pair, one in self._heard.items() if _is_steady(one, self._occurrences[pair[0]])}
        listed = [
            Confusion(
                text=written, heard=said, count=one.count, occurrences=self._occurrences[written],
                clusters=len(one.clusters - {None}),
            )
            for (written, said), one in sorted(steady.items(), key=lambda item: (-item[1].count, item[0]))
        ]  # fmt: skip
        passed = {id: domain for one in steady.values() for id, domain in one.passed.items()}
        return listed, dict(sorted(Counter(passed.values()).items()))

    def _compare(self) -> None:
        """Have the rows that have come together compared, and count what was before them."""
        rows, self._together = self._together, []
        job = self._decoders and self._decoders.submit(partial(_by_worker, self._language), _texts(rows))
        self._compared.append((rows, job))
        while len(self._compared) > (AHEAD * self._decoders.num_workers if self._decoders else 0):
            self._count()

    def _count(self) -> None:
        rows, job = self._compared.popleft()
        is_here = job is None or job.cancel()  # by processes that give way to others none may have begun with it
        found = read_otherwise(_texts(rows), self._language) if is_here else job.result()
        for row, reading in zip(rows, found, strict=True):
            text, pairs = _reading(row, self._language) if isinstance(reading, WorkerLost) else reading
            self._occurrences.update(text)
            for pair in pairs:
                one = self._heard[pair]
                one.count += 1
                one.clusters.add(cluster_of(row.source, row.recording, row.speaker))
                if not row.is_low_quality:
                    one.passed[row.id] = row.domain


def holds(row: Audited, pairs: Collection[Pair], language: str) -> Pair | None:
    """The first of these pairs, of a word and what is heard in its place, that stands in an utterance."""
    if not row.cer:
        return None
    return next((pair for pair in _reading(row, language)[1] if pair in pairs), None)


def _reading(row: Audited, language: str) -> Reading:
    [found] = read_otherwise(_texts([row]), language)
    return found


def _texts(rows: Sequence[Audited]) -> list[Texts]:
    return [(row.words, row.hypothesis) for row in rows]


def _by_worker(language: str, worker: AnyWorker, texts: list[Texts]) -> list[Reading | WorkerLost]:
    return run_each(worker, partial(read_otherwise, language=language), texts, lambda some: LIMIT_S * len(some))


def _is_steady(one: _Heard, occurrences: int) -> bool:
    known = one.clusters - {None}
    return (
        one.count >= MIN_COUNT
        and one.count >= MIN_FRAC * occurrences
        and (len(one.clusters) >= MIN_CLUSTERS or not known)  # where none is known, all may be of one
    )
