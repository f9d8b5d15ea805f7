"""An exported adapter names its base and has code that runs: peft once took it for a language model without a base."""

from pathlib import Path

import pytest
import soundfile as sf
import torch
import yaml
from made_speech import sentences

from shibolet.model.family import convert, load_recogniser
from shibolet.model.folders import resolve
from shibolet.model.lora import attach_lora, save_lora
from shibolet.model.parts import select
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.publish.card import adapter_card
from shibolet.rounds.reproduce import code_of, run_code
from shibolet.speech.text import get_language


def adapter_on(base: str, path: Path, change: float) -> None:
    """An adapter for a recogniser, its card beside it; `change` is the size of its weights."""
    model = load_recogniser(base).model
    attach_lora(model, "decoder.layers", rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj"], seed=1)
    for weight in select(model, "lora").values():
        torch.nn.init.normal_(weight, 0, change, generator=torch.Generator().manual_seed(weight.numel()))
    save_lora(model, list(select(model, "lora")), path, base, torch.float32)
    (path / "README.md").write_text(adapter_card(path, base, FAMILY, get_language("Hebrew")), encoding="utf-8")


@pytest.mark.slow("publish", seconds=30)
@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_the_adapters_own_code_runs(layout, tmp_path):
    """On a base that peft's auto classes open, and on one in the other layout after the card's own conversion."""
    base = str(resolve("builtin:round1"))
    if layout == "legacy":
        convert(base, tmp_path / "legacy", "legacy")
        convert(str(tmp_path / "legacy"), tmp_path / "base", "native")  # as the card says
        base = str(tmp_path / "legacy")
    files = []
    for i, speech in enumerate(sentences(4, seed=11)):
        files.append(f"{i}.wav")
        sf.write(tmp_path / files[-1], speech.samples, 16000, subtype="FLOAT")
    heard = {}
    for change in (0.0, 0.3):
        path = tmp_path / f"adapter{change:g}".replace(".", "")
        adapter_on(base, path, change)
        heard[change] = run_code(code_of((path / "README.md").read_text(encoding="utf-8")), tmp_path, files)
    speech = [" ".join(word.word for word in one.words) for one in sentences(4, seed=11)]
    assert sum(text == said for text, said in zip(heard[0.0], speech, strict=True)) >= 3
    assert heard[0.3] != heard[0.0]


@pytest.mark.parametrize("base", ["org/base", "builtin:round1"])
def test_the_card_says_what_is_known(base, tmp_path, monkeypatch):
    folder = resolve("builtin:round1")
    monkeypatch.setattr("shibolet.publish.card.resolve", lambda name: folder)
    card = adapter_card(tmp_path / "adapter", base if "/" in base else str(folder), FAMILY, get_language("Hebrew"))
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["library_name"] == "peft" and data["pipeline_tag"] == "automatic-speech-recognition"
    assert data.get("base_model") == (base if "/" in base else None) and "license" not in data
    assert ("The base is a folder" in card) == ("/" not in base)
    assert "AutoPeftModel.from_pretrained" in code_of(card)
