"""Counted operations are those that torch executes; what trains decides what is counted."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3ASRFeatureExtractor

from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.parts import freeze_all_but, partition
from shibolet.model.qwen3_asr.cost import Cost, PackSize
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.packed import build_pack, decode_pack, output_head, packed_attention
from shibolet.model.qwen3_asr.parts import untie_head
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

B = ("projector", "decoder.layers[2:4]", "head", "lora")
A = ("projector", "encoder.layers[4:6]", "decoder.layers[2:4]", "head", "lora")
WHOLE = ("encoder.conv", "encoder.layers", "projector", "decoder.layers", "decoder.norm", "head")


def in_place(out: tuple, a: tuple, b: tuple, **_) -> int:
    """Of `addmm_`, which torch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]


@pytest.mark.parametrize("parts", [B, A, WHOLE, ("head",), ("decoder.layers[3:4]",)])
def test_multiply_adds_are_those_that_torch_counts(recogniser, tokenizer, clips, sentences, parts):
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    mels = [log_mel(clip, Qwen3ASRFeatureExtractor()) for clip in clips]
    sequences = prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], sentences)
    pack = build_pack(sequences, mels, prompt.audio_id, shift=True)
    untie_head(recogniser)
    if "lora" in parts:
        attach_lora(
            recogniser, "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.1, seed=0,
            targets=["q_proj", "k_proj", "v_proj", "o_proj"],
        )  # fmt: skip
    groups = partition(recogniser, parts)
    freeze_all_but(recogniser, groups)
    fuse_layers(recogniser)
    with (
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter,
        packed_attention(recogniser),
    ):
        summed_cross_entropy(decode_pack(recogniser, pack), output_head(recogniser), pack.labels).backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "attention" not in str(op))

    frames, labels = [mel.shape[1] for mel in mels], [sum(la != -100 for la in s.labels) for s in sequences]
    size = PackSize.of(zip((len(s.input_ids) for s in sequences), frames, labels, strict=True))
    assert (size.tokens, size.labels) == (pack.num_tokens, len(pack.labels))
    assert size.window_pairs == pack.audio_cu_seqlens.diff().square().sum()
    without_attention = PackSize(size.tokens, size.audio_tokens, size.labels, size.chunks)
    cost = Cost(recogniser, [name for group in groups.values() for name in group], width=4)
    assert cost.operations(without_attention) == products
    # forward 2, backward 4: the pairs within windows and, causally, within utterances
    config = recogniser.config
    attention = cost.operations(size) - cost.operations(without_attention)
    decoder = 4 * size.causal_pairs * config.text_config.num_attention_heads * config.text_config.head_dim
    encoder = 4 * size.window_pairs * config.audio_config.d_model
    backward = {B: (0, 4), A: (2, 4), WHOLE: (6, 4), ("head",): (0, 0), ("decoder.layers[3:4]",): (0, 1)}[parts]
    assert attention == encoder * (6 + 2 * backward[0]) + decoder * (4 + 2 * backward[1])


def test_nothing_is_kept_where_nothing_trains_before(recogniser):
    size = PackSize(100, 80, 20, 7, 5050, 80 * 80)

    def kept(*parts: str) -> list[str]:
        names = [name for group in partition(recogniser, parts).values() for name in group]
        return [part for part, *_ in Cost(recogniser, names, width=2).kept(size)]

    assert kept("decoder.norm") == []
    assert kept("decoder.layers[3:4]") == ["decoder.layers", "decoder.norm"]
    assert kept("projector") == ["projector", *["decoder.layers"] * 4, "decoder.norm"]
    assert kept("encoder.layers[5:6]")[:2] == ["encoder.layers", "projector"]
