"""Many inputs of a kind through its reader: each is read or refused in a sentence, soon, in little memory."""

import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shibolet.errors import ShiboletError

CPU_S, MEMORY_KB = 10.0, 1_000_000  # beyond what a good input takes
FEW, MANY = 200, 10_000


@dataclass(frozen=True)
class Kind:
    """A kind of input: how it is made from a seed, and who reads it."""

    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


def fuzz(kind: Kind, path: Path, num: int) -> None:
    """So many inputs of a kind; the same ones every time."""
    outcomes = {True: 0, False: 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=num, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        path.write_bytes(kind.make(random.Random(seed)))
        started = time.process_time()
        try:
            kind.read(path)
        except ShiboletError as error:
            assert str(error) and error.exit_code in (2, 3)
            outcomes[False] += 1
        else:
            outcomes[True] += 1
        assert time.process_time() - started < CPU_S

    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_KB
    assert outcomes[True] and outcomes[False], "a reader that takes all or nothing is not tested by this"


def how_many(seconds: int, few: int = FEW) -> Callable:
    """Few inputs in the ordinary suite, many in the slow one, which take so long."""
    return pytest.mark.parametrize("num", [few, pytest.param(MANY, marks=pytest.mark.slow("fuzz", seconds=seconds))])
