"""Beams with an n-gram: without one nothing changes, and with one each family's beams follow it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor
from whisper_models import loaded_whisper

from shibolet.demo.tiny import new_recogniser, train_tokenizer
from shibolet.model.family import LoadedModel
from shibolet.model.ngram.arpa import read_arpa, write_arpa
from shibolet.model.ngram.estimate import estimate
from shibolet.model.protocols import Decoding, Prompt

TEXTS = ["שלום עולם", "שלום עולם מה נשמע", "עולם עולם"]
LIMIT = 24


def loud(loaded: LoadedModel) -> LoadedModel:
    """With weights so large that what it writes hangs on what it hears."""
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return loaded


@pytest.fixture(scope="module", params=["qwen3_asr", "whisper"])
def loaded(request) -> LoadedModel:
    if request.param == "whisper":
        return loud(loaded_whisper(seed=4, max_target_positions=64))
    tokenizer = train_tokenizer(["language Hebrew שלום עולם מה נשמע"])
    model = new_recogniser(tokenizer, seed=0).eval()
    return loud(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), Path("random"), "random"))


@pytest.fixture(scope="module")
def file(loaded, tmp_path_factory) -> Path:
    """An n-gram of `TEXTS` over the tokens of the model."""
    targets = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew"))
    pieces, end_id = loaded.tokenizer.get_vocab(), targets.frame.end_id
    ngram, _ = estimate(targets.encode(TEXTS), 4, max(pieces.values()) + 1, end_id)
    path = tmp_path_factory.mktemp("ngram") / "ngram.arpa"
    write_arpa(ngram, pieces, path)
    return path


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        (0.1 * rng.standard_normal(n) * np.sin(np.arange(n) * (0.002 + 0.03 * i))).astype(np.float32)
        for i, n in enumerate((30000, 22000, 9000))
    ]


def heard(loaded: LoadedModel, **settings) -> list[list[int]]:
    how = Decoding(prompt=Prompt("Hebrew"), clips_at_once=2, **settings)
    found = loaded.family.decoder(loaded, how).decode(clips(), [LIMIT] * 3, lambda place, ids: False)
    return [one.ids for one in sorted(found, key=lambda one: one.place)]


def test_an_ngram_of_no_weight_changes_nothing_and_one_of_all_weight_writes_its_texts(loaded, file):
    """Protects from a file that is never asked, is asked with the prompt in its context, or with another end."""
    beams = heard(loaded, beam_size=3)
    assert heard(loaded, beam_size=3, ngram=file, ngram_weight=0.0) == beams
    pulled = heard(loaded, beam_size=3, ngram=file, ngram_weight=1e4)
    assert pulled != beams
    decoder = loaded.family.decoder(loaded, Decoding(prompt=Prompt("Hebrew"), beam_size=3))
    assert {decoder.text(ids) for ids in pulled} <= set(TEXTS)


def test_beams_maximise_the_sum_of_both(loaded, file):
    """Of all continuations by one token and the end, the search takes the one that the formula takes."""
    end_id = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew")).frame.end_id
    weight, size = 0.7, loaded.family.head(loaded.model).out_features
    ngram = read_arpa(file, loaded.tokenizer.get_vocab(), size, end_id)
    how = Decoding(prompt=Prompt("Hebrew"), clips_at_once=1, beam_size=5, ngram=file, ngram_weight=weight)
    clip = clips()[0]
    reach = lambda how: list(loaded.family.decoder(loaded, how).decode([clip], [1], lambda place, ids: False))  # noqa: E731
    (one,) = reach(how)
    (plain,) = reach(replace(how, ngram=None))
    text = loaded.family.targets(loaded.tokenizer, how.prompt)
    frames = loaded.family.num_frames(len(clip))
    pack = loaded.family.lay_out(text.frame, [[0]], [frames])
    features = loaded.family.features(loaded.extractor, "cpu")
    with torch.inference_mode():
        pack = loaded.family.with_audio(pack, [clip], features, torch.device("cpu"))
        logits = loaded.family.logits(loaded.model, pack)[text.frame.num_prefix]
    said = logits.double().log_softmax(-1).numpy()
    with_ngram = said + weight * ngram.logps(np.array([[ngram.begin_id]]))[0]
    allowed = np.ones(size, bool)
    assert plain.ids[0] == said[allowed].argmax(), "the reference is not what the beams add to"
    assert one.ids[0] == with_ngram[allowed].argmax()
