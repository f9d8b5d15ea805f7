"""The scores of one system on one set, from its scored rows."""

from collections.abc import Collection, Sequence

from shibolet.records.documents.scores import Measured, Summary
from shibolet.records.groups import count_groups
from shibolet.scoring.metrics import measure
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.slices import Buckets, pool, pool_by_slice
from shibolet.speech.text import Language


def describe(rows: Sequence[ScoredRow], language: Language, buckets: Buckets, terms: Collection[str] = ()) -> Measured:
    """All that is known: `summarise`, every metric of `scoring.metrics`, and what intervals are over.

    `terms` are words that are counted apart, as scores have them.
    """
    counted = count_groups(rows, groups_of(rows))
    told = {"counted": counted.words, "caveat": counted.caveat}
    made_by = {"language": language.name, "normaliser": language.scoring_version}
    return Measured(**{**made_by, **dict(summarise(rows, buckets)), **told, **measure(rows, language, terms)})


def summarise(rows: Sequence[ScoredRow], buckets: Buckets) -> Summary:
    """WER and CER in all, by duration bucket and length, and where known by domain, set, speaker and noise."""
    everything, by = pool(rows).scores(), pool_by_slice(rows, buckets)
    return Summary(
        num_utterances=len(rows),
        num_empty_hypotheses=sum(not row.hypothesis.strip() for row in rows),
        duration_s=everything.duration_s,
        wer=everything.wer,
        cer=everything.cer,
        by_domain=by.domains,
        by_bucket=by.buckets,
        by_length=by.lengths,
        by_noise=by.noise,
        by_speaker=by.speakers,
        by_set=by.sets if len(by.sets) > 1 else {},
    )
