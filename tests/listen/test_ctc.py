"""The forced CTC path against enumeration, and windows that lose nothing."""

from itertools import pairwise, product

import numpy as np
import pytest

from shibolet.listen.ctc import windows
from shibolet.listen.viterbi import ForcedPath, forced_paths

BLANK = 0


def viterbi(logp: np.ndarray, tokens: np.ndarray, blank: int) -> ForcedPath | None:
    return forced_paths([logp], [tokens], blank)[0]


def collapse(path: tuple[int, ...]) -> list[int]:
    return [s for i, s in enumerate(path) if s != BLANK and (i == 0 or s != path[i - 1])]


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_forced_path_is_the_best_of_all_paths(tokens: list[int]) -> None:
    logp = np.log(np.random.default_rng(len(tokens)).dirichlet(np.ones(3), 5))
    found = viterbi(logp, np.array(tokens), BLANK)
    best = max(
        sum(logp[t, s] for t, s in enumerate(path)) for path in product(range(3), repeat=5) if collapse(path) == tokens
    )
    assert found.score == pytest.approx(best)
    assert found.frame_scores.sum() == pytest.approx(best)
    assert set(found.token_at) == set(range(len(tokens)))


def test_too_few_frames_for_the_tokens_is_no_path() -> None:
    logp = np.log(np.full((2, 3), 1 / 3))
    assert viterbi(logp, np.array([1, 1]), BLANK) is None  # the same token twice needs a blank between
    assert viterbi(logp, np.array([1, 2]), BLANK) is not None


def test_long_paths_do_not_overflow() -> None:
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 900))
    found = viterbi(logp, np.tile([1, 2, 3], 100), BLANK)
    assert found.token_at[-1] == 299
    assert (np.diff(found.token_at) >= 0).all()


@pytest.mark.parametrize("num_samples", [1600, 160_000, 160_001, 500_000])
def test_windows_cover_a_clip_once(num_samples: int) -> None:
    heard = [(start + head, end - tail) for start, end, head, tail in windows(num_samples)]
    assert heard[0][0] == 0 and heard[-1][1] == num_samples
    assert all(before[1] == after[0] for before, after in pairwise(heard))
