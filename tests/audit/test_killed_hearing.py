"""An audit that is killed again and again ends with the bytes of one that nobody disturbed."""

import multiprocessing
import random
import signal
from itertools import cycle
from pathlib import Path

import killed_hearing
import pytest
from killed_hearing import PLACES

from shibolet.records.utterance import Utterance

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["killed_hearing"])  # seconds of imports each


def audit(utterances: list[Utterance], out: Path, at: tuple[str, int] | None = None) -> int:
    """Exit code of an audit in a process of its own."""
    process = FORK.Process(target=killed_hearing.audit, args=(utterances, out, at))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "the audit hangs"
    return process.exitcode


def files_of(out: Path) -> dict[str, bytes]:
    """What an audit leaves, less the temporary files of what was killed."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if Path(name).suffix in (".jsonl", ".json", ".parquet")}


@pytest.mark.slow("audit", seconds=120)
def test_killed_at_25_random_points(corpus: list[Utterance], tmp_path: Path) -> None:
    """Whatever is in work then, with a worker, a model or the disk, is heard again with the same neighbours."""
    utterances = corpus[10:24]
    assert audit(utterances, tmp_path / "whole") == 0
    whole = files_of(tmp_path / "whole")
    assert sum(name.startswith("heard") for name in whole) > 20 and "audit/utterances.parquet" in whole
    rng, kills, struck, number = random.Random(7), [], 0, 0
    places = cycle(rng.sample(sorted(PLACES), len(PLACES)))
    while struck < 25:
        out, place = tmp_path / f"killed-{number}", next(places)
        kills.append((place, 1 if place == "hash" else rng.randint(1, 8)))  # a few files are hashed in one call
        if audit(utterances, out, kills[-1]) == -signal.SIGKILL:
            struck += 1
            continue
        assert files_of(out) == whole, kills
        number += 1
    assert audit(utterances, out) == 0
    assert files_of(out) == whole, kills
