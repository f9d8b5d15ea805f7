"""Listeners that are no Qwen: tiny random models of other kinds, saved and opened as a user's would be."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_family import ToyFamily
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
)

from shibolet.errors import DataError, ModelError
from shibolet.listen.ctc import CtcAligner, CtcModel, CtcRecogniser
from shibolet.listen.hypotheses import RecordedHypotheses
from shibolet.listen.open import listener_identity, open_aligner, open_recogniser
from shibolet.listen.seq2seq import Seq2SeqRecogniser
from shibolet.model.outline import FAMILIES
from shibolet.speech import text as languages

LATIN = "abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in (1.3, 0.4, 2.0)]


def save_wav2vec2(path: Path, vocabulary: dict, norm: str = "layer", delimiter: str | None = "|") -> Path:
    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    letters = next(iter(vocabulary.values())) if isinstance(next(iter(vocabulary.values())), dict) else vocabulary
    nested = {"target_lang": next(iter(vocabulary))} if letters is not vocabulary else {}
    tokenizer = Wav2Vec2CTCTokenizer(
        str(path / "vocab.json"), unk_token="<pad>", pad_token="<pad>", bos_token=None, eos_token=None,
        word_delimiter_token=delimiter, **nested,
    )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(path)
    config = Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(path)
    return path


def alphabet(letters: str, *more: str) -> dict[str, int]:
    return {token: i for i, token in enumerate(["<pad>", *more, *letters])}


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_wav2vec2_hears_the_same_alone_and_among_others(tmp_path: Path, clips: list[np.ndarray], norm: str) -> None:
    """A group norm over time sees the padding of a batch whatever the mask says."""
    path = save_wav2vec2(tmp_path / norm, alphabet(LATIN, "|"), norm)
    model = CtcModel(path, "Hebrew")
    together = model.emissions(clips)
    alone = [model.emissions([clip])[0] for clip in clips]
    assert len({e.shape[0] for e in alone}) == 3 and alone[0].std() > 0
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_hebrew_is_written_in_latin_letters_only_where_there_are_no_others(tmp_path: Path) -> None:
    latin = CtcModel(save_wav2vec2(tmp_path / "latin", alphabet(LATIN), delimiter=None), "Hebrew")
    spell = {i: letter for letter, i in alphabet(LATIN).items()}
    assert "".join(spell[i] for i in latin.token_ids("שלום")) == "shlvm"
    assert latin.token_ids("12") == [] and latin.space is None
    with pytest.raises(ModelError, match="can be the aligner, but not the recogniser"):
        open_recogniser(str(tmp_path / "latin"), "Hebrew")
    hebrew = CtcModel(save_wav2vec2(tmp_path / "hebrew", alphabet("אבגשלום", "|")), "Hebrew")
    assert len(hebrew.token_ids("שלום")) == 4 and hebrew.token_ids("תקת") == []


def test_a_model_without_a_letter_of_the_language_places_nothing_and_is_left_to_the_self_test(tmp_path: Path) -> None:
    path = save_wav2vec2(tmp_path / "greek", alphabet("αβγδ", "|"))
    with pytest.raises(ModelError, match="knows no letter of the language"):
        open_aligner(str(path), "Hebrew")
    noise = [0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)]
    right, wrong = (open_recogniser(str(path), "Hebrew").hear(noise, [[word]])[0] for word in ("שלום", "ילד"))
    assert right.text_score is None and wrong.text_score is None  # it says nothing of a text: the self-test will tell


def test_adapters_for_other_languages_only_are_refused(tmp_path: Path) -> None:
    path = save_wav2vec2(tmp_path / "mms", {"fra": alphabet(LATIN, "|")})
    with pytest.raises(ModelError, match="adapters for 1 languages, and none for Hebrew"):
        open_aligner(str(path), "Hebrew")


def test_a_language_of_ones_own_finds_its_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MMS names adapters by codes of three letters: a table of our own languages would refuse every other one."""
    amharic = replace(languages.LANGUAGES[1], name="Amharic", code="am", other_codes=("amh",), letters="ሀ-ፚ")
    monkeypatch.setattr(languages, "LANGUAGES", (*languages.LANGUAGES, amharic))
    path = save_wav2vec2(tmp_path / "mms", {"amh": alphabet("ሰላም", "|")})
    with pytest.raises(ModelError, match=r"has no adapter\.amh\.safetensors"):
        open_aligner(str(path), "Amharic")


