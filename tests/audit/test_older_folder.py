"""A run folder of an earlier version: its documents are made anew, and what was heard is taken over."""

import json
from pathlib import Path

import pytest
from ears import Ears

from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.errors import DataError
from shibolet.recipe import load_recipe
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.rounds import auditing
from shibolet.rounds.shared import SourceData, open_round
from shibolet.speech.audio import load

AUDIT = AuditConfig(
    aligner="ears", recogniser="ears", num_workers=0, selftest=SelfTestConfig(num_clips=20),
    sample=SampleConfig(shares={}, min_utterances=100, max_utterances=100),
)  # fmt: skip


def make_older(document: Path, marker: Path) -> None:
    """As a version wrote them that had no versions, and no checksums."""
    content, stage = (json.loads(path.read_text(encoding="utf-8")) for path in (document, marker))
    del content["format"], stage["inputs"]["format"], stage["sha256"]
    document.write_text(json.dumps(content), encoding="utf-8")
    marker.write_text(json.dumps(stage), encoding="utf-8")


def test_an_older_audit_is_made_anew_and_hears_nothing_again(tmp_path: Path, corpus, monkeypatch) -> None:
    """Hearing is what costs hours; a field with a new name must not."""
    ears, told = Ears(), []
    new_listener = lambda *_: Listener(ears, ears, tmp_path / "heard", load, AUDIT, "Hebrew")  # noqa: E731
    monkeypatch.setattr(auditing, "listener_of", new_listener)
    with open_round(load_recipe("demo"), tmp_path / "run", "audit", told.append) as current:
        current.recipe = current.recipe.model_copy(update={"audit": AUDIT})
        current.data, folder = SourceData(corpus, [], "digest"), current.folder
        report, verdict, num_heard = auditing.do_audit(current), auditing.do_gate(current), ears.num_heard
        table = folder.audited_utterances().read_bytes()
        assert num_heard > 100 and report.decision == verdict.decision
        make_older(folder.alignment_report(), folder.path / ".stages" / "audit.json")
        make_older(folder.gate(), folder.path / ".stages" / "gate.json")
        with pytest.raises(DataError, match=r"written as a version .* 'shibolet audit RECIPE' makes it anew"):
            AlignmentReport.read(folder.alignment_report())
        assert auditing.do_audit(current) == report and ears.num_heard == num_heard
        assert "audit: format changed; what was there is now in .aside/audit-" in told[-1]
        assert auditing.do_gate(current) == verdict
        assert "gate: format changed" in told[-1] and folder.audited_utterances().read_bytes() == table
