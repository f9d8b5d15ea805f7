"""The likeliest path of a known token sequence through a CTC model's emissions.

Shapes: B clips, T frames, L tokens of a clip, S = 2 L + 1 states (a blank before, between and after tokens), V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = -1e9
TOGETHER = 32  # clips: a frame then costs numpy as much as one clip's would


@dataclass(frozen=True, slots=True)
class ForcedPath:
    """The likeliest CTC path of a token sequence over T frames."""

    score: float  # log-probability
    frame_scores: np.ndarray  # [T] log-probability of the symbol taken at each frame
    token_at: np.ndarray  # [T] index of the token that a frame belongs to: its own, or for a blank the token before
    on_token: np.ndarray  # [T] whether the frame is the token itself and no blank


def forced_paths(
    emissions: Sequence[np.ndarray], tokens: Sequence[Sequence[int]], blank: int
) -> list[ForcedPath | None]:
    """Likeliest alignment of `tokens[i]` [L] to `emissions[i]` [T, V] (Graves et al. 2006, section 4).

    None where the frames cannot hold the tokens (a repeated token needs a blank between).
    """
    found: list[ForcedPath | None] = [None] * len(emissions)
    order = sorted(range(len(emissions)), key=lambda i: len(emissions[i]))
    for first in range(0, len(order), TOGETHER):
        batch = order[first : first + TOGETHER]
        for i, path in zip(
            batch, _batch([emissions[i] for i in batch], [tokens[i] for i in batch], blank), strict=True
        ):
            found[i] = path
    return found


def _batch(emissions: list[np.ndarray], tokens: list[Sequence[int]], blank: int) -> list[ForcedPath | None]:
    num_frames = np.array([len(logp) for logp in emissions])
    num_states = np.array([2 * len(own) + 1 for own in tokens])
    symbols = np.full((len(tokens), num_states.max()), blank)  # [B, S]; states beyond a clip's own reach no other
    for row, own in zip(symbols, tokens, strict=True):
        row[1 : 2 * len(own) : 2] = own
    # A token may be reached from the token before it, skipping the blank, unless both are the same.
    may_skip = np.zeros(symbols.shape, bool)
    may_skip[:, 3::2] = symbols[:, 3::2] != symbols[:, 1:-2:2]
    logp = np.zeros((num_frames.max(), len(tokens), emissions[0].shape[1]), emissions[0].dtype)  # [T, B, V]
    for i, own in enumerate(emissions):
        logp[: len(own), i] = own
    rows = np.arange(len(tokens))[:, None]
    best = np.full(symbols.shape, IMPOSSIBLE)
    best[:, :2] = logp[0][rows, symbols[:, :2]]
    came_from = np.zeros((len(logp), *symbols.shape), np.int8)
    for t in range(1, len(logp)):
        going = t < num_frames
        one, two = np.full_like(best, IMPOSSIBLE), np.full_like(best, IMPOSSIBLE)
        one[:, 1:], two[:, 2:] = best[:, :-1], best[:, :-2]
        two[~may_skip] = IMPOSSIBLE
        step = (one > best).astype(np.int8)
        top = np.maximum(one, best)
        step[two > top] = 2
        came_from[t] = step * going[:, None]
        best = np.where(going[:, None], np.maximum(top, two) + logp[t][rows, symbols], best)
    flat = rows[:, 0]
    last = best[flat, num_states - 1]
    before = np.where(num_states > 1, best[flat, num_states - 2], IMPOSSIBLE)
    state = np.where(last >= before, num_states - 1, num_states - 2)
    score = np.maximum(last, before)
    states = np.empty((len(logp), len(tokens)), np.int64)
    for t in range(len(logp) - 1, -1, -1):
        states[t] = state
        state = state - came_from[t, flat, state]
    paths: list[ForcedPath | None] = []
    for i, n in enumerate(num_frames):
        own = states[:n, i]
        scores = logp[np.arange(n), i, symbols[i, own]]
        path = ForcedPath(float(score[i]), scores, np.maximum((own + 1) // 2 - 1, 0), own % 2 == 1)
        paths.append(path if score[i] > IMPOSSIBLE / 2 else None)
    return paths
