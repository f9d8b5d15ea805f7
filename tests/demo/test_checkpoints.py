"""The shipped checkpoints: real classes, small, loadable by transformers alone, and they listen."""

import json

import numpy as np
import pytest
from made_speech import sentences
from transformers import (
    AutoProcessor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3ASRProcessor,
    Wav2Vec2BertForCTC,
)

from shibolet.listen.open import open_aligner, open_recogniser
from shibolet.listen.transcribe import Transcriber
from shibolet.model.folders import resolve
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.scoring.counts import EditCounts, count_words

CLASSES = {
    "round1": Qwen3ASRForConditionalGeneration,
    "aligner": Qwen3ASRForTokenClassification,
    "ctc": Wav2Vec2BertForCTC,
}


@pytest.mark.parametrize("name", CLASSES)
def test_class_size_and_record(name: str) -> None:
    path = resolve(f"builtin:{name}")
    assert (path / "model.safetensors").stat().st_size <= 5 * 2**20
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == [CLASSES[name].__name__] and config["dtype"] == "bfloat16"
    model = CLASSES[name].from_pretrained(path)
    record = json.loads((path / "build.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert record["steps"] > 0 and record["device"]
    if name != "ctc":
        assert isinstance(AutoProcessor.from_pretrained(path), Qwen3ASRProcessor)


@pytest.fixture(scope="module")
def spoken() -> list:
    """Twelve sentences of a test voice."""
    return sentences(12, seed=5)


def test_round1_hears_clean_speech_and_nothing_else(spoken: list) -> None:
    transcriber = Transcriber(load_recogniser("builtin:round1"), "Hebrew")
    heard = transcriber.transcribe([speech.samples for speech in spoken])
    texts = [" ".join(word.word for word in speech.words) for speech in spoken]
    own = sum((count_words(r, h) for r, h in zip(texts, heard)), EditCounts())
    other = sum((count_words(r, h) for r, h in zip(texts[1:] + texts[:1], heard)), EditCounts())
    assert own.rate < 0.15 and other.rate > 0.9


def test_the_listeners_know_a_wrong_text_and_where_words_are(spoken: list) -> None:
    clips = [speech.samples for speech in spoken]
    words = [[word.word for word in speech.words] for speech in spoken]
    recogniser, aligner = open_recogniser("builtin:ctc", "Hebrew"), open_aligner("builtin:aligner", "Hebrew")
    right = [hearing.text_score for hearing in recogniser.hear(clips, words)]
    wrong = [hearing.text_score for hearing in recogniser.hear(clips, words[1:] + words[:1])]
    assert min(right) > max(wrong)
    errors = np.concatenate(
        [a.starts_s - [w.start_s for w in s.words] for a, s in zip(aligner.align(clips, words), spoken)]
    )
    assert np.mean(np.abs(errors) < 0.2) > 0.9
