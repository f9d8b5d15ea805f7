"""Rows of a static cache: what many utterances have written so far, and how a forward reads and fills them.

Shapes: R rows, P positions of a row, T tokens of a forward, K keys of a forward, N key heads, G query heads of one key
head, H head dim, D model dim.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from shibolet.model.choosing import Choosing
from shibolet.model.fast.device import CPU_BYTES, fitting_rows, in_steps
from shibolet.model.fast.kernels import attend_rows
from shibolet.model.outline import CACHE_FRAC

ONE_TOKEN = "shibolet_one_token"
PREFILL_FRAC = 0.25  # of the device's memory
PREFILL_FRAMES = 48_000  # mel frames of one prefill at most: 8 minutes, 4 GB of convolution outputs at the real size
GROUP_FRAC = 0.25  # of the rows, at most, take their prompts together: a prefill of few tokens wastes a GPU
ROW_POSITIONS = 256  # a row has a multiple of this, so that few calls ask for longer rows than there are
CUDA_POSITIONS = 768  # and there so many: 15 s of audio that is written down at 25 tokens a second


class Rows:
    """What R utterances have written so far, on the device."""

    def __init__(
        self,
        model: PreTrainedModel,
        size: "RowsSize",
        stop_ids: Tensor,
        *,
        repeat_bias: float = 0.0,
        draws: bool = False,
    ) -> None:
        config, device = model.config.text_config, model.device
        self.size, self.num_positions = size, size.num_positions
        self.num_rows = fitting_rows(size.num_rows, size.row_bytes, device)
        self.group_rows = max(1, int(self.num_rows * GROUP_FRAC))
        zeros = lambda *size, dtype=torch.long: torch.zeros(size, dtype=dtype, device=device)  # noqa: E731
        shape = (2 * self.num_rows * self.num_positions, config.num_key_value_heads, config.head_dim)
        # Keys, then values. Zeros: what no mask lets through must still be a number.
        self.both = [zeros(*shape, dtype=model.dtype) for _ in range(config.num_hidden_layers)]
        self.keys, self.values = zip(*(both.chunk(2) for both in self.both), strict=True)
        self.hidden = zeros(self.num_rows, config.hidden_size, dtype=model.dtype)  # last, at the end of each prompt
        self.row_start = torch.arange(self.num_rows, device=device) * self.num_positions
        self.position = zeros(self.num_rows)  # where the next token's key goes
        self.token, self.limit = zeros(self.num_rows), zeros(self.num_rows)
        self.done = torch.ones(self.num_rows, dtype=torch.bool, device=device)
        # How many tokens each row has and then its tokens, so that one copy brings both to the host. Tokens of all
        # rows stand beside each other; the last line takes what rows that have ended write.
        self._board = zeros(1 + self.num_positions + 1, self.num_rows)
        self.count, self._ids = self._board[0], self._board[1:]
        self._stop_ids, self.stop_ids = stop_ids, frozenset(stop_ids.tolist())
        self.choosing = Choosing(self.num_rows, device, repeat_bias=repeat_bias, draws=draws)

    def clear(self) -> None:
        """End every row, also those of a caller who gave up."""
        self.done.fill_(True)

    def append(self, logits: Tensor, at: Tensor | None = None) -> None:
        """Add the first token to the rows `at`, or the next to all rows that have not ended, by their logits."""
        if at is not None:
            chosen = self.choosing(logits, at)
            self._ids[0, at] = chosen
            self.token[at] = chosen
            self.count.index_fill_(0, at, 1)  # an assigned number would be copied there, and waited for
            self.done[at] = self._is_stop(chosen) | (self.limit[at] <= 1)
            return
        going = ~self.done
        chosen = self.choosing(logits, slice(None), going)
        line = torch.where(going, self.count, self.num_positions)
        self._ids.scatter_(0, line[None], chosen[None])
        self.token.copy_(torch.where(going, chosen, self.token))
        self.count += going
        self.done |= self._is_stop(chosen) & going | (self.count >= self.limit)

    def _is_stop(self, ids: Tensor) -> Tensor:
        return (ids[:, None] == self._stop_ids).any(-1)

    def look(self, most: int) -> "Look":
        """Begin to bring what has been written by now to the host; no row that is asked for has more than `most`."""
        lines = self._board[: 1 + min(most, self.num_positions)]
        logp = self.choosing.logp
        done, board, logp = (
            x if x is None else x.to("cpu", non_blocking=True, copy=True) for x in (self.done, lines, logp)
        )
        if self.done.device.type != "cuda":
            return Look(done, board, logp, None)
        here = torch.cuda.Event()
        here.record(torch.cuda.current_stream(self.done.device))
        return Look(done, board, logp, here)


@dataclass(frozen=True, slots=True)
class Look:
    """What rows had written at one time, on its way to the host."""

    _done: Tensor  # [R]
    _board: Tensor  # [1 + tokens, R]
    _logp: Tensor | None  # [R]
    _here: torch.cuda.Event | None

    def wait(self) -> None:
        """Until it is here, with all that the device was given before; nothing else waits for the device."""
        if self._here:
            self._here.synchronize()

    @property
    def done(self) -> np.ndarray:
        """Which rows had ended, `[R]`."""
        return self._done.numpy()

    def ids(self, row: int) -> list[int]:
        board = self._board.numpy()
        return board[1 : 1 + board[0, row], row].tolist()

    def logp(self, row: int) -> float | None:
        """Of all that a row had written; None: nobody draws."""
        return None if self._logp is None else float(self._logp[row])


@dataclass(frozen=True, slots=True)
class RowsSize:
    """How many rows of how many positions: by the model and its device alone, whatever has been decoded before."""

    num_rows: int
    num_positions: int
    row_bytes: int
    prefill_frames: int

    @classmethod
    def of(cls, model: PreTrainedModel, max_rows: int, max_positions: int, share: float = 1.0) -> "RowsSize":
        """For calls of at most `max_positions`, in a share of the memory that all rows may have."""
        text, audio, is_cuda = model.config.text_config, model.config.audio_config, model.device.type == "cuda"
        positions = -(-max_positions // ROW_POSITIONS) * ROW_POSITIONS
        positions = max(positions, CUDA_POSITIONS) if is_cuda else positions
        token_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * model.dtype.itemsize
        # The first convolution halves both axes; its output, activated, and the next.
        frame_bytes = 3 * audio.downsample_hidden_size * audio.num_mel_bins // 4 * model.dtype.itemsize
        total = torch.cuda.get_device_properties(model.device).total_memory if is_cuda else CPU_BYTES
        fitting = in_steps(int(total * CACHE_FRAC * share) // (token_bytes * positions))
        frames = max(1, min(PREFILL_FRAMES, int(total * PREFILL_FRAC * share) // frame_bytes))
        return cls(max(1, min(max_rows, fitting)), positions, token_bytes * positions, frames)


class _Prompts(ABC):
    """The cache of a packed forward: what it does with a layer's keys and values is `keep`."""

    @abstractmethod
    def keep(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """For new keys and values `[T, N, H]` those that are attended to, `[K, N, H]`."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """The same as transformers' own layers ask for it: `[1, N, T, H]`, `[1, N, K, H]`."""
        key, value = self.keep(key[0].transpose(0, 1), value[0].transpose(0, 1), layer_idx)
        return key.transpose(0, 1)[None], value.transpose(0, 1)[None]


@dataclass(frozen=True)
class NewPrompts(_Prompts):
    """Of a prefill: keeps its keys and values in one or several rows a prompt, and gives them back as they are."""

    rows: Rows
    targets: Tensor  # [rows of a prompt, T], where in R * P they belong

    def keep(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        for target in self.targets:
            self.rows.keys[layer_idx].index_copy_(0, target, key)
            self.rows.values[layer_idx].index_copy_(0, target, value)
        return key, value


@dataclass(frozen=True)
class OldPrompts(_Prompts):
    """Of texts that go on from prompts in rows: reads those, and leaves them as they are."""

    rows: Rows
    source: Tensor  # [2 * K], where in `rows.both` each key is, then each value; of a text's own ones any place
    own: Tensor  # [T], where in K those belong

    def keep(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        keys, values = self.rows.both[layer_idx].index_select(0, self.source).chunk(2)
        return keys.index_copy_(0, self.own, key), values.index_copy_(0, self.own, value)


def _attend_one(
    module: nn.Module,
    query: Tensor,  # [R, N * G, 1, H]
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    rows: Rows,
    seen: int,
    **_,
) -> tuple[Tensor, None]:
    """Attention of one new token in each row, which keeps its key and value; `[R, 1, N * G, H]`."""
    by_row = (
        cache[module.layer_idx].view(rows.num_rows, rows.num_positions, *cache[0].shape[1:])
        for cache in (rows.keys, rows.values)
    )
    tokens = (x.squeeze(2) for x in (query, key, value))
    return attend_rows(*tokens, *by_row, rows.position, rows.done, seen=seen, scaling=scaling)[:, None], None


AttentionInterface.register(ONE_TOKEN, _attend_one)
