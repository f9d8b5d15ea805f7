"""Both layouts are read into the same model; what is not one, or not whole, is refused with the reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration

from shibolet.demo import tiny
from shibolet.errors import ModelError
from shibolet.model.features import log_mel, num_audio_tokens
from shibolet.model.load import LoadedModel, load_aligner, load_recogniser, resolve
from shibolet.model.packed import build_pack, packed_logits
from shibolet.model.parts import is_tied, untie_head
from shibolet.model.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.model.save import convert, save_model


def to_legacy(native: Path, legacy: Path) -> Path:
    """The native folder in the layout of the qwen-asr package, its tied head stored as well, as some do."""
    convert(str(native), legacy, "legacy")
    weights = load_file(legacy / "model.safetensors")
    if "thinker.lm_head.weight" not in weights:
        save_file({**weights, "thinker.lm_head.weight": torch.zeros(384, 128)}, legacy / "model.safetensors")
    return legacy


def logits(loaded: LoadedModel, clip, aligner: bool = False) -> torch.Tensor:
    mel = log_mel(clip, loaded.extractor)
    if aligner:
        prompt = AlignmentPrompt(loaded.tokenizer)
        sequence = prompt.example(num_audio_tokens(mel.shape[1]), ["שלום", "עולם"], [0, 1, 2, 3])
    else:
        prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
        sequence = prompt.example(num_audio_tokens(mel.shape[1]), "שלום עולם")
    with torch.no_grad():
        return packed_logits(loaded.model, build_pack([sequence], [mel], prompt.audio_id, shift=not aligner))


@pytest.mark.parametrize("tied", [True, False])
def test_a_recogniser_is_the_same_in_both_layouts(tied: bool, recogniser, tokenizer, clips, tmp_path: Path):
    if not tied:
        untie_head(recogniser)
        torch.nn.init.normal_(recogniser.lm_head.weight, std=0.02)
    path = tmp_path / "native"
    save_model(LoadedModel(recogniser, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path, torch.float32)
    native = load_recogniser(str(path))
    legacy = load_recogniser(str(to_legacy(path, tmp_path / "legacy")))
    assert is_tied(native.model) == is_tied(legacy.model) == tied
    assert logits(native, clips[1]).equal(logits(legacy, clips[1]))
    assert native.identity != legacy.identity and len(native.identity) == 16
    stock = Qwen3ASRForConditionalGeneration.from_pretrained(path)
    for (name, a), b in zip(stock.named_parameters(), legacy.model.parameters(), strict=True):
        assert a.equal(b), name


def test_an_aligner_is_the_same_in_both_layouts(tokenizer, clips, tmp_path: Path):
    model, path = tiny.new_aligner(tokenizer, seed=4).eval(), tmp_path / "native"
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path, torch.float32)
    legacy = load_aligner(str(to_legacy(path, tmp_path / "legacy")))
    assert legacy.model.config.num_labels == tiny.NUM_TIME_CLASSES
    assert logits(load_aligner(str(path)), clips[1], aligner=True).equal(logits(legacy, clips[1], aligner=True))
    for folder in ("native", "legacy"):
        with pytest.raises(ModelError):
            load_recogniser(str(tmp_path / folder))


def test_a_recogniser_is_not_taken_for_an_aligner(native_dir: Path, tmp_path: Path):
    for path in (native_dir, to_legacy(native_dir, tmp_path / "legacy")):
        with pytest.raises(ModelError):
            load_aligner(str(path))


def test_the_native_layout_written_from_a_legacy_one_is_whole(native_dir: Path, clips, tmp_path: Path):
    legacy = load_recogniser(str(to_legacy(native_dir, tmp_path / "legacy")))
    save_model(legacy, tmp_path / "again", torch.float32)
    assert logits(load_recogniser(str(tmp_path / "again")), clips[1]).equal(logits(legacy, clips[1]))


@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_missing_weights_are_counted_and_named(layout: str, native_dir: Path, tmp_path: Path):
    path = native_dir if layout == "native" else to_legacy(native_dir, tmp_path / "legacy")
    weights = load_file(path / "model.safetensors")
    gone = [name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight")]
    assert gone
    save_file({name: weight for name, weight in weights.items() if name not in gone}, path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{len(gone)} weights missing .*layers\.1\.self_attn\.q_proj"):
        load_recogniser(str(path))


def test_folders_that_are_no_such_model(tmp_path: Path, native_dir: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_recogniser(str(tmp_path))
    (native_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"a configuration but no \.safetensors weights"):
        load_recogniser(str(native_dir))
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ModelError, match="is a 'whisper', not a Qwen3-ASR"):
        load_recogniser(str(tmp_path))


def test_a_folder_that_does_not_exist_is_not_asked_for_on_the_hub(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path / "nowhere"))


def test_identity_follows_the_weights(native_dir: Path):
    before = load_recogniser(str(native_dir)).identity
    assert load_recogniser(str(native_dir)).identity == before
    weights = load_file(native_dir / "model.safetensors")
    weights["model.language_model.norm.weight"][0] += 1
    save_file(weights, native_dir / "model.safetensors", metadata={"format": "pt"})
    assert load_recogniser(str(native_dir)).identity != before
