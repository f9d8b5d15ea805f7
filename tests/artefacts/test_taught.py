"""What a teacher leaves in a run folder: its texts are refused by name where they are not as they were written."""

from pathlib import Path

import pytest
from artefact_kinds import DOCUMENT

from shibolet.errors import DataError
from shibolet.records.files import write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds.teaching import STAGE, TEXTS
from shibolet.train.teacher_cache import _TYPES


def test_a_text_of_the_teacher_that_was_changed_is_refused_and_written_again(tmp_path: Path):
    """Else another text than the audit admitted would train; the sentence names a command that there is."""
    folder = RunFolder(tmp_path)
    path = tmp_path / STAGE / TEXTS
    write_jsonl(path, [{"id": "a", "text": "שלום"}])
    folder.seal(STAGE)
    assert folder.verified(STAGE)
    path.write_text(path.read_text("utf-8").replace("שלום", "עולם"), "utf-8")
    with pytest.raises(DataError, match=r"teach/texts\.jsonl changed since 'teach' wrote it; run 'shibolet train'"):
        folder.verified(STAGE)
    assert folder.stage(STAGE, {}).state == "interrupted" and not path.exists()


def test_the_document_names_all_that_a_teacher_leaves():
    page = DOCUMENT.read_text(encoding="utf-8")
    for name in (f"{STAGE}/", TEXTS, "teacher_cache/", *_TYPES, f".stages/{STAGE}.json"):
        assert name in page
