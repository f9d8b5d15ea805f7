"""Layers in training on CUDA: rows padded to few sizes, so that `model.fast.graphs` can launch many layers at once.

Padding stands behind the last utterance as a segment of its own: nothing attends to it and it has no label.

Shapes: T tokens of a pack, R rows with padding, U utterances, L label positions, D model dim, A audio tokens, W windows
of audio, E encoder dim.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from shibolet.model.fast.device import send_to
from shibolet.model.fast.graphs import Chain, Run

_ROWS, _SEGMENTS = 256, 32  # sizes are multiples of these: 32 utterances of 5.8 s have 3,700 rows
# Nearly every pack has an utterance of more than 256 tokens, 11 s. The others would have shapes of their own, twice as
# many in all (benchmarks/launch_shapes.py). Told of 512, attention leaves what lies beyond a segment at once.
_LONGEST = 512
_CHAINS: WeakKeyDictionary[nn.Module, Chain] = WeakKeyDictionary()  # of a tower


def is_launched(model: PreTrainedModel) -> bool:
    """Whether a pack that goes through a tower now, packed, belongs to a training that this module is for."""
    decoder = model.model.language_model
    return (
        decoder.training
        and model.device.type == "cuda"
        and model.dtype.itemsize == 2  # attention in float32 goes segment by segment
        and not torch.is_autocast_enabled("cuda")
        and not decoder.layers[0].gradient_checkpointing
    )


def launch_decoder(
    model: PreTrainedModel,
    embeds: Tensor,  # [1, T, D]
    position_ids: Tensor,  # [1, T]
    cu_seqlens: Tensor,  # [U + 1]
    max_seqlen: int,
    kept_rows: Tensor,  # [L]
) -> Tensor:
    """Last hidden states `[L, D]` of a fused decoder; its last layer takes the rows that have a label alone."""
    decoder, num_rows = model.model.language_model, embeds.shape[1]
    padded, within = _padded(embeds, cu_seqlens)
    cos, sin = decoder.rotary_emb(padded, F.pad(position_ids, (0, padded.shape[1] - num_rows)))
    draws = send_to(embeds.device, torch.randint(1 << 31, (len(decoder.layers), 2)))
    chain = _chain(decoder, _run_decoder, len(decoder.layers) - 1)
    hidden = chain(padded[0], (cos, sin, within, draws), longest_of(max_seqlen))[None, :num_rows]
    hidden = decoder.layers[-1](
        hidden, position_embeddings=(cos[:num_rows], sin[:num_rows]), cu_seq_lens_q=cu_seqlens,
        max_length_q=max_seqlen, kept_rows=kept_rows, draws=draws[-1],
    )  # fmt: skip
    return decoder.norm(hidden)[0]


def launch_encoder(model: PreTrainedModel, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """What the layers make of the convolutions' outputs `[A, E]`, in windows that begin at `cu_seqlens` `[W + 1]`."""
    tower, num_rows = model.model.audio_tower, len(hidden)
    padded, within = _padded(hidden[None], cu_seqlens)
    chain = _chain(tower, _run_encoder, len(tower.layers))
    return chain(padded[0], (within,), _ROWS)[:num_rows]


def release(model: PreTrainedModel, *, for_good: bool) -> bool:
    """Let go of what was recorded to launch a model's layers, as `Chain.release`; whether there was anything."""
    towers = (model.model.language_model, model.model.audio_tower)
    return any([_CHAINS[tower].release(for_good=for_good) for tower in towers if tower in _CHAINS])


def _padded(rows: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[1, R, D]` and boundaries of segments, of which one is what was padded and those after it are empty."""
    num_rows, num_segments = rows.shape[1], len(cu_seqlens) - 1
    all_rows, segments = padded_sizes(num_rows, num_segments)
    return (
        F.pad(rows, (0, 0, 0, all_rows - num_rows)),
        F.pad(cu_seqlens, (0, segments - num_segments), value=all_rows),
    )


def padded_sizes(num_rows: int, num_segments: int) -> tuple[int, int]:
    """Rows and segments with padding, which is a segment itself."""
    return _up(num_rows, _ROWS), _up(num_segments + 1, _SEGMENTS)


def longest_of(max_seqlen: int) -> int:
    """What attention is told of the longest segment of the decoder."""
    return max(_LONGEST, 1 << (max_seqlen - 1).bit_length())


def _chain(tower: nn.Module, run: Run, num_layers: int) -> Chain:
    """Of a tower's first layers."""
    if tower not in _CHAINS:
        _CHAINS[tower] = Chain(run, tower.layers[:num_layers])
    return _CHAINS[tower]


def _run_decoder(layers: Sequence[nn.Module], x: Tensor, inputs: Sequence[Tensor], longest: int) -> Tensor:
    cos, sin, cu_seqlens, draws = inputs
    hidden = x[None]
    for layer in layers:
        hidden = layer(
            hidden, position_embeddings=(cos, sin), cu_seq_lens_q=cu_seqlens, max_length_q=longest,
            draws=draws[layer.self_attn.layer_idx],
        )  # fmt: skip
    return hidden[0]


def _run_encoder(layers: Sequence[nn.Module], x: Tensor, inputs: Sequence[Tensor], longest: int) -> Tensor:
    for layer in layers:
        (x,) = layer(x, *inputs, max_seqlen=longest)
    return x


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
