"""What the terminal says beside its tables: protects from rates without a word on what they are."""

from made_scores import scores_of

from shibolet.cli import tables


def test_the_number_aware_rate_stands_beside_the_leaderboards_with_a_sentence(capsys) -> None:
    heard = ["call 268", "nobody heard this at all", "room five", "it is late"]
    old = scores_of(heard, title="Round 1").model_copy(update={"number_aware": None})
    tables.show_scores({"round2": {"held": scores_of(heard)}, "round1": {"held": old}})
    out = capsys.readouterr().out
    header, new, old = out.splitlines()[1:4]
    assert header.split() == ["model", "set", "WER", "errors", "number-aware", "CER"]
    assert new.split()[:8] == ["Round", "2", "held", "21.4%", "3", "/", "14", "0.0%"]
    assert old.split()[:8] == ["Round", "1", "held", "21.4%", "3", "/", "14", "-"]
    assert '"268" and "two six eight"' in " ".join(out.split())


def test_nothing_is_said_of_a_number_aware_rate_that_is_not_there(capsys) -> None:
    tables.show_scores({"round1": {"held": scores_of().model_copy(update={"number_aware": None})}})
    out = capsys.readouterr().out
    assert "0.0%" in out and "268" not in out and "number-aware" not in out


def test_an_interval_without_width_is_said_in_words(capsys) -> None:
    """ "11.1-11.1%" reads as a certainty that a sample cannot give."""
    whole = {"rate": 11.1, "lower": 11.1, "upper": 11.1, "num_low_quality": 1, "num_heard": 9}
    gate = {
        "decision": "CAUTION", "recommendation": "Look at it.", "strata": {"part": {**whole, "upper": 12.5}},
        "low_quality_pct": whole, "level_pct": 95.0, "warnings": [], "literal_point_verdict": "CAUTION",
        "sample_low_quality_pct": 11.1, "hours_low_quality_pct": None, "corrected_low_quality_pct": None,
        "corrected_from": "no error rates", "num_scored": 9, "failures": {}, "notes": [],
    }  # fmt: skip
    tables.show_gate(gate)
    part, everything = capsys.readouterr().out.splitlines()[2:4]
    assert part.split()[:3] == ["part", "11.1%", "11.1-12.5%"]
    assert everything.split()[:4] == ["all", "11.1%", "all", "heard"]
