"""Packed listening against one clip at a time, and features in one transform against the library's one by one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo.tiny import new_aligner, new_recogniser, train_tokenizer
from shibolet.listen import family_recogniser
from shibolet.listen.batches import by_audio
from shibolet.listen.decoders import Worker
from shibolet.listen.family_aligner import FamilyAligner, raw_classes
from shibolet.listen.family_recogniser import FamilyRecogniser
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr import decoding
from shibolet.model.qwen3_asr.features import PackedLogMel, log_mel, log_mels

TEXTS = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול", "שלום", "אל הים"]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Noise of six lengths, one under the least that the extractor pads to and one beyond an attention window."""
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in (0.2, 3.1, 8.77, 1.0, 0.50001, 2.5)]


def loaded(new) -> LoadedModel:
    tokenizer = train_tokenizer(TEXTS * 10)
    model = new(tokenizer, seed=1).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)  # so that what comes out depends on what goes in
    return LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), None, "random")


def test_features_of_many_clips_are_those_of_each(clips: list[np.ndarray]) -> None:
    """A neighbour's samples at the edge, or the loudest frame of the batch, would change a clip's features."""
    extractor = Qwen3ASRFeatureExtractor()
    louder = [clip * 10.0**i for i, clip in enumerate(clips, start=-3)]
    for clip, own in zip(louder, log_mels(louder, PackedLogMel(extractor, "cpu")), strict=True):
        expected = log_mel(clip, extractor)
        assert own.shape == expected.shape
        assert torch.allclose(own, expected, atol=2e-5)


def test_packed_alignments_are_those_of_each_clip(clips: list[np.ndarray]) -> None:
    aligner, words = loaded(new_aligner), [text.split() for text in TEXTS]
    together = FamilyAligner(aligner, max_pack_s=10.0).align(clips, words)
    alone = [FamilyAligner(aligner).align([clip], [said])[0] for clip, said in zip(clips, words, strict=True)]
    assert len({float(a.starts_s[0]) for a in alone}) > 1, "times must differ, or the comparison shows nothing"
    for packed, single in zip(together, alone, strict=True):
        assert (packed.starts_s == single.starts_s).all() and (packed.ends_s == single.ends_s).all()


def test_packed_likelihoods_are_those_of_each_clip(clips: list[np.ndarray]) -> None:
    recogniser = loaded(new_recogniser)
    together = FamilyRecogniser(recogniser, "Hebrew", max_pack_s=10.0).token_logps(clips, TEXTS)
    single = FamilyRecogniser(recogniser, "Hebrew")
    alone = [single.token_logps([clip], [text])[0] for clip, text in zip(clips, TEXTS, strict=True)]
    for packed, own in zip(together, alone, strict=True):
        np.testing.assert_allclose(packed, own, rtol=1e-3, atol=1e-5)
    (one,), (other,) = (single.token_logps([clip], TEXTS[:1]) for clip in clips[:2])
    assert not np.allclose(one, other), "the audio must matter, or the comparison shows nothing"


def test_the_greedy_text_is_no_worse_than_another(clips: list[np.ndarray]) -> None:
    """The score is the text's against the hypothesis's: the hypothesis itself has none to lose."""
    recogniser = FamilyRecogniser(loaded(new_recogniser), "Hebrew")
    heard = recogniser.hear(clips[1:3], [TEXTS[0].split(), TEXTS[1].split()])
    own = recogniser.hear(clips[1:3], [h.hypothesis.split(" ") for h in heard])
    assert all(abs(h.text_score) < 1e-5 for h in own)


@pytest.fixture(scope="module")
def recogniser() -> LoadedModel:
    return loaded(new_recogniser)


WORDS = [text.split() for text in TEXTS]


def brief(recogniser: LoadedModel, **settings) -> FamilyRecogniser:
    """One whose hypotheses, which random weights do not end, are short."""
    transcriber = Transcriber(recogniser, "Hebrew", max_new_tokens_per_s=2.0, **settings)
    return FamilyRecogniser(recogniser, "Hebrew", transcribers=[transcriber])


def test_scores_on_a_heard_prompt_are_those_of_whole_sequences(recogniser, clips, monkeypatch) -> None:
    """One audio under several texts too: protects from the scores of another text, clip or writing."""
    places = [0, 1, 2, 1, 3, 1, 4, 5, 0]
    many, words = [clips[i] for i in places], [WORDS[i % len(WORDS)] for i in range(len(places))]
    by_prompt = brief(recogniser).hear(many, words)
    whole = brief(recogniser)
    write = whole._transcribers[0].write_and_score
    silent = lambda clips, texts_of: [replace(one, logps=None) for one in write(clips, None)]  # noqa: E731
    monkeypatch.setattr(whole._transcribers[0], "write_and_score", silent)
    assert len({round(one.text_logp, 4) for one in by_prompt}) == len(places)
    for one, other in zip(by_prompt, whole.hear(many, words), strict=True):
        assert one.hypothesis == other.hypothesis
        for name in ("text_logp", "text_score", "worst_score"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5, abs=1e-5)


