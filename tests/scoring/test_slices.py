"""Protects slices from dropping utterances and from taking means of rates."""

import pytest

from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.slices import duration_bucket, error_line, pool, pool_by_slice
from shibolet.speech.text import get_language


def row(
    id: str, reference: str, hypothesis: str, *, duration_s: float = 1.0, set: str = "d1", domain: str | None = "clean"
):
    utterance = Utterance(
        id=id,
        audio=AudioRef(path="x.wav"),
        text=reference,
        duration_s=duration_s,
        source="s",
        recording="r",
        domain=domain,
    )
    return score_row(utterance, hypothesis, set=set, normaliser=get_language("he").to_scoring)


@pytest.mark.parametrize(
    ("duration_s", "bucket"),
    [
        *[(0.0, "shorter"), (0.49, "shorter"), (0.5, "short"), (4.999, "short"), (5.0, "medium")],
        *[(15.0, "long"), (29.99, "long"), (30.0, "long-form"), (600.0, "long-form"), (7200.0, "longer")],
    ],
)
def test_buckets_are_half_open_and_cover_everything(duration_s: float, bucket: str) -> None:
    assert duration_bucket(duration_s) == bucket


def test_a_row_counts_normalised_text_and_keeps_the_given_one() -> None:
    scored = row("a", 'בֵּית־סֵפֶר, צה"ל!', "בית ספר צהל")
    assert scored.words == EditCounts(hits=3)
    assert scored.reference == 'בֵּית־סֵפֶר, צה"ל!'
    assert (scored.recording, scored.domain, scored.set) == ("r", "clean", "d1")
    assert ScoredRow.from_json(scored.to_json()) == scored


def test_rates_are_pooled() -> None:
    pooled = pool([row("a", "א", "ב"), row("b", "א ב ג", "א ב ג")])
    assert pooled.words.rate == 0.25  # the mean of rates would be 0.5


def test_every_slice_adds_up_to_the_whole() -> None:
    rows = [
        row("a", "א ב", "א", duration_s=0.2),
        row("b", "א ב", "", duration_s=7, domain=None),
        row("c", "", "א", duration_s=40, set="whatsapp", domain="noisy"),
        row("d", "א", "א", duration_s=3, set="whatsapp", domain="noisy"),
    ]
    scores, overall = pool_by_slice(rows), pool(rows).scores()
    assert overall.wer == EditCounts(2, 0, 3, 1).word_errors()
    assert list(scores.sets) == ["d1", "whatsapp"]
    assert list(scores.domains) == ["clean", "unknown", "noisy"]
    assert set(scores.buckets) == {"shorter", "medium", "long-form", "short"}
    assert scores.buckets["long-form"].wer.rate is None
    for breakdown in (scores.sets, scores.domains, scores.buckets):
        members = breakdown.values()
        for number in ("utterances", "duration_s"):
            assert sum(getattr(one, number) for one in members) == pytest.approx(getattr(overall, number))
        for number in ("errors", "words"):
            assert sum(getattr(one.wer, number) for one in members) == getattr(overall.wer, number)


def test_error_line() -> None:
    assert error_line(EditCounts(2337, 212, 57, 23)) == "%WER 11.20 [292 / 2606, 23 ins, 57 del, 212 sub]"
    assert error_line(EditCounts(insertions=3), "CER") == "%CER n/a [3 / 0, 3 ins, 0 del, 0 sub]"
