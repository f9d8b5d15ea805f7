"""Greedy decoding of many utterances at once through the unmodified transformers model, and beam search by `generate`.

Prompts enter packed, without padding, and leave keys and values in rows of a static cache; each step then writes one
token in every row, on CUDA as the replay of a graph. A row whose utterance has ended takes the next one in line. Among
equal logits the lowest id wins, as in `generate`; in bf16 products of other shapes round differently, so near ties may
fall the other way.

Shapes: R rows, P positions of a row, T tokens of a prefill, N key heads, G query heads of one key head, H head dim.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from shibolet.model.protocols import Ending
from shibolet.model.qwen3_asr.features import PackedLogMel, log_mels
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, num_mel_frames
from shibolet.model.qwen3_asr.packed import attention_as, decode_pack, output_head, pack_clips, packed_attention
from shibolet.model.qwen3_asr.prompt import IGNORED, TokenSequence

ONE_TOKEN = "shibolet_one_token"
CUDA_ROWS, CPU_ROWS = 256, 32  # at most; fewer where memory is short
CPU_BYTES = 4 << 30  # what keys, values and prefills may take where no device says what is free
CACHE_FRAC, PREFILL_FRAC = 0.5, 0.25  # of that; the rest is for graphs and for others
PREFILL_FRAMES = 48_000  # mel frames of one prefill at most: 8 minutes, 4 GB of convolution outputs at the real size
REFILL_FRAC = 0.25  # of the rows must be free before others enter: a prefill of few tokens wastes a GPU
STEPS = 4  # between two looks at which rows have ended: one wait for the device each
LOOP_STEPS = 32  # between two questions whether a row is in a loop
SEEN_POSITIONS = 64  # a step attends to a multiple of this; there is one graph a multiple
ROW_POSITIONS = 256  # a row has a multiple of this, so that few calls ask for longer rows than there are


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with its audio, and how many tokens may follow."""

    prompt: list[int]
    samples: np.ndarray  # [S], mono at 16 kHz
    max_new_tokens: int