def test_a_ctc_aligner_answers_for_every_word(tmp_path: Path, clips: list[np.ndarray]) -> None:
    """Words without a letter, and more letters than frames, must come back as words without evidence."""
    aligner = open_aligner(str(save_wav2vec2(tmp_path / "latin", alphabet(LATIN, "|"))), "Hebrew")
    assert isinstance(aligner, CtcAligner)
    words = [["שלום", "12", "עולם"], ["שלום"] * 40, ["34", "בית"]]
    found = aligner.align(clips, words)
    for alignment, said, clip in zip(found, words, clips, strict=True):
        assert len(alignment.starts_s) == len(alignment.ends_s) == len(said)
        assert (alignment.starts_s >= 0).all() and (alignment.ends_s <= len(clip) / 16000 + 0.03).all()
    assert not found[1].ends_s.any()
    assert found[0].starts_s[0] < found[0].starts_s[1] < found[0].starts_s[2]


def test_a_family_hears_in_the_place_of_transformers_own_class_where_it_says_so(whisper: Path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "whisper", "toy_family")
    monkeypatch.setattr(ToyFamily, "listens", False)
    assert isinstance(open_recogniser(str(whisper), "Hebrew"), Seq2SeqRecogniser)
    monkeypatch.setattr(ToyFamily, "listens", True)
    with pytest.raises(AttributeError, match=r"encoder_layers|letters"):  # it is opened as a toy, which it is not
        open_recogniser(str(whisper), "Hebrew")


def test_a_sequence_to_sequence_model_scores_a_text_as_it_would_write_it(
    whisper: Path, clips: list[np.ndarray]
) -> None:
    """Teacher forcing with a prefix, a shift or a padding of its own would score another text than step by step."""
    recogniser = open_recogniser(str(whisper), "Hebrew")
    assert isinstance(recogniser, Seq2SeqRecogniser)
    texts = [recogniser._tokens(text) for text in ("abc de", "x", "fgh ijk lm")]
    found = recogniser._force(recogniser._encode(clips, 5.0), [0, 1, 2], texts)
    for clip, text, logps in zip(clips, texts, found, strict=True):
        written, expected, alone = list(recogniser._prefix), [], recogniser._encode([clip], 5.0)
        for token in [*text, recogniser._end]:
            with torch.no_grad():
                logits = recogniser._model(**alone.rows([0]), decoder_input_ids=torch.tensor([written])).logits[0, -1]
            expected.append(float(logits.log_softmax(-1)[token]))
            written.append(token)
        np.testing.assert_allclose(logps, expected, rtol=1e-3)
    assert len({float(logps.sum()) for logps in found}) == 3


