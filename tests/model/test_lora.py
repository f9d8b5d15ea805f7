"""Adapters sit where they are told to and nowhere else, and merging them changes nothing that is computed."""

import re

import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModel, PeftModel
from transformers import Qwen3ASRFeatureExtractor

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.lora import attach_lora, has_lora, merge_lora, save_lora
from shibolet.model.parts import check_lora_frozen, lora_layers, select
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.packed import build_pack
from shibolet.model.qwen3_asr.parts import part_of, untie_head
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.model.qwen3_asr.save import save_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def attach(model, seed: int = 3, dropout: float = 0.1) -> None:
    attach_lora(model, "decoder.layers[0:2]", rank=4, alpha=8, dropout=dropout, targets=TARGETS, seed=seed)


def adapters(model) -> dict[str, torch.nn.Parameter]:
    return select(model, "lora")


def test_adapters_sit_on_the_decoders_projections_only(recogniser):
    before = {name for name, _ in recogniser.named_parameters()}
    attach(recogniser)
    names = adapters(recogniser)
    assert len(names) == 2 * len(TARGETS) * 2
    pattern = r"model\.language_model\.layers\.[01]\.self_attn\.[qkvo]_proj\.lora_[AB]\.default\.weight"
    assert all(re.fullmatch(pattern, name) for name in names)
    assert lora_layers(recogniser) == {0, 1} and has_lora(recogniser)
    base = {name.replace(".base_layer", "") for name, _ in recogniser.named_parameters()} - set(names)
    assert base == before
    assert check_lora_frozen(recogniser, "decoder.layers[1:4]") == [1]
    assert check_lora_frozen(recogniser, "decoder.layers[2:4]") == []
    assert part_of("model.language_model.layers.1.self_attn.q_proj.base_layer.weight") == ("decoder.layers", 1)


def test_adapters_start_from_the_seed_whatever_ran_before(tokenizer, recogniser):
    from shibolet.demo import tiny

    other = tiny.new_recogniser(tokenizer, seed=1)
    attach(recogniser)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    attach(other)
    assert torch.rand(1).equal(expected)  # and disturb nobody else's numbers
    for (name, a), b in zip(adapters(recogniser).items(), adapters(other).values(), strict=True):
        assert a.equal(b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_gives_the_same_logits(recogniser, tokenizer, clips, dtype):
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    mel = log_mel(clips[1], Qwen3ASRFeatureExtractor())
    pack = build_pack(
        prompt.examples([num_audio_tokens(mel.shape[1])], ["שלום עולם"]), [mel], prompt.audio_id, shift=True
    )
    recogniser.to(dtype)
    with torch.no_grad():
        plain = FAMILY.logits(recogniser, pack).float()
        attach(recogniser)
        assert FAMILY.logits(recogniser, pack).float().equal(plain)  # B starts at zero
        for weight in adapters(recogniser).values():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(weight.numel()))
        adapted = FAMILY.logits(recogniser, pack).float()
        merge_lora(recogniser)
        merged = FAMILY.logits(recogniser, pack).float()
    assert not has_lora(recogniser) and lora_layers(recogniser) == set()
    change, error = (adapted - plain).norm(), (merged - adapted).norm()
    assert change > 0 and error < (1e-5 if dtype == torch.float32 else 0.1) * change


def test_the_merge_is_computed_in_float32(recogniser):
    recogniser.to(torch.bfloat16)
    attach(recogniser)
    with torch.no_grad():
        for weight in adapters(recogniser).values():
            weight.normal_(0, 0.02)
    layer = recogniser.model.language_model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight.double() + 2.0 * (
        layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    )
    merge_lora(recogniser)
    weight = recogniser.model.language_model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.bfloat16
    assert (weight == expected.float().bfloat16()).float().mean() > 0.999  # rounded once, at the end


def test_an_adapter_alone_on_its_base_is_the_trained_model(recogniser, tokenizer, clips, tmp_path):
    """What was trained whole beside the adapters comes with them, a head of its own too."""
    save_model(
        LoadedModel(recogniser, tokenizer, Qwen3ASRFeatureExtractor(), tmp_path, ""), tmp_path / "base", torch.float32
    )
    untie_head(recogniser)
    attach(recogniser)
    whole = {
        **select(recogniser, "projector"),
        **select(recogniser, "decoder.layers[3:4]"),
        **select(recogniser, "head"),
    }
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in [*adapters(recogniser).values(), *whole.values()]:
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_lora(recogniser, [*whole, *adapters(recogniser)], tmp_path / "adapter", str(tmp_path / "base"), torch.float32)
    base = load_recogniser(str(tmp_path / "base")).model
    frozen = {name: weight.clone() for name, weight in base.named_parameters()}
    put_on = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    found_alone = AutoPeftModel.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    mel = log_mel(clips[1], Qwen3ASRFeatureExtractor())
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    (sequence,) = prompt.examples([num_audio_tokens(mel.shape[1])], ["שלום עולם"])
    ids = torch.tensor([sequence.input_ids])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "input_features": F.pad(mel, (0, 30))[None],
        "input_features_mask": (torch.arange(200) < 170).long()[None],
    }  # fmt: skip
    with torch.no_grad():
        expected, found = recogniser.eval()(**inputs).logits, put_on(**inputs).logits
        alone = found_alone(**inputs).logits
        plain = load_recogniser(str(tmp_path / "base")).model(**inputs).logits
    assert (found - expected).abs().max() < 1e-5 and alone.equal(found) and (plain - expected).abs().max() > 0.1
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < 0.5 * 4 * sum(weight.numel() for weight in frozen.values())


def test_what_an_adapter_cannot_carry_is_refused(recogniser, tmp_path):
    with pytest.raises(ModelError, match="this model has no adapters"):
        save_lora(recogniser, [], tmp_path / "none", "org/base", torch.float32)
    attach(recogniser)
    with pytest.raises(ModelError, match="the embeddings, which are also the head"):
        save_lora(recogniser, [*select(recogniser, "head")], tmp_path / "tied", "org/base", torch.float32)