def test_two_that_hear_at_once_hear_what_one_does(recogniser, clips) -> None:
    """They share weights and nothing that a forward sets; and one that fails leaves its place to the next."""
    limits = {"max_new_tokens_per_s": 2.0, "share": 0.5}
    transcribers = [Transcriber(recogniser.again(), "Hebrew", **limits) for _ in range(2)]
    two, alone = FamilyRecogniser(recogniser, "Hebrew", transcribers=transcribers), brief(recogniser)
    assert two.at_once == 2 and alone.at_once == 1
    assert {id(w) for w in transcribers[0]._decoder._model.parameters()} == {
        id(w) for w in recogniser.model.parameters()
    }
    for _ in range(3):
        with pytest.raises(ValueError, match="zip"):
            two.hear(clips, [])
    parts = [slice(first, first + 2) for first in (0, 2, 4)] * 2
    with ThreadPoolExecutor(2) as pool:
        heard = list(pool.map(lambda part: two.hear(clips[part], WORDS[part]), parts))
    for part, found in zip(parts, heard, strict=True):
        for one, other in zip(found, alone.hear(clips[part], WORDS[part]), strict=True):
            assert one.hypothesis == other.hypothesis and one.text_score == other.text_score
            assert np.array_equal(one.text_logp, other.text_logp)


def test_one_audio_is_read_once(recogniser, clips, monkeypatch) -> None:
    """Protects from an encoder pass for each text: copies of a self-test share their audio."""
    seconds = []
    laid = decoding.lay_samples
    monkeypatch.setattr(decoding, "lay_samples", lambda some: seconds.append(sum(map(len, some)) / 16000) or laid(some))
    brief(recogniser).hear([clips[1], clips[2], clips[1]], WORDS[:3])
    assert sum(seconds) == pytest.approx(3.1 + 8.77)


def test_order_and_neighbours_change_nothing_beyond_rounding(recogniser, clips) -> None:
    together = brief(recogniser).hear(clips, WORDS)
    again = brief(recogniser).hear(clips, WORDS)
    assert [(one.text_logp, one.text_score, one.worst_score) for one in again] == [
        (one.text_logp, one.text_score, one.worst_score) for one in together
    ]
    narrow = brief(recogniser, batch_utterances=2)
    turned = narrow.hear(clips[::-1], WORDS[::-1])[::-1]
    for one, other in zip(together, turned, strict=True):
        assert one.hypothesis == other.hypothesis
        assert one.text_score == pytest.approx(other.text_score, rel=1e-5, abs=1e-5)


def test_beams_are_scored_by_whole_sequences(recogniser, clips) -> None:
    beams = brief(recogniser, beam_size=2)
    greedy = brief(recogniser).hear(clips[:2], WORDS[:2])
    for one, other in zip(beams.hear(clips[:2], WORDS[:2]), greedy, strict=True):
        assert one.text_logp is not None
        if one.hypothesis == other.hypothesis:
            assert one.text_logp == pytest.approx(other.text_logp, rel=1e-5, abs=1e-5)


def test_raw_times_stay_within_the_audio() -> None:
    logits = torch.full((3, 10), -20.0)
    logits[0, [0, 1, 9]] = torch.tensor([2.0, 1.0, 9.0])  # the last class lies beyond the audio
    logits[1, [4, 5, 6, 7]] = 3.0
    logits[2, 9] = 3.0
    assert raw_classes(logits, torch.tensor([5, 10, 12])).tolist() == [0, 4, 9]


def test_runs_of_clips_stay_within_the_limit() -> None:
    clips = [np.zeros(int(16000 * s)) for s in (1, 2, 3, 9, 1, 1)]
    assert list(by_audio(clips, 4.0)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(by_audio([], 4.0)) == []


def test_processes_that_plan_change_nothing(recogniser, clips, monkeypatch) -> None:
    """Protects from results that depend on where a text was compared, on what arrived first, or on a lost process."""
    places = [0, 1, 2, 1, 3, 1, 4, 5, 0]
    many, words = [clips[i] for i in places], [WORDS[i % len(WORDS)] for i in range(len(places))]

    def speaking() -> FamilyRecogniser:
        one = brief(recogniser, batch_utterances=2)
        one._transcribers[0]._decoder.text = lambda ids: TEXTS[sum(ids) % len(TEXTS)]
        return one

    def heard(one: FamilyRecogniser) -> list[tuple]:
        found = one.hear(many, words)
        return [(own.hypothesis, own.text_logp, own.text_score, own.worst_score) for own in found]

    in_place = heard(speaking())
    planned_by, plan = [], family_recogniser._plan

    def noted(worker, asked, **settings):
        planned_by.append(worker)
        return plan(worker, asked, **settings)

    monkeypatch.setattr(family_recogniser, "_plan", noted)
    monkeypatch.setattr(family_recogniser, "workers_beside", lambda device: 2)
    beside = speaking()
    beside.warm()
    assert heard(beside) == in_place and len({hypothesis for hypothesis, *_ in in_place}) > 1
    assert planned_by and all(isinstance(worker, Worker) for worker in planned_by)
    for worker in set(planned_by):
        worker._child.process.kill()
    assert heard(beside) == in_place
    processes = [worker._child.process for worker in set(planned_by) if worker._child]
    del beside
    assert processes and all(worker._child is None for worker in planned_by), "they end with the recogniser"
