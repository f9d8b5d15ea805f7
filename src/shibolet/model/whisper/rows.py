"""Clips that are written together: what each layer of the decoder looks at, and tokens, one more in every row a step.

All rows begin at once with the same prompt, so that a row's position is the number of steps. A row that has ended is
left out of both attentions, which read most of what a step reads; its other products are too small to matter. On CUDA a
step is the replay of one graph, and the host waits for none of them.

A clip has one row, or as many as there are temperatures: these share the keys and values of its window, and one reading
of the prompt.

Shapes: R rows, C clips, E rows of a clip, S encoder states (1500), P positions (448), N heads, H head dim, D model dim.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from shibolet.errors import ModelError
from shibolet.model.choosing import Choosing
from shibolet.model.fast.device import CPU_BYTES, fitting_rows, graph_of, in_steps, send_to
from shibolet.model.fast.kernels import attend_rows
from shibolet.model.outline import CACHE_FRAC
from shibolet.model.whisper.packed import decoder_states, head, keys_and_values
from shibolet.model.whisper.prompt import TranscriptionFrame

# Settings of a generation configuration that change greedy decoding, and what leaves it as it is. Those that bar tokens
# are read; published Whispers have no others.
_PLAIN = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "bad_words_ids": None,
    "sequence_bias": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "guidance_scale": 1.0,
}  # fmt: skip


def num_rows_of(model: WhisperForConditionalGeneration, most: int, share: float = 1.0, each: int = 1) -> int:
    """Rows of one decoder, `each` a clip: by the model and its device alone, in a share of the memory for all rows."""
    is_cuda = model.device.type == "cuda"
    total = torch.cuda.get_device_properties(model.device).total_memory if is_cuda else CPU_BYTES
    return max(1, min(most, in_steps(int(total * CACHE_FRAC * share) // _row_bytes(model, each))))


def _row_bytes(model: WhisperForConditionalGeneration, each: int) -> int:
    """Keys and values of a row's part of the window and of what is written."""
    config = model.config
    positions = -(-config.max_source_positions // each) + config.max_target_positions
    return 2 * config.decoder_layers * positions * config.d_model * model.dtype.itemsize


class Rows:
    """At most R clips, on the device of their model."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        frame: TranscriptionFrame,
        num_rows: int,
        *,
        repeat_bias: float = 0.0,
        temperatures: Sequence[float] = (),
    ) -> None:
        config, self._model, self._device, self._frame = model.config, model, model.device, frame
        self.temperatures, self.each = tuple(temperatures), max(1, len(temperatures))
        self.num_clips = max(1, fitting_rows(num_rows, _row_bytes(model, self.each), self._device) // self.each)
        num_rows = self.num_clips * self.each
        self.max_new_tokens = config.max_target_positions - len(frame.prompt)
        heads = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
        zeros = lambda *size, dtype=torch.long: torch.zeros(size, dtype=dtype, device=self._device)  # noqa: E731
        # Keys and values of each layer. Zeros: what no mask lets through must still be a number.
        pairs = lambda num, length: [  # noqa: E731
            tuple(zeros(num, length, *heads, dtype=model.dtype) for _ in range(2)) for _ in range(config.decoder_layers)
        ]
        self._window = pairs(self.num_clips, config.max_source_positions)
        self._own = pairs(num_rows, config.max_target_positions)
        self._choosing = Choosing(num_rows, self._device, repeat_bias=repeat_bias, draws=bool(temperatures))
        self._all = torch.arange(num_rows, device=self._device)
        self._token, self._position, self._last = zeros(num_rows), zeros(num_rows), zeros(num_rows)
        self._done = torch.ones(num_rows, dtype=torch.bool, device=self._device)
        self._board = zeros(config.max_target_positions + 1, num_rows)  # the token at each position
        self._barred, self._barred_first = _barred(model)
        self._num, self._num_steps = num_rows, 0  # rows in use; steps since they began
        # Made while every row has ended, so that running it changes no text.
        self._graph = graph_of(partial(self._step, self.max_new_tokens), self._device)

    def begin(self, states: Iterable[Tensor], limits: Sequence[int], seeds: Sequence[int] = ()) -> None:
        """Other clips: their encoder states `[some, S, D]` in turn, and how many tokens may be written for each.

        The first token of every row is written. `seeds` are those of the clips, where tokens are drawn.
        """
        first, prompt = 0, self._frame.prompt
        for some in states:
            for layer, window in zip(self._model.model.decoder.layers, self._window, strict=True):
                for kept, new in zip(window, keys_and_values(layer.encoder_attn, some), strict=True):
                    kept[first : first + len(some)] = new
            first += len(some)
        if first != len(limits):
            raise ValueError(f"encoder states of {first} clips with limits of {len(limits)}")
        num = first * self.each
        self._num = len(self._all) if self._graph else num
        last = torch.zeros(len(self._all), dtype=torch.long)  # of rows that are not in use: they end at once
        last[:num] = (torch.tensor(limits) + len(prompt) - 1).repeat_interleave(self.each)
        self._last.copy_(self._send(last))
        self._position.fill_(len(prompt) - 1)
        self._done.fill_(False)
        self._choosing.begin(self._all[:num], seeds, self.temperatures)
        self._num_steps = 0
        ids = self._send(torch.tensor(prompt)).expand(first, -1)
        hidden = decoder_states(
            self._model, ids, self._send(torch.arange(len(prompt))), self._read_prompt, self._look_all
        )
        logits = head(self._model)(hidden[:, -1])
        self._write(logits.repeat_interleave(self.each, dim=0) if self.each > 1 else logits, self._barred_first)
        self._done[num:] = True

    def steps(self, num: int) -> None:
        """So many tokens more in every row that has not ended."""
        for _ in range(num):
            self._num_steps += 1
            if self._graph:
                self._graph.replay()
            else:
                self._step(min(len(self._frame.prompt) + self._num_steps, len(self._board) - 1))

    def look(self) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Begin to bring what rows have written by now to the host.

        The call that comes back waits until it is here, and gives the ids `[R, tokens]` up to now; those behind a row's
        end are no text. Beside them log-probabilities `[R]` of the rows' texts; None: nobody draws.
        """
        first, logp = len(self._frame.prompt), self._choosing.logp
        lines = self._board[first : first + 1 + self._num_steps].to("cpu", non_blocking=True, copy=True)
        logp = logp if logp is None else logp.to("cpu", non_blocking=True, copy=True)
        here = torch.cuda.Event() if self._device.type == "cuda" else None
        if here:
            here.record(torch.cuda.current_stream(self._device))

        def written() -> tuple[np.ndarray, np.ndarray | None]:
            if here:
                here.synchronize()
            return lines.T.numpy(), logp if logp is None else logp.numpy()

        return written

    def end(self, row: int) -> None:
        """Write no more in a row."""
        self._done[row] = True

    def _read_prompt(self, attention: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Self-attention `[c, p, N, H]` of the prompts of the first clips, whose rows keep their keys and values."""
        for kept, new in zip(self._own[attention.layer_idx], (key, value), strict=True):
            kept.unflatten(0, (-1, self.each))[: new.shape[0], :, : new.shape[1]] = new[:, None]
        by_head = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(*by_head, is_causal=True, scale=1.0).transpose(1, 2)

    def _look_all(self, attention: nn.Module, query: Tensor) -> Tensor:
        """Cross-attention `[c, p, N, H]` of the prompts of the first clips."""
        by_head = (x[: len(query)].transpose(1, 2) for x in (query, *self._window[attention.layer_idx]))
        return F.scaled_dot_product_attention(*by_head, scale=1.0).transpose(1, 2)

    def _step(self, seen: int) -> None:
        num, done = self._num, self._done[: self._num]
        position = self._position[:num]

        def attend_own(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = (x[:num] for x in self._own[attention.layer_idx])
            return attend_rows(query, key, value, keys, values, position, done, seen=seen, scaling=1.0)

        def attend_window(attention: nn.Module, query: Tensor) -> Tensor:
            return _attend_window(query, *(x[: num // self.each] for x in self._window[attention.layer_idx]), done)

        hidden = decoder_states(self._model, self._token[:num], position, attend_own, attend_window)
        self._write(head(self._model)(hidden), self._barred)

    def _write(self, logits: Tensor, barred: Tensor) -> None:
        """Choose the next token of the first rows `[r, V]`. What rows that have ended choose lies behind their end."""
        num = len(logits)
        done, position, token = self._done[:num], self._position[:num], self._token[:num]
        chosen = self._choosing(logits.masked_fill_(barred, -torch.inf), slice(0, num), ~done)
        self._board[:, :num].scatter_(0, position[None] + 1, chosen[None])
        token.copy_(chosen)
        position += ~done
        done |= (chosen == self._frame.end_id) | (position >= self._last[:num])

    def _send(self, tensor: Tensor) -> Tensor:
        return send_to(self._device, tensor)


def _attend_window(query: Tensor, keys: Tensor, values: Tensor, done: Tensor) -> Tensor:
    """Attention `[R, N, H]` of one token a row to all of its clip's window `[C, S, N, H]`, by the R / C rows of a clip.

    Clips whose rows are all done cost nothing.
    """
    by_clip, done = query.unflatten(0, (len(keys), -1)), done.view(len(keys), -1).all(1)  # [C, E, N, H], [C]
    if query.is_cuda:  # a clip's rows are queries of one key head; the last key is put where it is already
        last = torch.full((len(keys),), keys.shape[1] - 1, device=query.device)
        grouped = by_clip.transpose(1, 2)  # [C, N, E, H]
        found = attend_rows(
            grouped.flatten(1, 2), keys[:, -1], values[:, -1], keys, values, last, done, seen=keys.shape[1], scaling=1.0
        )
        return found.view(grouped.shape).transpose(1, 2).flatten(0, 1)
    found = torch.zeros_like(by_clip)
    for clip in (~done).nonzero().flatten().tolist():
        by_head = (x[clip].transpose(0, 1)[None] for x in (by_clip, keys, values))
        found[clip] = F.scaled_dot_product_attention(*by_head, scale=1.0)[0].transpose(0, 1)
    return found.flatten(0, 1)


def _barred(model: WhisperForConditionalGeneration) -> tuple[Tensor, Tensor]:
    """Tokens `[V]` that are never written, and those that are not written first; ModelError for other settings."""
    settings = model.generation_config
    for name, plain in _PLAIN.items():
        if (value := getattr(settings, name, None)) not in (None, plain):
            raise ModelError(
                f"the model's generation_config.json sets {name} to {value}, which shibolet does not support; "
                "remove it there"
            )
    never = torch.zeros(head(model).out_features, dtype=torch.bool)
    never[list(settings.suppress_tokens or [])] = True
    first = never.clone()
    first[list(settings.begin_suppress_tokens or [])] = True
    return never.to(model.device), first.to(model.device)
