"""A smaller model is layers of a larger one: their weights bit for bit, a configuration that says so, and it runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen3ASRForConditionalGeneration, WhisperForConditionalGeneration
from whisper_models import save_whisper

from shibolet.errors import ModelError, RecipeError
from shibolet.listen.transcribe import Transcriber
from shibolet.model.cut import LINEAGE, cut
from shibolet.model.family import load_recogniser
from shibolet.model.spans import spread
from shibolet.records.documents.cut import CutModel

LAYERS = {"encoder": r"(audio_tower|model\.encoder)\.layers\.", "decoder": r"(language_model|model\.decoder)\.layers\."}


def test_layers_are_kept_evenly_and_both_ends_with_them():
    assert [spread(num, 4) for num in (1, 2, 3, 4)] == [[0], [0, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert spread(14, 28) == sorted(set(spread(14, 28))) and spread(14, 28)[::13] == [0, 27]


@pytest.mark.parametrize("kind", ["qwen", "whisper"])
def test_a_cut_model_has_the_kept_layers_and_no_other(kind: str, tmp_path: Path):
    """By the state dicts, in transformers' own class; a layer under the wrong number would train all the same."""
    source = "builtin:round1" if kind == "qwen" else str(save_whisper(tmp_path / "whisper", decoder_layers=4))
    plain = Qwen3ASRForConditionalGeneration if kind == "qwen" else WhisperForConditionalGeneration
    made = cut(source, tmp_path / "cut", encoder=1, decoder=2)
    assert made == CutModel.read(tmp_path / "cut" / LINEAGE)
    assert (made.source, made.identity) == (source, load_recogniser(source).identity)
    assert (made.encoder_layers, made.decoder_layers) == ((0,), (0, 3))
    before = load_recogniser(source).model.state_dict()
    after = plain.from_pretrained(tmp_path / "cut", dtype=torch.float32).state_dict()
    for name, weight in after.items():
        number = re.search(r"layers\.(\d+)\.", name)
        for tower, kept in (("encoder", made.encoder_layers), ("decoder", made.decoder_layers)):
            if re.search(LAYERS[tower], name):
                name = name.replace(number[0], f"layers.{kept[int(number[1])]}.")
        assert torch.equal(weight, before[name]), name
    assert 0 < made.parameters < made.source_parameters
    loaded = load_recogniser(str(tmp_path / "cut"))
    assert sum(weight.numel() for weight in loaded.model.parameters()) == made.parameters
    assert loaded.family.num_layers(loaded.model) == {"encoder": 1, "decoder": 2}
    clip = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    assert len(Transcriber(loaded, "Hebrew", max_new_tokens_per_s=4).transcribe([clip])) == 1


def test_heads_that_follow_the_audio_keep_their_layer(tmp_path: Path):
    """Programs that find the times of words would look into a layer that is not there."""
    source = save_whisper(tmp_path / "whisper", decoder_layers=3)
    settings = GenerationConfig.from_pretrained(source)
    settings.alignment_heads = [[1, 0], [2, 1]]
    settings.save_pretrained(source)
    cut(str(source), tmp_path / "cut", decoder=2)
    found = GenerationConfig.from_pretrained(tmp_path / "cut")
    assert found.alignment_heads == [[1, 1]] and found.lang_to_id == settings.lang_to_id


def test_what_cannot_be_cut_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(RecipeError, match="has 4 layers, and 5 cannot be kept"):
        cut("builtin:round1", tmp_path / "cut", decoder=5)
    with pytest.raises(RecipeError, match="all layers of 'builtin:round1' would be kept"):
        cut("builtin:round1", tmp_path / "cut", decoder=4)
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="name a new folder"):
        cut("builtin:round1", tmp_path / "there", decoder=2)
    assert not (tmp_path / "cut").exists()
