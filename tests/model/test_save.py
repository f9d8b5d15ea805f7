"""Checkpoints of both layouts: protects from a bit lost on the way, and from files that a reader looks for in vain."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

from shibolet.demo import tiny
from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.parts import is_tied, untie_head
from shibolet.model.qwen3_asr.save import convert, save_model

KINDS = ["tied", "untied", "aligner"]


@pytest.fixture(params=KINDS)
def native(request, tokenizer, tmp_path: Path) -> Path:
    """A tiny random checkpoint in bf16: a recogniser, one with a head of its own, an aligner."""
    model = tiny.new_aligner(tokenizer, 3) if request.param == "aligner" else tiny.new_recogniser(tokenizer, 3)
    if request.param == "untied":
        untie_head(model)
        torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    model.config.text_config.rope_parameters["rope_theta"] = 1_000_000.0
    path = tmp_path / "native"
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path)
    return path


def test_native_to_legacy_to_native_is_the_same_bytes(native: Path, tmp_path: Path):
    convert(str(native), tmp_path / "legacy", "legacy")
    convert(str(tmp_path / "legacy"), tmp_path / "again", "native")
    names = sorted(file.name for file in native.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir()) and "model.safetensors" in names
    differing = [name for name in names if (native / name).read_bytes() != (tmp_path / "again" / name).read_bytes()]
    assert not differing


def test_names_and_configuration_of_the_legacy_layout(native: Path, tmp_path: Path):
    convert(str(native), tmp_path / "legacy", "legacy", ["Hebrew"])
    config = json.loads((tmp_path / "legacy" / "config.json").read_text())
    weights, native_weights = (load_file(path / "model.safetensors") for path in (tmp_path / "legacy", native))
    assert all(name.startswith("thinker.") for name in weights) and len(weights) == len(native_weights)
    assert torch.equal(weights["thinker.audio_tower.proj1.weight"],
                       native_weights["model.multi_modal_projector.linear_1.weight"])  # fmt: skip
    text = config["thinker_config"]["text_config"]
    assert text["rope_theta"] == 1_000_000 and sum(text["rope_scaling"]["mrope_section"]) == text["head_dim"] // 2
    assert config["support_languages"][-1] == "Hebrew" and "English" in config["support_languages"]
    aligner = "score.weight" in native_weights
    assert ("classify_num" in config["thinker_config"]) == ("timestamp_token_id" in config) == aligner
    assert ("forced_aligner" in config["thinker_config"]["model_type"]) == aligner
    assert (tmp_path / "legacy" / "generation_config.json").is_file() != aligner


def test_the_native_layout_is_read_by_transformers_alone(native: Path):
    [architecture] = json.loads((native / "config.json").read_text())["architectures"]
    cls = {"Qwen3ASRForTokenClassification": Qwen3ASRForTokenClassification}.get(
        architecture, Qwen3ASRForConditionalGeneration
    )
    _, info = cls.from_pretrained(native, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(native)
    assert processor.audio_token == "<|audio_pad|>" and processor.chat_template


@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_the_token_before_the_text_is_never_marked_special(layout, native: Path, tmp_path: Path):
    """Libraries skip special tokens: of checkpoints that were marked so they printed the language before every text."""
    whole = json.loads((native / "tokenizer.json").read_text())
    (token,) = (token for token in whole["added_tokens"] if token["content"] == "<asr_text>")
    assert not token["special"]
    token["special"] = True
    (native / "tokenizer.json").write_text(json.dumps(whole))
    convert(str(native), tmp_path / "out", layout)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("language Hebrew<asr_text>שלום<|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "language Hebrew<asr_text>שלום"
    if layout == "legacy":
        settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
        marked = {token["content"] for token in settings["added_tokens_decoder"].values() if token["special"]}
        assert "<asr_text>" not in marked | set(settings["additional_special_tokens"]) and "<|im_end|>" in marked


def test_a_large_model_is_written_in_shards(native: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shibolet.model.weights.SHARD_SIZE", "1MB")
    convert(str(native), tmp_path / "legacy", "legacy")
    assert len(list((tmp_path / "legacy").glob("model-*-of-*.safetensors"))) > 2
    monkeypatch.undo()
    convert(str(tmp_path / "legacy"), tmp_path / "again", "native")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (native / "model.safetensors").read_bytes()


def test_a_trained_model_is_written_merged_in_either_layout(recogniser, tokenizer, tmp_path: Path):
    untie_head(recogniser)
    loaded = LoadedModel(recogniser, tokenizer, Qwen3ASRFeatureExtractor(), tmp_path, "")
    save_model(loaded, tmp_path / "native")
    convert(str(tmp_path / "native"), tmp_path / "legacy", "legacy")
    models = [load_recogniser(str(tmp_path / layout)).model for layout in ("native", "legacy")]
    assert not any(is_tied(model) for model in models)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert one.equal(other), name


def test_a_folder_that_is_there_is_not_written_over(native: Path, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ModelError, match="exists; name a new folder"):
        convert(str(native), tmp_path / "taken", "legacy")


REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "qwen3-asr"


def test_the_published_configuration_survives_both_ways():
    """From the 1.7B model's own files: what a reader of the legacy layout looks at is what stood there."""
    if not REAL.is_dir():
        pytest.skip("no folder 'shared' beside the repository")
    from transformers import AutoTokenizer

    from shibolet.model.qwen3_asr.layouts import legacy_config, native_config, supported_languages

    published, tokenizer = json.loads((REAL / "config.json").read_text()), AutoTokenizer.from_pretrained(REAL)
    again = legacy_config(
        native_config(published, tokenizer), tokenizer,
        aligner=False, languages=supported_languages(published), timestamp_ms=80,
    )  # fmt: skip
    thinker, thinker_again = published.pop("thinker_config"), again.pop("thinker_config")
    assert again | {"dtype": published["dtype"]} == {k: v for k, v in published.items() if k != "transformers_version"}
    for part in ("audio_config", "text_config"):
        written = thinker_again.pop(part)
        assert len(written) > 15 and written == {key: thinker[part][key] for key in written}
    assert {**thinker_again, "dtype": "bfloat16", "tie_word_embeddings": True, "architectures": None} == {
        **{key: thinker.get(key) for key in thinker_again}, "tie_word_embeddings": True, "architectures": None,
    }  # fmt: skip
