"""What is written is what transformers reads, with the files of the source; what is no whole Whisper is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline
from whisper_models import SENTENCES, save_whisper

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.lora import attach_lora, has_lora, merge_lora
from shibolet.model.whisper import packed
from shibolet.model.whisper.features import LogMel, lay_samples
from shibolet.model.whisper.parts import is_tied, untie_head
from shibolet.model.whisper.prompt import TranscriptionPrompt


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_whisper(tmp_path / "base")


def save(loaded: LoadedModel, path: Path, dtype: torch.dtype | None = None) -> Path:
    loaded.family.save(loaded, path, dtype)
    return path


def logits(loaded: LoadedModel, clips) -> torch.Tensor:
    prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
    pack = packed.lay_out(prompt.frame, prompt.encode(SENTENCES[: len(clips)]), [3000] * len(clips))
    with torch.no_grad():
        features = LogMel(loaded.extractor, "cpu")(lay_samples(clips))
        return loaded.family.logits(loaded.model, replace(pack, features=features))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_and_transformers_opens_it(tied: bool, base: Path, tmp_path: Path, clips):
    loaded = load_recogniser(str(base))
    if not tied:
        untie_head(loaded.model)
        torch.nn.init.normal_(loaded.model.proj_out.weight, std=0.1)
    path = save(loaded, tmp_path / "saved")
    weights = load_file(path / "model.safetensors")
    assert ("proj_out.weight" in weights) != tied and {weight.dtype for weight in weights.values()} == {torch.float32}
    assert json.loads((path / "config.json").read_text())["tie_word_embeddings"] == tied
    again = load_recogniser(str(path))
    assert is_tied(again.model) == tied and logits(again, clips[:2]).equal(logits(loaded, clips[:2]))
    stock = AutoModelForSpeechSeq2Seq.from_pretrained(path).state_dict()
    assert all(stock[name].equal(weight) for name, weight in loaded.model.state_dict().items())
    kept = {"generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert kept < {file.name for file in path.iterdir()}
    assert all((path / name).read_bytes() == (base / name).read_bytes() for name in kept)


def test_a_pipeline_transcribes_with_it(base: Path, tmp_path: Path, clips):
    path = save(load_recogniser(str(base)), tmp_path / "saved")
    assert AutoProcessor.from_pretrained(path).tokenizer.get_vocab()
    hear = pipeline("automatic-speech-recognition", str(path), device="cpu")
    heard = hear(clips[1], generate_kwargs={"language": "he", "max_new_tokens": 8})
    assert isinstance(heard["text"], str)


@pytest.mark.parametrize(("of_model", "asked"), [("bfloat16", None), ("float32", "float16")])
def test_the_precision_is_the_models_or_what_is_asked_for(of_model, asked, base: Path, tmp_path: Path):
    loaded = load_recogniser(str(base), dtype=getattr(torch, of_model))
    path = save(loaded, tmp_path / "saved", asked and getattr(torch, asked))
    (dtype,) = {weight.dtype for weight in load_file(path / "model.safetensors").values()}
    assert str(dtype) == f"torch.{asked or of_model}"
    assert json.loads((path / "config.json").read_text())["dtype"] == (asked or of_model)


def test_a_source_without_a_feature_extractor_gets_the_usual_one(base: Path, tmp_path: Path):
    (base / "processor_config.json").unlink()
    path = save(load_recogniser(str(base)), tmp_path / "saved")
    assert AutoProcessor.from_pretrained(path).feature_extractor.feature_size == 80


def test_adapters_train_and_merge_into_the_same_logits(base: Path, clips):
    loaded = load_recogniser(str(base))
    attach_lora(
        loaded.model, "decoder.layers", rank=2, alpha=4, dropout=0.0, targets=["q_proj", "k_proj", "v_proj", "o_proj"],
        seed=1,
    )  # fmt: skip
    adapters = {name: weight for name, weight in loaded.model.named_parameters() if ".lora_B." in name}
    assert len(adapters) == 2 * 2 * 4, "both attentions of both layers"
    for weight in adapters.values():
        torch.nn.init.normal_(weight, std=0.1)
    before = logits(loaded, clips[:2])
    merge_lora(loaded.model)
    after = logits(loaded, clips[:2])
    assert not has_lora(loaded.model)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert (logits(load_recogniser(str(base)), clips[:2]) - after).abs().max() > 0.01


def changed(path: Path, file: str, **values) -> None:
    found = json.loads((path / file).read_text())
    for key, value in values.items():
        found["feature_extractor" if file == "processor_config.json" else key] = (
            {**found["feature_extractor"], key: value} if file == "processor_config.json" else value
        )
    (path / file).write_text(json.dumps(found))


def test_what_is_not_whole_or_not_of_30_s_is_refused(base: Path):
    weights = load_file(base / "model.safetensors")
    tied = weights["model.decoder.embed_tokens.weight"]
    save_file({**weights, "proj_out.weight": tied.clone()}, base / "model.safetensors", {"format": "pt"})
    load_recogniser(str(base))  # some write it too
    save_file({**weights, "proj_out.weight": 2 * tied}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"differs from the embeddings.*set tie_word_embeddings to false"):
        load_recogniser(str(base))
    some = {name: weight for name, weight in weights.items() if "encoder_attn.q" not in name}
    save_file(some, base / "model.safetensors")
    with pytest.raises(ModelError, match=r"4 weights missing .*is the download whole"):
        load_recogniser(str(base))
    save_file({**weights, "model.encoder.layer_norm.bias": torch.zeros(3)}, base / "model.safetensors")
    with pytest.raises(ModelError, match=r"'model.encoder.layer_norm.bias' has shape \[3\], its configuration says"):
        load_recogniser(str(base))
    changed(base, "processor_config.json", hop_length=320)
    with pytest.raises(ModelError, match=r"feature extractor in .* has hop_length 320, it has to be 160"):
        load_recogniser(str(base))
    changed(base, "config.json", max_source_positions=750)
    with pytest.raises(ModelError, match=r"max_source_positions 750; .* hear 30 s"):
        load_recogniser(str(base))
    (base / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_recogniser(str(base))
