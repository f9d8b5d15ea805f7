"""A Whisper of CTranslate2: a tiny random one, converted as a user's would be, against the same one in transformers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from shibolet.errors import ModelError
from shibolet.listen.ctranslate2_whisper import CTranslate2Whisper
from shibolet.listen.encoder_decoder import SPARE_TOKENS, TOKENS_PER_S
from shibolet.listen.open import listener_identity, open_aligner, open_recogniser

WORDS = [["abc", "de"], ["x"], ["fgh", "ijk", "lm"], ["abc", "zz"]]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in (1.3, 0.4, 2.0)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same random Whisper as transformers saves it, and as CTranslate2's converter writes it."""
    from ctranslate2.converters import TransformersConverter

    saved, converted = (tmp_path_factory.mktemp("ct2") / name for name in ("saved", "converted"))
    symbols = [chr(i) for i in range(33, 127)] + [chr(i) for i in range(161, 324)] + ["Ġ"]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*symbols, *special]))}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")
    WhisperProcessor(feature_extractor=WhisperFeatureExtractor(), tokenizer=tokenizer).save_pretrained(saved)
    torch.manual_seed(0)
    end = vocabulary["<|endoftext|>"]
    ids = dict(pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=end + 1)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, suppress_tokens=[],
        begin_suppress_tokens=[], **ids,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # so that what comes out depends on what goes in
    model.generation_config = GenerationConfig(
        suppress_tokens=[], begin_suppress_tokens=[], alignment_heads=[[0, 0], [0, 1]], is_multilingual=False, **ids
    )
    model.save_pretrained(saved)
    TransformersConverter(str(saved), copy_files=["tokenizer.json"]).convert(str(converted))
    return saved, converted


@pytest.fixture(scope="module")
def recogniser(folders: tuple[Path, Path]) -> CTranslate2Whisper:
    found = open_recogniser(str(folders[1]), "English")
    assert isinstance(found, CTranslate2Whisper)
    return found


@pytest.mark.parametrize("window_s", [30.0, 10.0])
def test_texts_score_as_in_transformers(folders, recogniser, clips: list[np.ndarray], window_s: float) -> None:
    """A prefix, a shift or a padding of its own, or shares of a part of the vocabulary, would give other numbers."""
    other = open_recogniser(str(folders[0]), "English")
    texts = [recogniser._tokens(" " + " ".join(words)) for words in WORDS[:3]]
    assert texts == [other._tokens(" " + " ".join(words)) for words in WORDS[:3]] and len({*map(len, texts)}) == 3
    found = recogniser._force(recogniser._encode(clips, window_s), [0, 1, 2], texts)
    expected = other._force(other._encode(clips, window_s), [0, 1, 2], texts)
    spread = float(np.std(np.concatenate(expected)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05 * spread)  # 8 bit weights


def test_an_audio_under_several_texts_is_encoded_once(
    recogniser: CTranslate2Whisper, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = recogniser._encode
    monkeypatch.setattr(recogniser, "_encode", lambda own, s: encoded.extend(map(id, own)) or encode(own, s))
    heard = recogniser.hear([*clips, clips[0]], WORDS)
    assert sorted(encoded) == sorted(map(id, clips))
    assert heard[3].hypothesis == heard[0].hypothesis and heard[3].text_logp != heard[0].text_logp
    assert all(h.text_score <= 0 and h.worst_score <= h.text_logp for h in heard)


def test_words_have_times_in_order_and_letters_none(recogniser: CTranslate2Whisper, clips: list[np.ndarray]) -> None:
    """Times of what was heard would cost a second pass; none may be made up for them."""
    for hearing, words, clip in zip(recogniser.hear(clips, WORDS[:3]), WORDS, clips):
        spans = hearing.word_spans_s
        assert spans.shape == (len(words), 2) and (np.diff(spans.ravel()) >= 0).all()
        assert 0 <= spans.min() and spans.max() <= len(clip) / 16000 + 0.02
        assert not len(hearing.letter_times_s)


def test_a_clip_writes_no_more_than_its_length_allows(recogniser: CTranslate2Whisper, clips: list[np.ndarray]) -> None:
    """A short clip beside a long one would run on to the long one's limit, and random models do run on."""
    alone, together = recogniser.transcribe([clips[1]]), recogniser.transcribe(clips)
    assert together[1] == alone[0]
    limit = TOKENS_PER_S * len(clips[1]) / 16000 + SPARE_TOKENS
    assert 0 < len(alone[0]) <= limit < len(together[2])  # a token is a character at most


def test_nothing_heard_is_a_hypothesis_too(
    recogniser, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recogniser, "_write", lambda states, limits: [[] for _ in limits])
    for hearing in recogniser.hear(clips, WORDS[:3]):
        assert hearing.hypothesis == "" and not len(hearing.letter_times_s)
        assert np.isfinite([hearing.text_logp, hearing.text_score, hearing.worst_score]).all()


def test_the_identity_is_that_of_the_weights(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.bin"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    before = listener_identity(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"other")
    assert before != listener_identity(str(tmp_path))


def test_what_is_missing_is_named(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "model.bin"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        open_recogniser(str(tmp_path), "English")
    (tmp_path / "tokenizer.json").write_bytes((folders[1] / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match="CTranslate2 cannot open"):
        open_recogniser(str(tmp_path), "English")  # no vocabulary.json
    with pytest.raises(ModelError, match="can align"):
        open_aligner(str(tmp_path), "English")
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|notimestamps|>"]
    del tokenizer["model"]["vocab"]["<|notimestamps|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (tmp_path / "vocabulary.json").write_bytes((folders[1] / "vocabulary.json").read_bytes())
    with pytest.raises(ModelError, match=r"no token <\|notimestamps\|>"):
        open_recogniser(str(tmp_path), "English")
    monkeypatch.setitem(sys.modules, "ctranslate2.models", None)
    with pytest.raises(ModelError, match=r"pip install 'shibolet\[faster-whisper\]'"):
        open_recogniser(str(tmp_path), "English")
