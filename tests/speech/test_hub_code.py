"""Data sets with a script of their own: protects the machine, since older versions of `datasets` ran it."""

from pathlib import Path

import pytest

from shibolet.errors import DataError
from shibolet.speech.hub import hub_tables
from shibolet.speech.sources import DataSource


def test_a_script_in_a_copy_of_a_repository_is_not_run(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / "speech.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    source = DataSource(name="mine", hub=str(folder), split="train")
    with pytest.raises(DataError, match=r"scripts are no longer supported|cannot be read"):
        hub_tables(source, tmp_path / "streams")
    with pytest.raises(DataError, match=r"scripts are no longer supported|cannot be read"):
        list(hub_tables(source.model_copy(update={"streaming": True}), tmp_path / "streams")[0])
    assert not (tmp_path / "ran").exists()
