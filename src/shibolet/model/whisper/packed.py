"""Several utterances in one forward pass: their texts in one sequence without padding, their audio 30 s each.

The modules are those of the unmodified transformers model; what is computed with them stands here, so that tokens of a
text see no other text and no padding. On a GPU nothing here waits for the device, except for float32 without autocast,
which `kernels.attend` takes apart on the host.

Shapes: T tokens of a pack, U utterances, L label positions, A encoder states (U * 1500), E = D model dim, N heads, H
head dim, F mel bins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import WhisperForConditionalGeneration

from shibolet.errors import ModelError
from shibolet.model.fast.kernels import attend
from shibolet.model.fast.rows import conv2d, layer_norm, softmax
from shibolet.model.fast.tensors import Tensors
from shibolet.model.protocols import each_of
from shibolet.model.whisper.fused import EncoderLayer, encoder_layer
from shibolet.model.whisper.lengths import WINDOW_STATES
from shibolet.model.whisper.prompt import TranscriptionFrame
from shibolet.model.whisper.sizes import untrainable


@dataclass(frozen=True, slots=True)
class Pack(Tensors):
    """Utterances with their texts laid end to end; `cu_seqlens` hold the U + 1 boundaries of the token sequence."""

    input_ids: Tensor  # [T]
    position_ids: Tensor  # [T], from 0 in each utterance
    cu_seqlens: Tensor  # [U + 1] int32
    max_seqlen: int
    state_cu_seqlens: Tensor  # [U + 1] int32: boundaries of the encoder's states
    keep_positions: Tensor  # [L], where in T a logit is needed: one before each label
    labels: Tensor  # [L]
    features: Tensor | None = None  # [U, F, 3000]
    encoded: Tensor | None = None  # [A, E], `encode` computed before; features are then not needed
    extras: tuple[Mapping[str, Any], ...] = ()  # of each utterance, plain data that an objective needs

    @property
    def num_tokens(self) -> int:
        """Encoder states and tokens: what the outline counts an utterance to have."""
        return len(self.input_ids) + self.num_utterances * WINDOW_STATES

    @property
    def num_utterances(self) -> int:
        return len(self.cu_seqlens) - 1


def lay_out(
    frame: TranscriptionFrame | Sequence[TranscriptionFrame],
    texts: Sequence[Sequence[int]],
    num_frames: Sequence[int],
) -> Pack:
    """A pack without its audio: prompt and text of each utterance, to be continued by the text and its end."""
    if len(texts) != len(num_frames):
        raise ValueError(f"{len(texts)} texts for {len(num_frames)} utterances")
    frames = each_of(frame, len(texts))
    prompts = torch.tensor([len(own.prompt) for own in frames])
    lengths = prompts + torch.tensor([len(text) for text in texts])
    first = lengths.cumsum(0) - lengths
    position_ids = torch.arange(int(lengths.sum())) - first.repeat_interleave(lengths)
    return Pack(
        input_ids=torch.tensor(list(chain.from_iterable([*own.prompt, *text] for own, text in zip(frames, texts)))),
        position_ids=position_ids,
        cu_seqlens=F.pad(lengths, (1, 0)).cumsum(0, dtype=torch.int32),
        max_seqlen=int(lengths.max()),
        state_cu_seqlens=torch.arange(len(texts) + 1, dtype=torch.int32) * WINDOW_STATES,
        keep_positions=(position_ids >= (prompts - 1).repeat_interleave(lengths)).nonzero().squeeze(-1),
        labels=torch.tensor(list(chain.from_iterable([*text, own.end_id] for own, text in zip(frames, texts)))),
    )


@contextmanager
def packed_attention(model: WhisperForConditionalGeneration) -> Iterator[None]:
    """Nothing about the model has to change; ModelError where it would train with what its configuration draws."""
    if model.training and (why := untrainable(model.config)):
        raise ModelError(why)
    yield


def encode(model: WhisperForConditionalGeneration, pack: Pack) -> Tensor:
    """The encoder's output `[A, E]`, its last norm included."""
    return encoder_states(model, pack.features).flatten(0, 1)


def encoder_states(model: WhisperForConditionalGeneration, features: Tensor) -> Tensor:
    """The encoder's output `[U, 1500, E]` of features `[U, F, 3000]`, its last norm included."""
    encoder = model.model.encoder
    x = F.gelu(_conv1d(encoder.conv1, features.to(model.dtype)))
    x = F.gelu(_conv1d(encoder.conv2, x)).transpose(1, 2) + encoder.embed_positions.weight
    x = x.contiguous()  # sums would keep the order of a convolution, in which norms cannot read it
    for layer in encoder.layers:
        x = _run(layer, encoder_layer if isinstance(layer, EncoderLayer) else _encoder_layer, x)
    return _norm(encoder.layer_norm, x)


def hidden(model: WhisperForConditionalGeneration, pack: Pack) -> Tensor:
    """Last hidden states `[L, D]`, those that predict the labels, the last norm included."""
    encoded = encode(model, pack) if pack.encoded is None else pack.encoded

    def own(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, pack.cu_seqlens, pack.max_seqlen, causal=True, scaling=1.0)

    def window(attention: nn.Module, query: Tensor) -> Tensor:
        if _is_cheaper_on_states(attention, query, pack.num_utterances):
            return _attend_on_states(attention, query, encoded, pack.cu_seqlens)
        return attend(
            query, *keys_and_values(attention, encoded), pack.cu_seqlens, pack.max_seqlen, causal=False, scaling=1.0,
            keys=(pack.state_cu_seqlens, WINDOW_STATES),
        )  # fmt: skip

    return decoder_states(model, pack.input_ids, pack.position_ids, own, window, pack.keep_positions)