def test_an_audio_under_several_texts_is_encoded_once_and_scored_for_each(
    whisper: Path, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser, encoded = open_recogniser(str(whisper), "English"), []
    encode = recogniser._encode
    monkeypatch.setattr(recogniser, "_encode", lambda own, s: encoded.extend(map(id, own)) or encode(own, s))
    words = [["abc"], ["x"], ["de"], ["abc", "zz"]]
    heard = recogniser.hear([*clips, clips[0]], words)
    assert sorted(encoded) == sorted(map(id, clips))
    assert heard[3].hypothesis == heard[0].hypothesis and heard[3].text_logp != heard[0].text_logp
    assert all(h.text_score <= 0 and h.worst_score <= h.text_logp for h in heard)
    alone = open_recogniser(str(whisper), "English").hear([clips[1]], [words[1]])[0]
    assert alone.hypothesis == heard[1].hypothesis and alone.text_logp == pytest.approx(heard[1].text_logp, rel=1e-3)


def test_a_row_ends_by_its_own_limit_and_not_by_its_batch_s(whisper: Path, clips: list[np.ndarray]) -> None:
    recogniser = open_recogniser(str(whisper), "English")
    written = recogniser._write(recogniser._encode(clips, 5.0), [3, 7, 20])
    assert [len(ids) for ids in written] == [3, 7, 20], "a random model does not end by itself"


def test_a_shorter_window_has_the_first_positions_of_the_same_encoder(whisper: Path, clips: list[np.ndarray]) -> None:
    """Against a model that was built with so many positions: the encoder of a longer one takes no shorter input."""
    recogniser = open_recogniser(str(whisper), "English")
    config = copy.deepcopy(recogniser._model.config)
    config.max_source_positions = 150
    built, weights = WhisperForConditionalGeneration(config).eval(), recogniser._model.state_dict()
    weights["model.encoder.embed_positions.weight"] = weights["model.encoder.embed_positions.weight"][:150]
    built.load_state_dict(weights)
    features = recogniser._extractor(clips, sampling_rate=16000, max_length=48000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = built.get_encoder()(features).last_hidden_state
    found = recogniser._encode(clips, 3.0).states
    assert found.shape == (3, 150, 32)
    torch.testing.assert_close(found, expected)
    assert recogniser._encode(clips, 5.0).states.shape == (3, 250, 32), "the model itself is unchanged"


def test_a_clip_beyond_what_the_model_takes_has_a_text_and_no_score(whisper: Path, clips: list[np.ndarray]) -> None:
    long = np.concatenate([*clips, *clips])
    heard = open_recogniser(str(whisper), "Hebrew").hear([clips[0], long], [["שלום"], ["שלום"]])
    assert heard[0].text_score is not None and heard[1].text_score is None and heard[1].hypothesis


def test_hypotheses_from_a_file_are_found_by_id(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    rows = [{"id": "a", "hypothesis": "שלום"}, {"id": "b", "hypothesis": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recogniser = open_recogniser(str(path), "Hebrew")
    assert isinstance(recogniser, RecordedHypotheses) and recogniser.identity == listener_identity(str(path))
    found = recogniser.look_up(["b", "a", "c"])
    assert [h and h.hypothesis for h in found] == ["", "שלום", None] and found[0].text_score is None
    path.write_text('{"id": null, "hypothesis": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        open_recogniser(str(path), "Hebrew")
    with pytest.raises(ModelError, match="no such file"):
        open_recogniser(str(tmp_path / "none.jsonl"), "Hebrew")


def test_what_cannot_listen_is_said_with_its_kind(tmp_path: Path) -> None:
    """The configuration decides, not the name."""
    folder = tmp_path / "whisper-ctc-qwen3-asr"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match=r"a bert \(BertModel\)"):
        open_recogniser(str(folder), "Hebrew")
    with pytest.raises(ModelError, match=r"a bert \(BertModel\)"):
        open_aligner(str(folder), "Hebrew")


def test_the_demo_recogniser_places_and_scores(clips: list[np.ndarray]) -> None:
    """The package's own CTC checkpoint opens as both, and noise is no speech to it."""
    recogniser, aligner = open_recogniser("builtin:ctc", "Hebrew"), open_aligner("builtin:ctc", "Hebrew")
    assert isinstance(recogniser, CtcRecogniser) and recogniser.identity == aligner.identity
    heard = recogniser.hear(clips[:1], [["שלום", "עולם"]])[0]
    assert heard.text_score < -2 and heard.word_spans_s.shape == (2, 2)
    assert aligner.align(clips[:1], [["שלום", "עולם"]])[0].starts_s.shape == (2,)


def test_a_word_in_digits_may_sound_like_anything_and_its_neighbours_may_not() -> None:
    """Half of the texts with a number in digits would be flagged if the spoken number had to be a blank."""
    vocabulary, rng = {letter: i for i, letter in enumerate("_|אבגד")}, np.random.default_rng(0)
    logp = np.log(rng.dirichlet(np.full(6, 0.1), 40) + 1e-4)
    for t, letter in zip(range(0, 40, 4), "אבג|דאב|גד"):
        logp[t : t + 4] = np.log(1e-4)
        logp[t : t + 2, vocabulary[letter]] = logp[t + 2 : t + 4, 0] = 0.0
    model = CtcModel.__new__(CtcModel)
    model.identity, model.blank, model.space, model._vocabulary, model._special = "", 0, 1, vocabulary, {0}
    model._letters = {i: letter for letter, i in vocabulary.items()}
    model.romanises = False
    model.emissions = lambda clips: [logp for _ in clips]
    score = lambda *words: CtcRecogniser(model)._judge(model.speak([np.zeros(640)], [list(words)])[0], (0.0, 0.0))  # noqa: E731
    assert score("אבג", "דאב", "גד").text_score > -0.01
    assert score("אבג", "10", "גד").text_score > -0.01
    assert score("אבג", "10", "אא").text_score < -1
    assert score("אבג", "גד").text_score < -1
