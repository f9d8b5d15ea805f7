"""The tiny round, built once for all tests and all processes of pytest, and copies of it to damage."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from artefact_commands import Seen, copy_of, run
from tiny_round import build_full_round, build_round, build_taught_round


class Rounds:
    """An undisturbed round, copies of it, and what each command comes to on an undisturbed copy."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path, self._scratch, self._number, self._controls = path, scratch, 0, {}

    def copy(self) -> Path:
        self._number += 1
        return copy_of(self.path, self._scratch / f"{self._number:04d}")

    def control(self, command: str) -> Seen:
        if command not in self._controls:
            self._controls[command] = run(command, self.copy())
        return self._controls[command]


def _built(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Iterator[Rounds]:
    """The round under a folder that all processes of pytest share; tests may not change it."""
    pytest.importorskip("espeakng_loader")
    own = factory.getbasetemp()
    shared = (own.parent if own.name.startswith("popen-") else own) / name
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "whole").exists():
            (shared / "base").mkdir(parents=True)
            build(shared / "base")
            (shared / "whole").touch()
    before = _bytes(shared / "base")
    yield Rounds(shared / "base", factory.mktemp("damaged"))
    assert _bytes(shared / "base") == before, "a command wrote into a file that it should have replaced"


def _bytes(base: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in base.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def full_round(tmp_path_factory):
    yield from _built(tmp_path_factory, "full-round", build_full_round)


@pytest.fixture(scope="session")
def taught_round(tmp_path_factory):
    yield from _built(tmp_path_factory, "taught-round", build_taught_round)


@pytest.fixture(scope="session")
def small_round(tmp_path_factory):
    yield from _built(tmp_path_factory, "small-round", build_round)
