"""Greedy decoding of many utterances at once through the unmodified transformers model, and beam search by `generate`.

Prompts enter packed, without padding, and leave keys and values in rows of a static cache; each step then writes one
token in every row, on CUDA as the replay of a graph. A row whose utterance has ended takes another one, after the texts
that are to be judged have been scored on its prompt. Among equal logits the lowest id wins, as in `generate`; in bf16
products of other shapes round differently, so near ties may fall the other way.

The host reads what rows had written while the device goes on: `CUDA_LAG` looks are always under way. What is computed
together follows from the requests and from fixed lengths, never from the time that something takes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from shibolet.errors import ModelError
from shibolet.model.ahead import one_ahead
from shibolet.model.fast.device import CAPTURING, graph_of, send_to
from shibolet.model.ngram.fusion import Fusion
from shibolet.model.protocols import Decoded, Ending, Texts, TextsOf
from shibolet.model.qwen3_asr.continuations import Text, continuation_logps
from shibolet.model.qwen3_asr.features import PackedLogMel, PackedSamples, lay_samples, log_mels
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, num_mel_frames
from shibolet.model.qwen3_asr.packed import Pack, attention_as, decode_pack, lay_out, output_head, packed_attention
from shibolet.model.qwen3_asr.prompt import IGNORED, TokenSequence
from shibolet.model.qwen3_asr.rows import ONE_TOKEN, Look, NewPrompts, Rows, RowsSize

CUDA_ROWS, CPU_ROWS = 512, 32  # at most; fewer where memory is short
STEPS = 2  # between two looks at which rows have ended
# Looks under way while the host reads the one before them and acts on it: the device has as many rounds of STEPS to do
# meanwhile. A row writes nothing for STEPS / 2 + STEPS * CUDA_LAG steps before its end is known, 3 beside about 40.
CUDA_LAG, CPU_LAG = 1, 0
LOOP_STEPS = 32  # between two questions whether a row is in a loop


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with its audio, and how many tokens may follow."""

    prompt: list[int]
    samples: np.ndarray  # [S], mono at 16 kHz
    max_new_tokens: int
    seed: int = 0  # of what is drawn


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests whose prompts are read together, laid out on the host."""

    requests: list[tuple[int, Request]]  # with the index of each
    pack: Pack
    samples: PackedSamples
    nums_prompt: Tensor  # [U]
    limits: Tensor  # [U]


@dataclass(slots=True)
class _Ended:
    """What a row has written, and the texts that are scored before it is another's."""

    row: int
    num_prompt: int
    index: int
    ids: list[int]
    ending: Ending
    logp: float | None = None
    texts: Sequence[Sequence[int]] = field(default_factory=list)

    def decoded(self, logps: tuple[np.ndarray, ...] | None) -> Decoded:
        return Decoded(self.index, self.ids, self.ending, logps, self.logp)


@dataclass(frozen=True, slots=True)
class _Round:
    """What the host asked of the device between two looks; all of it is here when the look is."""

    look: Look
    num_steps: int  # since the call began
    scored: list[_Ended]
    logps: Tensor  # of all their labels in turn


class _Writing:
    """Which request writes in which row, and since when: what the host knows without the device."""

    def __init__(self, num_rows: int) -> None:
        self.num_steps = 0  # since the call began
        self._requests: dict[int, tuple[int, Request]] = {}
        self._since = np.full(num_rows, np.iinfo(np.int64).max)  # steps before; of rows that do not write no number
        self._num_prompt = np.zeros(num_rows, np.int64)

    def __bool__(self) -> bool:
        return bool(self._requests)

    def begin(self, rows: Sequence[int], requests: Sequence[tuple[int, Request]]) -> None:
        self._requests |= zip(rows, requests, strict=True)
        self._since[rows] = self.num_steps
        self._num_prompt[rows] = [len(request.prompt) for _, request in requests]

    def end(self, row: int) -> None:
        del self._requests[row]
        self._since[row] = np.iinfo(np.int64).max

    def most_written(self) -> int:
        """Tokens that a row can have by now."""
        return 1 + self.num_steps - int(self._since.min()) if self else 0

    def longest(self) -> int:
        """The most positions that a row can have by now, with its prompt."""
        return 1 + self.num_steps + int((self._num_prompt - self._since).max())

    def at(self, num_steps: int, among: np.ndarray) -> list[tuple[int, int, Request]]:
        """Rows of `among` `[R]` that write and did so then, with what they write, in the order of the requests."""
        rows = np.flatnonzero(among & (self._since < num_steps)).tolist()
        return sorted(((row, *self._requests[row]) for row in rows), key=lambda one: one[1])


