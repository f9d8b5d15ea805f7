"""Several utterances in one sequence, without padding, through the unmodified transformers model.

An attention function under a name that contains "flash" makes both towers take their variable-length path; utterances
are kept apart by cumulative lengths. The name is set for the time of a forward only: `generate`, `save_pretrained` and
a reload know nothing of it.

Nothing here waits for the device: what the model would ask the device for (which positions are padding, how long the
longest segment is) is known from lengths when a pack is built.

Shapes: T tokens of a pack, U utterances, L label positions, C one-second chunks of mel frames, F mel bins, A audio
tokens, E encoder dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from shibolet.model.fast.kernels import attend
from shibolet.model.fast.rows import conv2d
from shibolet.model.fast.tensors import Tensors
from shibolet.model.qwen3_asr.fused import is_fused
from shibolet.model.qwen3_asr.launching import is_launched, launch_decoder, launch_encoder
from shibolet.model.qwen3_asr.lengths import (
    CHUNK_FRAMES,
    TOKENS_PER_CHUNK,
    WINDOW_TOKENS,
    num_audio_tokens,
)
from shibolet.model.qwen3_asr.prompt import IGNORED, TokenSequence

PACKED = "shibolet_flash_packed"
# What the decoder calls its cache: `cache` from transformers 5.24.
CACHE = "cache" if "cache" in signature(Qwen3Model.forward).parameters else "past_key_values"
_CHUNK_STEP = 32
CONV_CHUNKS = 128  # seconds of audio in the convolutions at once: their first output takes 3 MB a second in bf16


@dataclass(frozen=True, slots=True)
class Pack(Tensors):
    """Utterances laid end to end; `cu_seqlens` hold the U + 1 boundaries of the token sequence."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T], from 0 in each utterance
    cu_seqlens: Tensor  # [U + 1] int32
    max_seqlen: int
    audio_cu_seqlens: Tensor  # [windows + 1] int32: attention windows of 8 s within each utterance
    audio_max_seqlen: int
    audio_kept: Tensor  # [A], which of the convolutions' C * 13 outputs are no padding
    audio_positions: Tensor  # [A], where in T the audio tokens stand
    keep_positions: Tensor  # [L], where in T a logit is needed: one before each label, or the markers of the aligner
    labels: Tensor  # [L]
    features: Tensor | None = None  # [1, F, C * 100], each utterance padded to whole chunks
    encoded: Tensor | None = None  # [A, E], `encoder_states` computed before; features are then not needed
    extras: tuple[Mapping[str, Any], ...] = ()  # of each utterance, plain data that an objective needs

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[1]

    @property
    def num_utterances(self) -> int:
        return len(self.cu_seqlens) - 1


def build_pack(sequences: Sequence[TokenSequence], mels: Sequence[Tensor], audio_id: int, *, shift: bool) -> Pack:
    """Lay utterances with features `[F, M_u]` end to end; `shift` as in `lay_out`."""
    padded = [F.pad(mel, (0, -mel.shape[1] % CHUNK_FRAMES)) for mel in mels]
    pack = lay_out(sequences, [mel.shape[1] for mel in mels], audio_id, shift=shift)
    return replace(pack, features=torch.cat(padded, dim=1)[None])