def _is_cheaper_on_states(attention: nn.Module, query: Tensor, num_utterances: int) -> bool:
    """Whether `_attend_on_states` computes less than keys and values of 1,500 states an utterance; on a CPU alone.

    A text of t tokens takes 2 * N * t products of 1,500 x D there, and 2 * D + 2 * t by keys and values.
    """
    if query.is_cuda or query.dtype.itemsize < 4 or type(attention.k_proj) is not nn.Linear:  # or it has adapters
        return False
    tokens, heads = query.shape[:2]
    return type(attention.v_proj) is nn.Linear and tokens * (heads - 1) < num_utterances * attention.embed_dim


def _attend_on_states(attention: nn.Module, query: Tensor, encoded: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Cross-attention `[T, N, H]` of queries to the states `[A, D]` themselves: q (K x) = (K^T q) x, and the same of V.

    Keys have no bias, and that of the values is what they all add.
    """
    by_head = query.shape[1:]
    keys, values = (projection.weight.unflatten(0, by_head) for projection in (attention.k_proj, attention.v_proj))
    seen = []
    seeking = torch.bmm(query.transpose(0, 1), keys).split(cu_seqlens.diff().tolist(), dim=1)  # [N, t, D] each
    for own, states in zip(seeking, encoded.split(WINDOW_STATES), strict=True):
        weights = softmax(own.flatten(0, 1) @ states.t())  # [N * t, 1500]
        seen.append((weights @ states).unflatten(0, own.shape[:2]))
    return torch.bmm(torch.cat(seen, dim=1), values.mT).transpose(0, 1) + attention.v_proj.bias.unflatten(0, by_head)


def decoder_states(
    model: WhisperForConditionalGeneration,
    ids: Tensor,
    positions: Tensor,
    own: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    window: Callable[[nn.Module, Tensor], Tensor],
    keep: Tensor | None = None,
) -> Tensor:
    """Last hidden states `[..., D]` of tokens `[...]`, the last norm included; of the first axis only those of `keep`.

    `own` attends within texts and `window` to the encoder's states. Both are given the layer's attention module with
    queries `[..., N, H]`, which are scaled, and `own` the keys and values of the tokens too.
    """
    decoder = model.model.decoder
    x = decoder.embed_tokens(ids) + F.embedding(positions, decoder.embed_positions.weight)
    for layer in decoder.layers:
        x = _run(layer, _decoder_layer, x, own, window)
    return _norm(decoder.layer_norm, x if keep is None else x.index_select(0, keep))


def head(model: WhisperForConditionalGeneration) -> nn.Linear:
    """The linear map from hidden states to tokens."""
    return model.proj_out


def _run(layer: nn.Module, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """`function` of a layer, computed again in the backward pass where the model was told so."""
    if layer.gradient_checkpointing and layer.training:
        return checkpoint(function, layer, *args, use_reentrant=False)
    return function(layer, *args)


def _encoder_layer(layer: nn.Module, x: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = _norm(layer.self_attn_layer_norm, x)
    by_head = (x.transpose(1, 2) for x in (_queries(attention, normed), *keys_and_values(attention, normed)))
    attended = F.scaled_dot_product_attention(*by_head, scale=1.0).transpose(1, 2).flatten(2)
    return _inner(layer, x + attention.out_proj(attended))


def _decoder_layer(layer: nn.Module, x: Tensor, own: Callable[..., Tensor], window: Callable[..., Tensor]) -> Tensor:
    attention, normed = layer.self_attn, _norm(layer.self_attn_layer_norm, x)
    attended = own(attention, _queries(attention, normed), *keys_and_values(attention, normed))
    x = x + attention.out_proj(attended.flatten(-2))
    attention, normed = layer.encoder_attn, _norm(layer.encoder_attn_layer_norm, x)
    return _inner(layer, x + attention.out_proj(window(attention, _queries(attention, normed)).flatten(-2)))


def _queries(attention: nn.Module, x: Tensor) -> Tensor:
    """Queries of `x`, `[..., N, H]`, scaled before they meet keys, as the model's are."""
    return (attention.q_proj(x) * attention.scaling).unflatten(-1, (-1, attention.head_dim))


def keys_and_values(attention: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    """Both `[..., N, H]` of tokens, or of encoder states."""
    by_head = (-1, attention.head_dim)
    return attention.k_proj(states).unflatten(-1, by_head), attention.v_proj(states).unflatten(-1, by_head)


def _inner(layer: nn.Module, x: Tensor) -> Tensor:
    """`x` and what the two linear maps of a layer add."""
    return x + layer.fc2(layer.activation_fn(layer.fc1(_norm(layer.final_layer_norm, x))))


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, norm.weight, norm.bias, norm.eps)


def _conv1d(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of `[U, channels, frames]`, with the same bits for any number of threads."""
    stride, padding = (1, *conv.stride), (0, *conv.padding)
    return conv2d(x[:, :, None], conv.weight[:, :, None], conv.bias, stride, padding)[:, :, 0]
