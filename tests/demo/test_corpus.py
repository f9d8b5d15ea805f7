"""Protects the demo's honesty: splits that share nothing, damage that the truth describes, names that do not tell."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shibolet.demo import corpus
from shibolet.demo.corpus import CorpusConfig, build_corpus, plan, plan_damage, round1_requests
from shibolet.demo.damage import KINDS, damage_audio, different_frac
from shibolet.demo.lexicon import load_lexicon
from shibolet.demo.synth import Speech, SpokenWord
from shibolet.demo.voices import ROUND1_VOICES
from shibolet.errors import DataError
from shibolet.records.files import read_json, read_jsonl
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import SAMPLE_RATE_HZ, load

SMALL = CorpusConfig(num_train=48, num_long=2, num_test=6, recording_utterances=4, damaged_frac=1 / 3)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("corpus")
    build_corpus(out_dir, seed=5, config=SMALL)
    return out_dir


def texts(planned, split: str) -> set[str]:
    return {" ".join(r.words) for utterance in planned if utterance.split.startswith(split) for r in utterance.requests}


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_sentence_and_no_voice_whatever_the_seeds(seed):
    planned = plan(seed, CorpusConfig())
    round1 = round1_requests(seed, 2000) + round1_requests(seed + 1, 2000)
    said = [texts(planned, "train"), texts(planned, "test"), {" ".join(request.words) for request in round1}]
    assert [len(part) > 300 for part in said] == [True] * 3
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    voices = {split: {r.voice.variant for u in planned if u.split.startswith(split) for r in u.requests}
              for split in ("train", "test")}  # fmt: skip
    heard = {request.voice.variant for request in round1}
    assert heard == set(ROUND1_VOICES.variants)
    assert len(voices["train"]) == len(voices["test"]) == 12
    assert not voices["train"] & voices["test"] and not heard & (voices["train"] | voices["test"])


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_the_test_words_are_in_no_training_text(seed):
    planned = plan(seed, CorpusConfig())
    words = {split: {word for text in texts(planned, split) for word in text.split()} for split in ("train", "test")}
    assert len(words["test"] - words["train"]) >= 0.2 * len(words["test"])
    heard = {word for request in round1_requests(seed, 4000) for word in request.words}
    assert len(words["test"] - heard) <= 0.01 * len(words["test"])


def test_sizes_domains_and_recordings():
    config, planned = CorpusConfig(), plan(3, CorpusConfig())
    assert Counter(u.split for u in planned) == {"train": 812, "test_clean": 320, "test_whatsapp": 320}
    train = [u for u in planned if u.split == "train"]
    by_domain = Counter(u.domain for u in train)
    assert abs(by_domain["clean"] - by_domain["whatsapp"]) <= 2 * config.recording_utterances
    by_recording = {}
    for u in train:
        by_recording.setdefault(u.recording, []).append(u)
    assert max(map(len, by_recording.values())) == config.recording_utterances
    for utterances in by_recording.values():
        assert len({(u.speaker, u.domain, u.condition, u.requests[0].voice.variant) for u in utterances}) == 1
    assert texts(planned, "test_clean") == texts(planned, "test_whatsapp")


def test_damage_is_spread_evenly_over_kinds_and_domains():
    config = CorpusConfig()
    planned = plan(4, config)
    damage, by_id = plan_damage(4, config, planned), {u.id: u for u in planned}
    assert 0.18 < len(damage) / config.num_train < 0.22
    shares = Counter((d.kind, by_id[id].domain) for id, d in damage.items())
    assert len(shares) == 2 * len(KINDS) and len(set(shares.values())) == 1
    for id, d in damage.items():
        true, given = by_id[id].text, d.text
        if d.kind == "swapped":
            assert different_frac(true, given) >= 0.6
        elif d.kind == "text_halved":
            assert given in true and 2 <= len(given.split()) <= len(true.split()) / 2 + 0.5
        else:
            assert given == true


def test_names_and_order_tell_nothing_about_damage():
    """With the damage drawn again the manifests would differ in texts only; early and late rows are damaged alike."""
    config = CorpusConfig()
    planned = plan(6, config)
    damage = plan_damage(6, config, planned)
    train = [u for u in planned if u.split == "train"]
    assert [u.id for u in train] == sorted(u.id for u in train)
    assert all(re.fullmatch(r"audio/train-\d{4}\.(flac|ogg)", u.audio) for u in train)
    halves = [sum(u.id in damage for u in part) for part in (train[: len(train) // 2], train[len(train) // 2 :])]
    assert min(halves) > 0.35 * sum(halves)


def test_manifests_and_truth_agree_with_the_audio(small):
    truth = {row["id"]: row for row in read_jsonl(small / "truth.jsonl")}
    manifest = read_jsonl(small / "train" / "manifest.jsonl")
    assert len(truth) == 48 + 2 + 2 * 6 and len(manifest) == 50
    assert Counter(truth[row["id"]]["kind"] for row in manifest) == {"clean": 34} | dict.fromkeys(KINDS, 4)
    assert not any(kind in path.read_text() for path in small.glob("*/manifest.jsonl") for kind in KINDS)
    for row in manifest:
        true = truth[row["id"]]
        samples = load(AudioRef(path=str(small / "train" / row["audio"])))
        assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(true["duration_s"], abs=0.03)
        assert (true["kind"] in ("swapped", "text_halved", "audio_cut", "silent")) == (row["text"] != true["reference"])
        assert " ".join(word for word, _, _ in true["words"]) == true["reference"]
        assert all(0 <= start < end <= true["duration_s"] + 1e-3 for _, start, end in true["words"])
        if row["domain"] == "clean":
            assert (np.sqrt(np.mean(samples**2)) < 0.003) == (true["kind"] == "silent")
    assert sorted(true["duration_s"] > 20 for true in truth.values())[-2:] == [True, True]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_corpus(small, tmp_path):
    build_corpus(tmp_path / "again", seed=5, config=SMALL, num_workers=1)
    files = {path.relative_to(small): path.read_bytes() for path in small.rglob("*") if path.is_file()}
    assert len(files) == 50 + 2 * 6 + 3 + 2
    for name, content in files.items():
        assert (tmp_path / "again" / name).read_bytes() == content, name
    other = plan(6, SMALL)
    assert not texts(other, "train") & texts(plan(5, SMALL), "train")


def test_an_interrupted_build_continues_to_the_same_bytes(small, tmp_path, monkeypatch):
    real, calls = corpus.record_utterance, []

    def record_until_the_power_goes(*args):
        calls.append(args)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(corpus, "record_utterance", record_until_the_power_goes)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path, seed=5, config=SMALL)
    assert not (tmp_path / "train" / "manifest.jsonl").exists()
    monkeypatch.setattr(corpus, "record_utterance", real)
    steps = []
    build_corpus(tmp_path, seed=5, config=SMALL, on_progress=lambda done, total: steps.append((done, total)))
    assert sorted(done for done, _ in steps) == list(range(1, steps[0][1] + 1))
    for path in small.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(small)).read_bytes() == path.read_bytes(), path


def test_a_folder_of_another_corpus_is_not_overwritten(small):
    before = read_json(small / "corpus.json")
    with pytest.raises(DataError, match="choose another folder"):
        build_corpus(small, seed=6, config=SMALL)
    assert read_json(small / "corpus.json") == before


def test_more_damage_than_utterances_is_an_error():
    config = CorpusConfig(num_train=40, damaged_frac=1.0)
    with pytest.raises(DataError, match="lower damaged_frac"):
        plan_damage(0, config, plan(0, config))


@pytest.mark.parametrize("keep", ["head", "tail"])
def test_cut_audio_keeps_whole_words_of_about_half(keep):
    words = tuple(SpokenWord(word=str(i), start_s=0.1 + 0.5 * i, end_s=0.6 + 0.5 * i) for i in range(5))
    speech = Speech(samples=np.arange(round(2.8 * SAMPLE_RATE_HZ), dtype=np.float32), words=words)
    cut = damage_audio(speech, corpus.Damage(kind="audio_cut", text="", keep=keep))
    assert [w.word for w in cut.words] == (["0", "1", "2"] if keep == "head" else ["3", "4"])
    first = cut.words[0]
    assert cut.samples[round(first.start_s * SAMPLE_RATE_HZ)] == round(words[int(first.word)].start_s * SAMPLE_RATE_HZ)


def test_the_held_out_words_are_open_classes_only():
    train = {entry.spelling for entry in corpus.train_lexicon(0, 0.3).entries}
    held_out = [entry for entry in load_lexicon().entries if entry.spelling not in train]
    assert len(held_out) == pytest.approx(0.3 * len(load_lexicon().entries), abs=1)
    assert {entry.category for entry in held_out} <= set(corpus.OPEN_CATEGORIES)