class GreedyDecoder:
    """Token ids that follow prompts; rows and their graph are kept from one call to the next.

    With `temperatures` a prompt is read once and has as many rows, in which tokens are drawn (0: the likeliest).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        features: PackedLogMel,
        *,
        audio_id: int,
        stop_ids: Sequence[int],
        max_rows: int | None = None,
        share: float = 1.0,  # of the device's memory for rows
        repeat_bias: float = 0.0,  # as in `Decoding`
        temperatures: Sequence[float] = (),
    ) -> None:
        self._model, self._features, self._audio_id, self._device = model, features, audio_id, model.device
        self._stop_ids = torch.tensor(sorted(stop_ids), device=self._device)
        default_rows, self._lag = (CUDA_ROWS, CUDA_LAG) if self._device.type == "cuda" else (CPU_ROWS, CPU_LAG)
        self.temperatures, self._each, self._repeat_bias = tuple(temperatures), max(1, len(temperatures)), repeat_bias
        clips = max_rows or max(1, int(share * default_rows))  # as many prompts at once, where a GPU has so many rows
        self._max_rows, self._share = max(min(clips * self._each, CUDA_ROWS), clips, self._each), share
        self._rows: Rows | None = None
        self._graph: torch.cuda.CUDAGraph | None = None  # of a step

    @torch.inference_mode()
    def decode(
        self,
        requests: Iterable[Request],
        max_positions: int,
        is_loop: Callable[[int, list[int]], bool] = lambda index, ids: False,
        texts_of: TextsOf | None = None,
    ) -> Iterator[Decoded]:
        """What follows each request (a stop id last, if there is one), by its index, in any order.

        With temperatures what each row writes, by the index of its request times their number and its own.

        `requests` are taken as rows become free; none may need more than `max_positions` for prompt and new tokens.
        `is_loop` is shown what a row has written so far, every `LOOP_STEPS`, and may end it there. The labels that
        `texts_of` gives for what was written are scored on the prompt; without it nothing is scored.
        """
        rows = self._reserve(max_positions)
        free, writing = list(range(rows.num_rows)), _Writing(rows.num_rows)
        ended: list[_Ended] = []  # at the last look that was read
        asked: list[tuple[list[_Ended], Callable[[], Texts]]] = []  # their texts are being found
        under_way: deque[_Round] = deque()
        read: _Round | None = None  # last, so that its scores are here
        with closing(one_ahead(self._groups(requests, rows))) as groups:
            group = next(groups, None)
            while group or writing or ended or asked or under_way or read:
                settled: list[_Ended] = []
                room = self._each * len(group.requests) if group else rows.group_rows
                if asked and (len(free) + sum(len(some) for some, _ in asked) >= room or not writing):
                    settled, asked = _with_texts(asked), []
                    free = sorted([*free, *(one.row for one in settled)])
                logps = self._score(rows, settled)
                while group and (num := self._each * len(group.requests)) <= len(free):
                    taken, free = free[:num], free[num:]
                    self._prefill(rows, group, taken)
                    writing.begin(taken, self._of_rows(group.requests))
                    group = next(groups, None)
                if writing:
                    writing.num_steps += STEPS
                    self._steps(rows, writing.longest())
                if writing or settled:
                    look = rows.look(writing.most_written())
                    under_way.append(_Round(look, writing.num_steps, settled, logps))
                # The device is busy now: what the host has to do is done beside it.
                if read:
                    yield from _with_logps(read.scored, read.logps)
                if texts_of is None:
                    yield from (one.decoded(None) for one in ended)
                elif ended:
                    asked.append((ended, texts_of([(one.index, one.ids) for one in ended])))
                read, ended = None, []
                if len(under_way) > self._lag or (under_way and not writing):
                    read = under_way.popleft()
                    read.look.wait()
                    ended = self._ended(rows, writing, read, is_loop)
                    if texts_of is None:
                        free = sorted([*free, *(one.row for one in ended)])

    def _ended(
        self, rows: Rows, writing: _Writing, made: _Round, is_loop: Callable[[int, list[int]], bool]
    ) -> list[_Ended]:
        """Rows that had ended at a look, or are ended here as loops; they write no more."""
        found, is_done = [], made.look.done
        may_loop = made.num_steps % LOOP_STEPS == 0
        for row, index, request in writing.at(made.num_steps, is_done | may_loop):
            ids = made.look.ids(row)
            if is_done[row]:
                ending: Ending = "end" if ids[-1] in rows.stop_ids else "limit"
            elif is_loop(index // self._each, ids):
                rows.done[row] = True
                ending = "loop"
            else:
                continue
            writing.end(row)
            found.append(_Ended(row, len(request.prompt), index, ids, ending, made.look.logp(row)))
        return found

    def _score(self, rows: Rows, ended: Sequence[_Ended]) -> Tensor:
        """Log-probabilities of all labels in turn, on their way to the host: they are there when the next look is."""
        texts = [Text(one.row, one.num_prompt, labels) for one in ended for labels in one.texts]
        if not texts:
            return torch.zeros(0)
        return continuation_logps(self._model, rows, texts).to("cpu", non_blocking=True)

    def _reserve(self, max_positions: int) -> Rows:
        """Rows for a call, and the graph of their steps; they go when a call needs others."""
        size = RowsSize.of(self._model, self._max_rows, max_positions, self._share)
        held = self._rows and self._rows.size
        # As many rows as if this were the first call: products of other shapes round differently.
        if held is None or held.num_rows != size.num_rows or held.num_positions < size.num_positions:
            with CAPTURING:
                self._rows = self._graph = None  # free before more is taken
                bias, draws = self._repeat_bias, bool(self.temperatures)
                self._rows = Rows(self._model, size, self._stop_ids, repeat_bias=bias, draws=draws)
                if self._rows.num_rows < self._each:
                    raise ModelError(
                        f"there is memory for {self._rows.num_rows} rows, and a clip takes {self._each} for its greedy "
                        "text and its samples; draw fewer"
                    )
                # Made while every row has ended, so that running it changes nothing.
                self._graph = graph_of(partial(self._forward, self._rows, self._rows.num_positions), self._device)
        self._rows.clear()
        return self._rows

    def _groups(self, requests: Iterable[Request], rows: Rows) -> Iterator[_Group]:
        """The requests in parts that fit into a prefill."""
        part, frames, most = [], 0, max(1, rows.group_rows // self._each)
        for index, request in enumerate(requests):
            own = num_mel_frames(len(request.samples))
            if part and (len(part) == most or frames + own > rows.size.prefill_frames):
                yield self._lay_out(part)
                part, frames = [], 0
            part.append((index, request))
            frames += own
        if part:
            yield self._lay_out(part)

    def _of_rows(self, requests: Sequence[tuple[int, Request]]) -> list[tuple[int, Request]]:
        """What each row of some requests writes: by the numbers of `decode`."""
        return [(index * self._each + row, request) for index, request in requests for row in range(self._each)]

    def _lay_out(self, requests: list[tuple[int, Request]]) -> _Group:
        prompts, clips = [r.prompt for _, r in requests], [r.samples for _, r in requests]
        sequences = [TokenSequence(prompt, [IGNORED] * (len(prompt) - 1) + [0]) for prompt in prompts]
        frames = [num_mel_frames(len(clip)) for clip in clips]
        pack, samples = lay_out(sequences, frames, self._audio_id, shift=False), lay_samples(clips)
        if self._device.type == "cuda":
            pack, samples = pack.pin_memory(), samples.pin_memory()
        limits = torch.tensor([request.max_new_tokens for _, request in requests])
        return _Group(requests, pack, samples, torch.tensor(list(map(len, prompts))), limits)

    def _prefill(self, rows: Rows, group: _Group, taken: Sequence[int]) -> None:
        """Read prompts into the rows `taken` and write the first token of each."""
        pack = replace(group.pack.to(self._device), features=self._features(group.samples))
        at, lengths, limits = (send_to(self._device, x) for x in (torch.tensor(taken), group.nums_prompt, group.limits))
        starts = rows.row_start[at].view(-1, self._each).t()
        starts = starts.repeat_interleave(lengths, dim=1, output_size=pack.num_tokens)
        with packed_attention(self._model):
            hidden = decode_pack(self._model, pack, NewPrompts(rows, starts + pack.position_ids[0]))
        logits = output_head(self._model)(hidden)
        if self._each > 1:
            hidden, lengths, limits, logits = (
                x.repeat_interleave(self._each, dim=0) for x in (hidden, lengths, limits, logits)
            )
        rows.hidden[at], rows.position[at], rows.limit[at] = hidden, lengths, limits
        rows.choosing.begin(at, [request.seed for _, request in group.requests], self.temperatures)
        rows.append(logits, at)

    def _steps(self, rows: Rows, seen: int) -> None:
        """`STEPS` tokens more in every row that is writing; none has more than `seen` positions then."""
        for _ in range(STEPS):
            if self._graph:
                self._graph.replay()
            else:
                self._forward(rows, min(seen, rows.num_positions))

    def _forward(self, rows: Rows, seen: int) -> None:
        """One token more in every row; none has more than `seen`."""
        model = self._model
        with attention_as(model, ONE_TOKEN):
            hidden = model.model.language_model(
                inputs_embeds=model.get_input_embeddings()(rows.token)[:, None],
                attention_mask={"full_attention": None},
                position_ids=rows.position[:, None],
                use_cache=False,
                rows=rows,
                seen=seen,
            ).last_hidden_state
        rows.position += ~rows.done  # a row that has ended stays where it is, and its token goes nowhere
        rows.append(output_head(model)(hidden[:, 0]))


def _with_texts(asked: Sequence[tuple[list[_Ended], Callable[[], Texts]]]) -> list[_Ended]:
    for some, found in asked:
        for one, texts in zip(some, found(), strict=True):
            one.texts = texts
    return [one for some, _ in asked for one in some]


def _with_logps(ended: Sequence[_Ended], logps: Tensor) -> Iterator[Decoded]:
    own = np.split(logps.numpy(), np.cumsum([len(labels) for one in ended for labels in one.texts]))
    at = 0
    for one in ended:
        yield one.decoded(tuple(own[at : at + len(one.texts)]))
        at += len(one.texts)


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
    fusion: Fusion | None = None,
) -> list[tuple[list[int], Ending]]:
    """The same by transformers' `generate`, padded on the left: greedy, or beam search.

    A finished beam counts as its log-probability over its length to the power of `length_penalty`; `fusion` adds what
    an n-gram says.
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
        logits_processor=fusion and fusion.processors(num_tokens),
        **({"length_penalty": length_penalty} if num_beams > 1 else {}),
    )[:, num_tokens:]
    found: list[tuple[list[int], Ending]] = []
    for row, request in zip(written.tolist(), requests, strict=True):
        ids = row[: request.max_new_tokens]
        end = next((i for i, token in enumerate(ids) if token in set(stop_ids)), None)
        found.append((ids, "limit") if end is None else (ids[: end + 1], "end"))
    return found
