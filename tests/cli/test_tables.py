"""What the terminal says beside its tables: protects from rates without a word on what they are."""

from audit_documents import counted, gate_verdict
from made_scores import scores_of

from shibolet.cli import tables
from shibolet.records.documents.gate import StratumRate


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
    part = StratumRate(**counted(11.1, 11.1, 12.5).model_dump(), decision="CAUTION")
    tables.show_gate(gate_verdict("CAUTION", low_quality_pct=counted(11.1, 11.1, 11.1), strata={"part": part}))
    part, everything = capsys.readouterr().out.splitlines()[2:4]
    assert part.split()[:3] == ["part", "11.1%", "11.1-12.5%"]
    assert everything.split()[:4] == ["all", "11.1%", "all", "heard"]
