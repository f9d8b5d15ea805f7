"""What a configuration says without torch is what the module has: protects from plans of a model that nobody trains."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from shibolet.errors import ModelError
from shibolet.model.folders import resolve
from shibolet.model.outline import offline_config
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.load import read_native
from shibolet.model.qwen3_asr.outline import OUTLINE
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.model.qwen3_asr.save import convert
from shibolet.model.qwen3_asr.sizes import sizes_in
from shibolet.train.config import LoraSettings, PhaseConfig, TrainConfig
from shibolet.train.phases import add_adapters, blueprint_of
from shibolet.train.plan import make_plan

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "qwen3-asr"
SMALL = {  # Qwen3-ASR-0.6B
    "audio_config": {"model_type": "qwen3_asr_encoder", "d_model": 896, "encoder_layers": 18,
                     "encoder_attention_heads": 14, "encoder_ffn_dim": 3584, "output_dim": 1024},
    "text_config": {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                    "max_position_embeddings": 65536},
}  # fmt: skip
USUAL = {"audio_config": {"output_dim": 2048}}  # Qwen3-ASR-1.7B
ODD = {
    "audio_config": {"model_type": "qwen3_asr_encoder", "d_model": 32, "encoder_attention_heads": 2, "output_dim": 48,
                     "encoder_layers": 1, "num_mel_bins": 100, "downsample_hidden_size": 8},
    "text_config": {"model_type": "qwen3", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
                    "num_key_value_heads": None, "vocab_size": 500, "head_dim": 8, "attention_bias": True},
    "tie_word_embeddings": False,
}  # fmt: skip
PHASE = PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 1e-4, "head": 1e-4, "lora": 1e-4})
LORA = TrainConfig(phases=(PHASE,), lora=LoraSettings(part="decoder.layers[0:1]", rank=4))
PLAIN = TrainConfig(phases=(PHASE,), lora=None, untie_head=False)


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("config", [PLAIN, LORA], ids=["plain", "untied with adapters"])
@pytest.mark.parametrize("said", [SMALL, USUAL, ODD, None], ids=["0.6B", "1.7B", "odd", "tiny"])
def test_names_and_shapes_are_the_modules(said: dict | None, config: TrainConfig):
    """And so is every number of the plan that is made of them."""
    if said is None:
        said = json.loads((resolve("builtin:round1") / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        module = Qwen3ASRForConditionalGeneration(Qwen3ASRConfig(**said))
    add_adapters(module, config, seed=0)
    drawn = blueprint_of(sizes_in(Path("m"), said), config)
    assert shapes(drawn) == shapes(module) and len(shapes(drawn)) > 40
    if config is LORA:
        assert make_plan(config, drawn, None, num_utterances=5000) == make_plan(
            config, module, None, num_utterances=5000
        )


def test_sizes_are_the_same_in_both_layouts_and_those_of_transformers(native_dir: Path, tmp_path: Path):
    convert(str(native_dir), tmp_path / "legacy", "legacy")
    for path, layout in ((native_dir, "native"), (tmp_path / "legacy", "legacy")):
        sizes, said = OUTLINE.config_in(path)
        assert said == layout
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        native = read_native(path, config, AutoTokenizer.from_pretrained(path))
        for tower in ("audio_config", "text_config"):
            for name, value in getattr(sizes, tower):
                assert getattr(getattr(native, tower), name) == value, (layout, name)
        assert native.tie_word_embeddings == sizes.tie_word_embeddings


@pytest.mark.parametrize(
    "said",
    [
        {"text_config": {"hidden_size": "128"}},
        {"text_config": {"num_hidden_layers": -1}},
        {"text_config": [1]},
        {"audio_config": {"d_model": 0}},
        {"audio_config": {"d_model": True}},
        {"audio_config": "x"},
        {"text_config": {"num_key_value_heads": None, "num_attention_heads": 1.5}},
        {"tie_word_embeddings": None},
    ],
)
def test_what_can_be_no_size_is_one_sentence(said: dict):
    with pytest.raises(ModelError, match=r"the model in m cannot be opened: config\.json: ") as caught:
        sizes_in(Path("m"), said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tiny", "published"])
def test_tokens_are_those_of_transformers(kind: str, sentences, tmp_path: Path):
    """A plan counts what will train: with other tokens its packs would be others."""
    folder = resolve("builtin:round1")
    if kind == "published":
        if not REAL.is_dir():
            pytest.skip("no folder 'shared' beside the repository")
        folder = tmp_path
        AutoTokenizer.from_pretrained(REAL).save_pretrained(folder)  # which writes tokenizer.json
    texts = [*sentences, "", " שלום  עולם ", "שָׁלוֹם 12,5%", "<|im_end|> א<asr_text>ב <|audio_pad|>", "x\n\ny e\u0301",
             "don't 100km <think>a</think>"]  # fmt: skip
    prompt = Prompt("Hebrew", context="שמות: דנה<|im_end|>")
    ours, theirs = (
        TranscriptionPrompt(tokenizer, prompt)
        for tokenizer in (OUTLINE.tokenizer_in(folder), AutoTokenizer.from_pretrained(folder))
    )
    assert ours.frame == theirs.frame
    assert ours.encode(texts) == theirs.encode(texts)


def test_the_small_model_is_planned_in_its_own_sizes_where_it_is_not_here(monkeypatch):
    """The 1.7B's would stand in for it: twice the memory, twice the hours. 938 M is what its files are said to hold."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config, where = offline_config("Qwen/Qwen3-ASR-0.6B")
    assert where.endswith("sizes are those of Qwen3-ASR-0.6B")
    numbers = [
        sum(weight.numel() for _, weight in OUTLINE.blueprint(config, untie).named_parameters())
        for untie in (False, True)
    ]
    assert numbers == [782_426_112, 938_008_576]
    assert offline_config("Qwen/Qwen3-ASR-1.7B")[0] != config