class GreedyDecoder:
    """Token ids that follow prompts; rows and graphs are kept from one call to the next."""

    def __init__(
        self,
        model: PreTrainedModel,
        features: PackedLogMel,
        *,
        audio_id: int,
        stop_ids: Sequence[int],
        max_rows: int | None = None,
    ) -> None:
        self._model, self._features, self._audio_id, self._device = model, features, audio_id, model.device
        self._stop_ids = torch.tensor(sorted(stop_ids), device=self._device)
        self._max_rows = max_rows or (CUDA_ROWS if self._device.type == "cuda" else CPU_ROWS)
        self._rows: _Rows | None = None
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}  # by positions seen; None: run once, not captured

    @torch.inference_mode()
    def decode(
        self,
        requests: Iterable[Request],
        max_positions: int,
        is_loop: Callable[[int, list[int]], bool] = lambda index, ids: False,
    ) -> Iterator[tuple[int, list[int], Ending]]:
        """Index of each request, the ids that follow it (a stop id last, if there is one) and why they end.

        `requests` are taken as rows become free; none may need more than `max_positions` for prompt and new tokens.
        `is_loop` is shown what a row has written so far, every `LOOP_STEPS`, and may end it there.
        """
        rows = self._reserve(max_positions)
        waiting = enumerate(requests)
        written_by: dict[int, tuple[int, Request]] = {}  # row -> index and request
        more, num_steps = True, 0
        while more or written_by:
            free = [row for row in range(rows.num_rows) if row not in written_by]
            if more and (len(free) >= rows.num_rows * REFILL_FRAC or not written_by):
                taken = list(islice(waiting, len(free)))
                more = len(taken) == len(free)
                entered = dict(zip(free, taken))
                self._enter(rows, {row: request for row, (_, request) in entered.items()})
                written_by |= entered
            elif written_by:
                ahead = max(len(request.prompt) + rows.written[row] for row, (_, request) in written_by.items())
                seen = min(-(-(ahead + STEPS) // SEEN_POSITIONS) * SEEN_POSITIONS, rows.num_positions)
                for _ in range(STEPS):
                    self._step(rows, seen)
                num_steps += STEPS
            rows.look()
            asks = num_steps % LOOP_STEPS == 0
            for row, (index, _) in list(written_by.items()):
                if not (rows.ended[row] or asks):
                    continue
                ids = rows.ids[row, : rows.written[row]].tolist()
                if rows.ended[row]:
                    yield index, ids, "end" if ids[-1] in rows.stop_ids else "limit"
                elif is_loop(index, ids):
                    rows.done[row] = True
                    yield index, ids, "loop"
                else:
                    continue
                del written_by[row]

    def _reserve(self, max_positions: int) -> "_Rows":
        """Rows of at least so many positions; graphs hold the addresses of theirs and go when rows are made anew."""
        if self._rows is None or self._rows.num_positions < max_positions:
            self._rows, self._graphs = None, {}  # free before more is taken
            positions = -(-max_positions // ROW_POSITIONS) * ROW_POSITIONS
            self._rows = _Rows(self._model, self._max_rows, positions, self._stop_ids)
        return self._rows

    def _enter(self, rows: "_Rows", requests: dict[int, Request]) -> None:
        """Read prompts into rows and write the first token of each."""
        part: dict[int, Request] = {}
        for row, request in requests.items():
            if part and sum(map(_frames, part.values())) + _frames(request) > rows.prefill_frames:
                self._prefill(rows, part)
                part = {}
            part[row] = request
        if part:
            self._prefill(rows, part)

    def _prefill(self, rows: "_Rows", requests: dict[int, Request]) -> None:
        prompts = [request.prompt for request in requests.values()]
        sequences = [TokenSequence(prompt, [IGNORED] * (len(prompt) - 1) + [0]) for prompt in prompts]
        clips = [request.samples for request in requests.values()]
        pack = pack_clips(sequences, clips, self._features, self._audio_id, shift=False)
        starts = torch.tensor([row * rows.num_positions for row in requests]).repeat_interleave(
            torch.tensor([len(prompt) for prompt in prompts])
        )
        cache = _RowCache(rows, starts.to(self._device) + pack.position_ids[0], seen=None)
        with packed_attention(self._model):
            hidden = decode_pack(self._model, pack, cache)
        chosen = output_head(self._model)(hidden).argmax(-1)
        at = torch.tensor(list(requests), device=self._device)
        rows.position[at] = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        rows.limit[at] = torch.tensor([r.max_new_tokens for r in requests.values()], device=self._device)
        rows.count[at] = 0
        rows.done[at] = False
        rows.append(chosen, at)

    def _step(self, rows: "_Rows", seen: int) -> None:
        """One token more in every row; on CUDA the first step at a width runs, the second is captured, all replay."""
        if self._device.type != "cuda" or seen not in self._graphs:
            self._graphs[seen] = None
            self._forward(rows, seen)
            return
        graph = self._graphs[seen]
        if graph is None:
            graph = self._graphs[seen] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=rows.pool, capture_error_mode="thread_local"):  # others may use the GPU
                self._forward(rows, seen)
        graph.replay()

    def _forward(self, rows: "_Rows", seen: int) -> None:
        model = self._model
        embeds = model.get_input_embeddings()(rows.token)[:, None]
        visible = torch.arange(seen, device=self._device)[None] <= rows.position[:, None]
        mask = torch.zeros(visible.shape, dtype=embeds.dtype, device=self._device).masked_fill(~visible, -torch.inf)
        with attention_as(model, ONE_TOKEN):
            hidden = model.model.language_model(
                inputs_embeds=embeds,
                attention_mask={"full_attention": mask[:, None, None]},
                position_ids=rows.position[:, None],
                past_key_values=_RowCache(rows, rows.row_start + rows.position, seen),
                use_cache=True,
            ).last_hidden_state
        rows.position += ~rows.done  # a row that has ended stays where it is, and its token goes nowhere
        rows.append(output_head(model)(hidden[:, 0]).argmax(-1))


class _Rows:
    """What R utterances have written so far, on the device, and the host's last look at it."""

    def __init__(self, model: PreTrainedModel, max_rows: int, num_positions: int, stop_ids: Tensor) -> None:
        config, device = model.config.text_config, model.device
        shape = (config.num_key_value_heads, config.head_dim)
        row_bytes = 2 * config.num_hidden_layers * num_positions * shape[0] * shape[1] * model.dtype.itemsize
        free_bytes = _free_bytes(device)
        num_rows = max(1, min(max_rows, int(free_bytes * CACHE_FRAC) // row_bytes))
        audio = model.config.audio_config  # the first convolution halves both axes; its output, activated, and the next
        frame_bytes = 3 * audio.downsample_hidden_size * audio.num_mel_bins // 4 * model.dtype.itemsize
        self.prefill_frames = min(PREFILL_FRAMES, int(free_bytes * PREFILL_FRAC) // frame_bytes)
        zeros = lambda *size, dtype=torch.long: torch.zeros(size, dtype=dtype, device=device)  # noqa: E731
        # Zeros: what no mask lets through must still be a number.
        self.keys, self.values = (
            [zeros(num_rows * num_positions, *shape, dtype=model.dtype) for _ in range(config.num_hidden_layers)]
            for _ in range(2)
        )
        self.num_rows, self.num_positions = num_rows, num_positions
        self.row_start = torch.arange(num_rows, device=device) * num_positions
        self.position = zeros(num_rows)  # where the next token's key goes
        self.token, self.count, self.limit = zeros(num_rows), zeros(num_rows), zeros(num_rows)
        self.done = torch.ones(num_rows, dtype=torch.bool, device=device)
        self._ids = zeros(num_rows, num_positions + 1)  # the last column takes what rows that have ended write
        self._stop_ids, self.stop_ids = stop_ids, frozenset(stop_ids.tolist())
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def append(self, chosen: Tensor, at: Tensor | None = None) -> None:
        """Add a token to the rows `at`, or to all rows that have not ended."""
        if at is not None:
            self._ids[at, 0] = chosen
            self.token[at], self.count[at] = chosen, 1
            self.done[at] = self._is_stop(chosen) | (self.limit[at] <= 1)
            return
        going = ~self.done
        column = torch.where(going, self.count, self.num_positions)
        self._ids.scatter_(1, column[:, None], chosen[:, None])
        self.token.copy_(torch.where(going, chosen, self.token))
        self.count += going
        self.done |= self._is_stop(chosen) & going | (self.count >= self.limit)

    def _is_stop(self, ids: Tensor) -> Tensor:
        return (ids[:, None] == self._stop_ids).any(-1)

    def look(self) -> None:
        """Bring what has been written to the host; the one place that waits for the device."""
        self.ended, self.written = self.done.tolist(), self.count.tolist()
        self.ids = self._ids[:, : max(self.written)].cpu()


@dataclass(frozen=True, slots=True)
class _RowCache:
    """`past_key_values` of one forward: keeps its keys and values, and gives back what its queries may attend to."""

    rows: _Rows
    target: Tensor  # [T] or [R], where in R * P the new keys belong
    seen: int | None  # None in a prefill: packed attention takes the new keys as they are

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_) -> tuple[Tensor, Tensor]:
        """New keys and values `[1, N, T, H]` as they are, or for `[R, N, 1, H]` all that is seen: `[R, N, seen, H]`."""
        kept = self.rows.keys[layer_idx], self.rows.values[layer_idx]
        for cache, new in zip(kept, (key, value)):
            cache.index_copy_(0, self.target, new.transpose(1, 2).flatten(0, 1))
        if self.seen is None:
            return key, value
        by_row = (cache.view(self.rows.num_rows, self.rows.num_positions, *cache.shape[1:]) for cache in kept)
        return tuple(cache[:, : self.seen].transpose(1, 2) for cache in by_row)


def _frames(request: Request) -> int:
    return num_mel_frames(len(request.samples))


def _free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses, what the allocator holds back included."""
    if device.type != "cuda":
        return CPU_BYTES
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def _attend_one(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, scaling: float, **_
) -> tuple[Tensor, None]:
    """Attention of one query a row; the G query heads of a key head stand where queries of a sequence would."""
    rows, heads, _, dim = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, dim)  # [R, N, G, H]
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, dim), None


AttentionInterface.register(ONE_TOKEN, _attend_one)


@torch.inference_mode()
def generate_padded(
    model: PreTrainedModel,
    features: PackedLogMel,
    requests: Sequence[Request],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> list[tuple[list[int], Ending]]:
    """The same by transformers' `generate`, padded on the left: greedy, or beam search.

    A finished beam counts as its log-probability over its length to the power of `length_penalty`.
    """
    mels, prompts = log_mels([r.samples for r in requests], features), [r.prompt for r in requests]
    num_frames = max(mel.shape[1] for mel in mels)
    num_frames += -num_frames % CHUNK_FRAMES
    num_tokens = max(map(len, prompts))
    written = model.generate(
        input_ids=torch.tensor([[pad_id] * (num_tokens - len(p)) + p for p in prompts], device=model.device),
        attention_mask=torch.tensor([[0] * (num_tokens - len(p)) + [1] * len(p) for p in prompts], device=model.device),
        input_features=torch.stack([F.pad(mel, (0, num_frames - mel.shape[1])) for mel in mels]).to(
            model.device, model.dtype
        ),
        input_features_mask=torch.stack([(torch.arange(num_frames) < mel.shape[1]).long() for mel in mels]).to(
            model.device
        ),
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max(request.max_new_tokens for request in requests),
        eos_token_id=sorted(stop_ids),
        pad_token_id=pad_id,
        **({"length_penalty": length_penalty} if num_beams > 1 else {}),
    )[:, num_tokens:]
    found: list[tuple[list[int], Ending]] = []
    for row, request in zip(written.tolist(), requests, strict=True):
        ids = row[: request.max_new_tokens]
        end = next((i for i, token in enumerate(ids) if token in set(stop_ids)), None)
        found.append((ids, "limit") if end is None else (ids[: end + 1], "end"))
    return found