def lay_out(sequences: Sequence[TokenSequence], num_frames: Sequence[int], audio_id: int, *, shift: bool) -> Pack:
    """A pack without its audio.

    With `shift` (next-token prediction) the logit that predicts a label stands one position before it; without (token
    classification) it stands at the label itself.
    """
    lengths = torch.tensor([len(sequence.input_ids) for sequence in sequences])
    input_ids = torch.tensor(list(chain.from_iterable(sequence.input_ids for sequence in sequences)))
    labels = torch.tensor(list(chain.from_iterable(sequence.labels for sequence in sequences)))
    at = (labels != IGNORED).nonzero().squeeze(-1)
    nums_audio, windows = list(map(num_audio_tokens, num_frames)), [0]
    for num_audio in nums_audio:
        windows += [WINDOW_TOKENS] * (num_audio // WINDOW_TOKENS)
        windows += [rest] if (rest := num_audio % WINDOW_TOKENS) else []
    num_chunks = torch.tensor([-(-frames // CHUNK_FRAMES) for frames in num_frames])
    audio_positions = (input_ids == audio_id).nonzero().squeeze(-1)
    if len(audio_positions) != sum(windows):
        raise ValueError(f"{len(audio_positions)} audio placeholders for {sum(windows)} audio tokens")
    return Pack(
        input_ids=input_ids[None],
        position_ids=_count_from(torch.zeros_like(lengths), lengths)[None],
        cu_seqlens=F.pad(lengths, (1, 0)).cumsum(0, dtype=torch.int32),
        max_seqlen=int(lengths.max()),
        audio_cu_seqlens=torch.tensor(windows).cumsum(0, dtype=torch.int32),
        audio_max_seqlen=max(windows),
        audio_kept=_count_from((num_chunks.cumsum(0) - num_chunks) * TOKENS_PER_CHUNK, torch.tensor(nums_audio)),
        audio_positions=audio_positions,
        keep_positions=at - 1 if shift else at,
        labels=labels[at],
    )


def _count_from(starts: Tensor, lengths: Tensor) -> Tensor:
    """`lengths[u]` numbers from `starts[u]` upwards, of each utterance in turn."""
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) + (starts - before).repeat_interleave(lengths)


def packed_attention(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within it both towers attend by cumulative lengths; a backward that recomputes belongs inside too."""
    return attention_as(model, PACKED)


@contextmanager
def attention_as(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within it both towers attend by the function that is registered under a name."""
    configs = [model.config, model.config.text_config, model.config.audio_config]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, former in zip(configs, before, strict=True):
            config._attn_implementation = former


def encoder_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """The encoder's output before its last norm, `[A, E]`; call within `packed_attention`.

    What the whole encoder computes: the last norm belongs to the projector, which trains in every phase.
    """
    tower = model.model.audio_tower
    hidden = _convolve(tower, pack.features.to(model.dtype)).index_select(0, pack.audio_kept)
    if is_fused(model) and is_launched(model):
        return launch_encoder(model, hidden, pack.audio_cu_seqlens)
    for layer in tower.layers:
        hidden = layer(hidden, pack.audio_cu_seqlens, max_seqlen=pack.audio_max_seqlen)[0]
    return hidden


def _convolve(tower: nn.Module, features: Tensor) -> Tensor:
    """Outputs `[C * 13, E]` of the convolutions on one-second chunks, positions added, padding included."""
    chunks = features.view(features.shape[1], -1, CHUNK_FRAMES).transpose(0, 1)[:, None]  # [C, 1, F, 100]
    position = tower.positional_embedding.positional_embedding[:TOKENS_PER_CHUNK].to(features.dtype)
    layout = torch.channels_last if features.is_cuda else torch.contiguous_format  # what cuDNN computes in
    outputs = []
    num_chunks = len(chunks)
    if features.is_cuda:  # cuDNN plans each number of chunks anew
        chunks = F.pad(chunks, (0, 0, 0, 0, 0, 0, 0, -num_chunks % _CHUNK_STEP))
    for hidden in chunks.split(CONV_CHUNKS):
        hidden = F.gelu(_first_convolution(tower.conv2d1, hidden))
        for conv in (tower.conv2d2, tower.conv2d3):
            weight = conv.weight.contiguous(memory_format=layout)
            hidden = F.gelu(conv2d(hidden, weight, conv.bias, conv.stride, conv.padding))
        outputs.append((tower.conv_out(hidden.permute(0, 3, 1, 2).flatten(2)) + position).flatten(0, 1))
    return torch.cat(outputs)[: num_chunks * TOKENS_PER_CHUNK]


def _first_convolution(conv: nn.Conv2d, chunks: Tensor) -> Tensor:
    """`conv` (3 x 3, stride 2) of chunks `[C, 1, F, 100]`; on CUDA as a product, its outputs laid channels last.

    cuDNN computes one input channel in the other layout, and the next convolution would copy 3 MB a second of audio.
    """
    if not chunks.is_cuda:
        return conv2d(chunks, conv.weight, conv.bias, conv.stride, conv.padding)
    windows = F.pad(chunks[:, 0], (1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)  # [C, F / 2, 50, 3, 3]
    aligned = (0, 16 - 9)  # matrix units take 8 numbers at a time
    rows = F.pad(windows.reshape(-1, 9), aligned)
    outputs = F.linear(rows, F.pad(conv.weight.flatten(1), aligned), conv.bias)
    return outputs.view(*windows.shape[:3], -1).permute(0, 3, 1, 2)


def decode_pack(model: PreTrainedModel, pack: Pack, cache: object | None = None) -> Tensor:
    """Last hidden states `[L, D]` at the positions that need a logit; call within `packed_attention`.

    A `cache` is shown the keys and values of every layer, as transformers' are.
    """
    encoded = encoder_states(model, pack) if pack.encoded is None else pack.encoded
    audio = model.model.multi_modal_projector(model.model.audio_tower.ln_post(encoded))
    embeds = model.get_input_embeddings()(pack.input_ids)
    embeds = embeds[0].index_copy(0, pack.audio_positions, audio.to(embeds.dtype))[None]
    if cache is None and torch.is_grad_enabled() and is_fused(model) and is_launched(model):
        within = pack.position_ids, pack.cu_seqlens, pack.max_seqlen
        return launch_decoder(model, embeds, *within, kept_rows=pack.keep_positions)
    kept = {"kept_rows": pack.keep_positions} if is_fused(model) else {}  # its last layer computes no others
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": None},  # given, so that the model does not look for packs on the device
        position_ids=pack.position_ids,
        use_cache=cache is not None,
        cu_seq_lens_q=pack.cu_seqlens,
        cu_seq_lens_k=pack.cu_seqlens,
        max_length_q=pack.max_seqlen,
        max_length_k=pack.max_seqlen,
        **{CACHE: cache},
        **kept,
    ).last_hidden_state[0]
    return hidden if kept else hidden.index_select(0, pack.keep_positions)


def output_head(model: PreTrainedModel) -> nn.Module:
    """The linear map from hidden states to tokens (recogniser) or time classes (aligner)."""
    return model.lm_head if hasattr(model, "lm_head") else model.score


def _attend(
    module: nn.Module,
    query: Tensor,  # [1, N, T, H]
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    cu_seq_lens_k: Tensor,
    max_length_k: int,
    is_causal: bool | None = None,
    dropout: float = 0.0,
    **_,
) -> tuple[Tensor, None]:
    """Attention within each segment; returns `[1, T, N, H]` as transformers expects."""
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes neither a mask nor dropout")
    causal = module.is_causal if is_causal is None else is_causal
    # The gradient of an index would be laid out anew, that of a squeeze is not.
    heads = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    keys = cu_seq_lens_k, max_length_k
    return attend(*heads, cu_seq_lens_q, max_length_q, causal=causal, scaling=scaling, keys=keys)[None], None


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, flash_attention_mask)
