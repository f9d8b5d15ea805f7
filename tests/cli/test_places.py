"""Folders that cannot be read or written end a command with one sentence and exit code 3, not with a traceback."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from shibolet.errors import DiskError
from shibolet.records.files import disk_errors, write_json

DENIED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@pytest.fixture
def below_a_file(tmp_path: Path) -> Path:
    """A place that nobody can write to, root included."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "below"


def refused(said: str) -> None:
    """One sentence of ours."""
    assert said.startswith("shibolet: ") and said.count("\n") == 1 and "Traceback" not in said


@pytest.mark.parametrize("command", ["gate", "audit", "run", "train", "evaluate", "compare", "prepare"])
def test_a_run_folder_that_cannot_be_is_refused(command: str, below_a_file: Path, run_cli):
    for place in (below_a_file, below_a_file.parent, Path("/proc/1/shibolet"), below_a_file.parents[1] / ("x" * 300)):
        code, _, said = run_cli(command, "demo", "-o", str(place))
        assert code == 3 and str(place) in said
        refused(said)


@pytest.mark.parametrize("number", DENIED)
def test_a_disk_that_refuses_is_named_with_the_file(number: int, tmp_path: Path, run_cli, monkeypatch):
    """As root, permissions do not bind: the system's answer is put in the place of the first write of a command."""
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *args, **kwargs):
        if "w" in mode:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    code, _, said = run_cli("gate", "demo", "-o", str(tmp_path / "run"))
    assert code == 3 and f"{tmp_path / 'run'}/.lock cannot be used: {os.strerror(number)}; give this account" in said
    refused(said)


def test_no_folder_for_temporary_files_is_a_sentence(monkeypatch):
    """TMPDIR and /tmp full or read-only: Python's error has neither a file nor an errno of writing."""
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent/a", "/nonexistent/b"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(DiskError, match="a file cannot be used: No usable temporary directory found in"):
        with disk_errors():
            tempfile.mkdtemp()


def test_a_file_of_the_program_that_is_not_there_stays_a_defect():
    """Only a place that a user can mend is a sentence."""
    with pytest.raises(FileNotFoundError), disk_errors():
        open("/nonexistent/file")


def test_a_full_disk_says_what_it_said(tmp_path: Path):
    for error in (OSError(errno.ENOSPC, "No space left on device", "x"), RuntimeError("Io: (os error 28)")):
        with pytest.raises(DiskError, match=r"could not be written: .*; make room and run the same command again"):
            with disk_errors(tmp_path):
                raise error
    with pytest.raises(DiskError, match=r"cannot be used: Io: \(os error 30\); give this account"):
        with disk_errors(tmp_path):
            raise RuntimeError("Io: (os error 30)")
    with pytest.raises(DiskError, match=r"x cannot be used: Too many open files; raise this shell's limit .ulimit -n"):
        with disk_errors():
            raise OSError(errno.EMFILE, "Too many open files", "x")
    with pytest.raises(ConnectionResetError), disk_errors():  # of a network
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_directory_where_a_file_is_written_is_a_sentence(tmp_path: Path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(DiskError, match=r"x\.json.* cannot be used: Is a directory"), disk_errors():
        write_json(tmp_path / "x.json", {})
