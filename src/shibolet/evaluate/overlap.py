"""What an evaluation set shares with the data that a model was trained on: audio by content, people by name.

Content is the encoded bytes, the source's or the prepared ones: a copy that was encoded once more is not found.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shibolet.errors import AudioError
from shibolet.records.documents.scores import Overlap
from shibolet.records.shards import has_columns, read_shard
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import content_hash

SHARED_FRAC = 0.5  # of the shorter span; less is a margin at a cut
MAX_IDS = 20
_COLUMNS = ("recording", "speaker", "sha256", "origin_sha256", "origin_offset_s", "origin_start_s", "origin_end_s")
_CACHED_HASHES = 4096  # of files that several utterances lie in

Span = tuple[float, float]  # start and end in s


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The audio and the names in a training set."""

    spans: Mapping[str, Sequence[Span]]  # content hash -> what of that audio was trained on
    recordings: frozenset[str]
    speakers: frozenset[str]


def read_trained_on(prepared_dir: Path) -> TrainedOn | None:
    """What `prepare` kept to train on and to replay; None where it is not there, or an older version made it."""
    shards = sorted(prepared_dir.glob("train-*.parquet"))
    shards += sorted(prepared_dir.parent.glob("prepare-replay/*/train-*.parquet")) if shards else []
    return _trained_on(shards)


def replayed_of_dev(prepared_dir: Path) -> list[str] | None:
    """Ids of dev utterances whose audio is replayed; None where an older version prepared them, without hashes."""
    shards = sorted(prepared_dir.glob("dev-*.parquet"))
    replayed = _trained_on(sorted(prepared_dir.parent.glob("prepare-replay/*/train-*.parquet")))
    if replayed is None or not all(has_columns(shard, *_COLUMNS) for shard in shards):
        return None
    return [
        id
        for shard in shards
        for id, *row in read_shard(shard, "id", *_COLUMNS)
        if any(_meets(span, replayed.spans.get(sha256, ())) for sha256, span in _places(row))
    ]


def _trained_on(shards: Sequence[Path]) -> TrainedOn | None:
    if not shards or not all(has_columns(shard, *_COLUMNS) for shard in shards):
        return None
    spans: dict[str, list[Span]] = defaultdict(list)
    recordings, speakers = set(), set()
    for shard in shards:
        for row in read_shard(shard, *_COLUMNS):
            for sha256, span in _places(row):
                spans[sha256].append(span)
            recordings.add(row[0])
            speakers.add(row[1])
    return TrainedOn(spans, frozenset(recordings - {None}), frozenset(speakers - {None}))


def _places(row: Sequence) -> list[tuple[str, Span]]:
    """Where a prepared utterance lies, by content: in the source's audio, and as it was prepared."""
    _, _, own, origin, offset_s, origin_start_s, origin_end_s = row
    start_s, end_s = offset_s + origin_start_s, offset_s + origin_end_s
    return [(origin, (start_s, end_s)), (own, (0.0, end_s - start_s))]


def knows(trained: TrainedOn) -> Callable[[Utterance], bool]:
    """Whether an utterance's audio was trained on."""
    hash_of = lru_cache(_CACHED_HASHES)(_hash)
    return lambda utterance: _is_shared(utterance, trained.spans.get(hash_of(utterance.audio.whole()), ()))


def overlap(utterances: Sequence[Utterance], trained: TrainedOn, set_name: str) -> Overlap:
    """What a set shares with what was trained on."""
    is_known = knows(trained)
    shared = [u for u in utterances if is_known(u)]
    names = {}
    for kind, known in (("recording", trained.recordings), ("speaker", trained.speakers)):
        found = {name for u in utterances if (name := getattr(u, kind)) is not None}
        names[f"{kind}s"] = (len(found & known), len(found))
    by_name = [f"{some} of {all} {kind}" for kind, (some, all) in names.items() if some]
    return Overlap(
        utterances=len(shared),
        of=len(utterances),
        ids=[u.id for u in shared[:MAX_IDS]],
        **names,
        sentence=f"{len(shared):,} of {len(utterances):,} utterances of set '{set_name}' are in the training data."
        if shared
        else None,
        note=f"Set '{set_name}' shares names with the training data: {', '.join(by_name)}."
        if by_name and len(shared) < len(utterances)
        else None,
    )


def _hash(ref: AudioRef) -> str:
    """Empty for what cannot be read, which is no training data either."""
    try:
        return content_hash(ref)
    except AudioError:
        return ""


def _is_shared(utterance: Utterance, spans: Sequence[Span]) -> bool:
    start_s = utterance.audio.start_s
    return _meets((start_s, start_s + utterance.duration_s), spans)


def _meets(span: Span, spans: Sequence[Span]) -> bool:
    """Whether a span of some audio has enough in common with one of others of the same audio."""
    start_s, end_s = span
    return any(
        min(end_s, trained_end_s) - max(start_s, trained_s)
        >= SHARED_FRAC * min(end_s - start_s, trained_end_s - trained_s)
        for trained_s, trained_end_s in spans
    )
