"""The truth about the demo's training data, opened after the round: what was found of it, and what is left of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shibolet.demo.corpus import Spoken, read_truth
from shibolet.demo.damage import KINDS
from shibolet.records.documents.truth import AfterPrepare, Found, Truth
from shibolet.records.runfolder import RunFolder
from shibolet.records.shards import read_shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A piece of an utterance that may train."""

    utterance: str  # id of the utterance that it was cut from
    text: str
    start_s: float  # in the utterance's audio
    end_s: float


def open_truth(corpus_dir: Path, folder: RunFolder) -> Truth:
    """What was found of the damage and, once prepare has run, what was left of it."""
    truth = {spoken.id: spoken for spoken in read_truth(corpus_dir) if spoken.split == "train"}
    left = left_after_prepare(truth, kept_pieces(folder)) if folder.finished("prepare") else None
    return Truth(rows=found_by_kind(truth.values(), flagged_ids(folder)), after_prepare=left)


def flagged_ids(folder: RunFolder) -> set[str]:
    """Utterances that the audit called low quality, in its sample or in the rest."""
    from shibolet.records.audited import read_audited

    tables = [path for path in (folder.audited_utterances(), folder.audited_rest) if path.exists()]
    return {row.id for path in tables for row in read_audited(path, short=True) if row.is_low_quality}


def kept_pieces(folder: RunFolder) -> list[Kept]:
    """What prepare kept, both splits."""
    columns = ("origin_id", "text", "origin_start_s", "origin_end_s")
    return [
        Kept(utterance=utterance, text=text, start_s=start_s, end_s=end_s)
        for path in sorted(folder.prepared.glob("*.parquet"))
        for utterance, text, start_s, end_s in read_shard(path, *columns)
    ]


def found_by_kind(truth: Iterable[Spoken], flagged: set[str]) -> list[Found]:
    """A row for each kind of damage and domain, untouched utterances first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for spoken in truth:
        cell = counts.setdefault((spoken.kind, spoken.domain), [0, 0])
        cell[0] += 1
        cell[1] += spoken.id in flagged
    order = ["clean", *KINDS]
    return [
        Found(kind=kind, domain=domain, utterances=utterances, flagged=hits)
        for (kind, domain), (utterances, hits) in sorted(
            counts.items(), key=lambda cell: (order.index(cell[0][0]), cell[0])
        )
    ]


def left_after_prepare(truth: Mapping[str, Spoken], kept: Sequence[Kept]) -> AfterPrepare:
    """Counts of what was kept; a piece is damaged when its text is not what is said in its span, for any reason."""
    damaged = [piece for piece in kept if piece.text.split() != words_within(truth[piece.utterance], piece)]
    kinds = [truth[piece.utterance].kind for piece in damaged]
    good_s = sum(spoken.duration_s for spoken in truth.values() if spoken.kind == "clean")
    kept_s = sum(p.end_s - p.start_s for p in kept if truth[p.utterance].kind == "clean" and p not in damaged)
    return AfterPrepare(
        kept_utterances=len(kept),
        kept_damaged=len(damaged),
        kept_damaged_pct=100 * len(damaged) / len(kept) if kept else None,
        damaged_by_kind={kind: kinds.count(kind) for kind in ("clean", *KINDS)},
        good_hours=good_s / 3600,
        good_hours_lost_pct=100 * (1 - kept_s / good_s),
    )


def words_within(spoken: Spoken, piece: Kept) -> list[str]:
    """Words of which the middle lies in a piece's span."""
    return [word for word, start_s, end_s in spoken.words if piece.start_s <= (start_s + end_s) / 2 < piece.end_s]
