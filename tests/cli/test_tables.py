"""What the terminal says beside its tables: protects from rates without a word on what they are."""

import pytest
from audit_documents import counted, gate_verdict

from shibolet.cli import tables
from shibolet.records.documents.gate import StratumRate

RATE = {"rate": 0.25, "errors": 1, "words": 4}
SCORES = {"wer": RATE, "cer": RATE, "overlap": None, "num_utterances": 1, "failures": [], "unreadable_rows": []}


def test_the_number_aware_rate_stands_beside_the_leaderboards_with_a_sentence(capsys) -> None:
    aware = {"wer": {**RATE, "rate": 0.05}, "by_domain": {}}
    tables.show_scores({"new": {"held": {**SCORES, "number_aware": aware}}, "old": {"held": SCORES}})
    out = capsys.readouterr().out
    header, new, old = out.splitlines()[1:4]
    assert header.split() == ["model", "set", "WER", "number-aware", "CER", "errors", "words"]
    assert new.split()[2:5] == ["25.0%", "5.0%", "25.0%"] and old.split()[2:5] == ["25.0%", "-", "25.0%"]
    assert '"268" and "two six eight"' in " ".join(out.split())


@pytest.mark.parametrize("known", [{}, {"number_aware": None}], ids=["older file", "language without readings"])
def test_nothing_is_said_of_a_number_aware_rate_that_is_not_there(capsys, known: dict) -> None:
    tables.show_scores({"old": {"held": {**SCORES, **known}}})
    out = capsys.readouterr().out
    assert "25.0%" in out and "268" not in out


def test_an_interval_without_width_is_said_in_words(capsys) -> None:
    """ "11.1-11.1%" reads as a certainty that a sample cannot give."""
    part = StratumRate(**counted(11.1, 11.1, 12.5).model_dump(), decision="CAUTION")
    tables.show_gate(gate_verdict("CAUTION", low_quality_pct=counted(11.1, 11.1, 11.1), strata={"part": part}))
    part, everything = capsys.readouterr().out.splitlines()[2:4]
    assert part.split()[:3] == ["part", "11.1%", "11.1-12.5%"]
    assert everything.split()[:4] == ["all", "11.1%", "all", "heard"]
