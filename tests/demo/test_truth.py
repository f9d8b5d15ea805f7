"""The truth about the demo's data: protects from a table that flatters, in what was found as in what was left."""

import pytest

from shibolet.demo.corpus import Spoken
from shibolet.demo.truth import Kept, found_by_kind, left_after_prepare
from shibolet.records.documents.truth import Found


def row(id: str, kind: str, domain: str = "clean", said: str = "אחת שתיים שלוש") -> Spoken:
    """An utterance of 3 s, a word a second; what was said is what the truth knows, not what the manifest claims."""
    words = tuple((word, i + 0.1, i + 0.9) for i, word in enumerate(said.split()))
    return Spoken(id=id, split="train", kind=kind, domain=domain, duration_s=3.0, reference=said, words=words)


def whole(id: str, text: str = "אחת שתיים שלוש") -> Kept:
    return Kept(utterance=id, text=text, start_s=0.0, end_s=3.0)


def test_found_is_counted_by_kind_and_domain_with_the_untouched_first():
    truth = [row("a", "swapped"), row("b", "swapped"), row("c", "clean"), row("d", "clean", "whatsapp")]
    assert found_by_kind(truth, {"a", "d"}) == [
        Found(kind="clean", domain="clean", utterances=1, flagged=0),
        Found(kind="clean", domain="whatsapp", utterances=1, flagged=1),
        Found(kind="swapped", domain="clean", utterances=2, flagged=1),
    ]


def test_what_is_kept_is_damaged_when_the_text_is_not_what_is_said():
    truth = {r.id: r for r in [row("good", "clean"), row("bad", "swapped"), row("mute", "silent", said="")]}
    left = left_after_prepare(truth, [whole("good"), whole("bad", "ארבע חמש שש"), whole("mute")])
    assert (left.kept_utterances, left.kept_damaged) == (3, 2)
    assert left.damaged_by_kind["swapped"] == left.damaged_by_kind["silent"] == 1
    assert left.good_hours_lost_pct == pytest.approx(0)


def test_a_wrong_cut_of_good_data_counts_as_damage_and_a_right_one_does_not():
    truth = {"good": row("good", "clean")}
    first, second = (
        Kept(utterance="good", text="אחת", start_s=0, end_s=1),
        Kept(utterance="good", text="שתיים שלוש", start_s=1, end_s=3),
    )
    assert left_after_prepare(truth, [first, second]).kept_damaged == 0
    shifted = Kept(utterance="good", text="אחת שתיים", start_s=0, end_s=1)
    left = left_after_prepare(truth, [shifted, second])
    assert left.damaged_by_kind["clean"] == 1
    assert left.good_hours_lost_pct == pytest.approx(100 / 3)


def test_repaired_damage_is_no_damage():
    """A transcript of which half was taken away fits again once the audio without text is trimmed."""
    truth = {"good": row("good", "clean"), "half": row("half", "text_halved")}
    trimmed = Kept(utterance="half", text="אחת", start_s=0, end_s=1)
    assert left_after_prepare(truth, [trimmed]).kept_damaged == 0
    assert left_after_prepare(truth, [whole("half", "אחת")]).kept_damaged == 1


def test_good_hours_that_were_dropped_are_lost():
    truth = {id: row(id, "clean") for id in "abcd"} | {"bad": row("bad", "swapped")}
    assert left_after_prepare(truth, [whole("a"), whole("b")]).good_hours_lost_pct == pytest.approx(50)
