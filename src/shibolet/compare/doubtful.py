"""The difference of two candidates without the references that the audit of the sets doubts; it decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import Names, block_of, counted_of, pair_rows, sentence_of
from shibolet.records.documents.comparison import Block, DoubtfulSet, PairComparison, WithoutDoubtful
from shibolet.scoring.rows import ScoredRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted:
    """What the audits of the sets found, by set."""

    judged: Mapping[str, int]  # utterances that they could say something of
    ids: Mapping[str, tuple[str, ...]]  # in doubt
    notes: tuple[str, ...] = ()  # sentences to read beside it


def without_doubtful(
    rows: tuple[Sequence[ScoredRow], Sequence[ScoredRow]],
    pair: PairComparison,
    names: Names,
    config: CompareConfig,
    doubted: Doubted,
) -> WithoutDoubtful:
    """The two on the rest, in all and of each set of which something is in doubt; `pair` is with all utterances."""
    ids = {(name, id) for name, own in doubted.ids.items() for id in own}
    left = [[row for row in side if (row.set, row.id) not in ids] for side in rows]
    titles = names[0].title, names[1].title
    pairs = pair_rows(*left, titles) if left[0] else []

    def rest_of(name: str) -> Block | None:
        own = [one for one in pairs if one.baseline.set == name]
        return block_of(own, config) if own and doubted.ids[name] else None

    sets = {
        name: DoubtfulSet(listed=len(doubted.ids[name]), judged=judged, without=rest_of(name))
        for name, judged in doubted.judged.items()
    }
    listed, judged = sum(one.listed for one in sets.values()), sum(doubted.judged.values())
    head = f"References in doubt: {listed:,} of {judged:,} that could be judged"
    overall, sentences = None, [f"{head}."]
    if listed and pairs:
        overall = block_of(pairs, config)
        by_set = ", ".join(f"{name} {one.listed:,} of {one.judged:,}" for name, one in sets.items())
        with_them = "no difference" if pair.overall.wer.delta_points is None else _points(pair.overall)
        said = sentence_of(overall.wer, titles, counted_of(pairs))
        sentences = [f"{head} ({by_set}). With them {with_them}. Without them: {said} The verdict is that with all."]
        sentences += doubted.notes
    return WithoutDoubtful(sets=sets, overall=overall, sentences=sentences)


def _points(block: Block) -> str:
    wer = block.wer
    interval = "" if wer.interval_points is None else ", 95% interval {:+.2f} to {:+.2f}".format(*wer.interval_points)
    return f"WER {wer.delta_points:+.2f} points{interval}"
