"""Texts scored on the prompts that rows hold are as likely as in whole sequences, whatever shares rows with what."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoding, Prompt
from shibolet.model.qwen3_asr import continuations, decoding
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.fused import fuse_layers

DURATIONS_S = [9.3, 8.0, 6.1, 5.2, 3.5, 3.49, 2.0, 1.0, 0.99, 0.4]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(round(seconds * 16000))).astype(np.float32) for seconds in DURATIONS_S]


LIMITS = [8 + 7 * (i % 4) for i in range(len(DURATIONS_S))]


def texts_of(place: int, ids: list[int]) -> list[list[int]]:
    """What was written, nothing at all, one token, and texts of other lengths than that."""
    return [ids, [], [5 + place], [7, 8, 9] * (1 + place), [20 + place, 30]][: 2 + place % 4]


def all_texts_of(some: list[tuple[int, list[int]]]) -> Callable[[], list[list[list[int]]]]:
    return lambda: [texts_of(place, ids) for place, ids in some]


def heard(
    loaded: LoadedModel, clips, rows: int, is_loop=lambda place, ids: False, asked=all_texts_of
) -> dict[int, tuple]:
    decoder = FAMILY.decoder(loaded, Decoding(prompt=Prompt("Hebrew"), clips_at_once=rows))
    found = {}
    for one in decoder.decode(clips, LIMITS[: len(clips)], is_loop, asked):
        assert one.place not in found
        found[one.place] = one
    assert len(found) == len(clips)
    return found


@torch.inference_mode()
def whole(loaded: LoadedModel, clip: np.ndarray, ids: list[int]) -> np.ndarray:
    """Log-probabilities of a text and its end by its whole sequence, alone."""
    targets = FAMILY.targets(loaded.tokenizer, Prompt("Hebrew"))
    pack = FAMILY.lay_out(targets.frame, [ids], [FAMILY.num_frames(len(clip))])
    pack = FAMILY.with_audio(pack, [clip], FAMILY.features(loaded.extractor, "cpu"), torch.device("cpu"))
    logps = torch.log_softmax(FAMILY.logits(loaded.model, pack), -1)
    return logps.gather(1, pack.labels[:, None])[targets.frame.num_prefix :, 0].numpy()


@pytest.mark.parametrize(("rows", "lag"), [(1, 0), (3, 0), (10, 0), (3, 1), (3, 2)])
def test_they_are_those_of_whole_sequences(loud, clips, monkeypatch, rows, lag):
    """Protects from keys of a row's former tenant, labels off by one, and masks that let too much or little through."""
    monkeypatch.setattr(decoding, "CPU_LAG", lag)
    found = heard(loud, clips, rows)
    seen = []
    for place, one in found.items():
        asked = texts_of(place, one.ids)
        assert len(one.logps) == len(asked)
        for ids, logps in zip(asked, one.logps, strict=True):
            np.testing.assert_allclose(logps, whole(loud, clips[place], ids), rtol=1e-5, atol=1e-5)
            seen.append(float(logps.mean()))
    assert len(seen) > 30 and len({round(logp, 3) for logp in seen}) > 25, "texts must differ, or nothing is compared"


def test_fused_layers_write_and_score_the_same(loud, clips):
    """Prompts, steps and scores of the layers that a GPU runs, which give rows their keys and values themselves."""
    fused = replace(loud, model=copy.deepcopy(loud.model))
    fuse_layers(fused.model)
    expected, num_texts = heard(loud, clips, 3), 0
    for place, one in heard(fused, clips, 3).items():
        assert one.ids == expected[place].ids and len(one.ids) > 1
        for own, other in zip(one.logps, expected[place].logps, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)
            num_texts += 1
    assert num_texts > 30


def test_scoring_changes_nothing_that_is_written(loud, clips):
    """Protects from texts whose keys stay in a row, and from rows that are another's before they are scored."""
    silent = heard(loud, clips, 3, asked=None)
    assert all(one.logps is None for one in silent.values())
    scored = heard(loud, clips, 3)
    assert {place: (one.ids, one.ending) for place, one in scored.items()} == {
        place: (one.ids, one.ending) for place, one in silent.items()
    }


def test_rows_that_are_ended_are_scored_too(loud, clips, monkeypatch):
    monkeypatch.setattr(decoding, "LOOP_STEPS", 4)
    found = heard(loud, clips, 3, is_loop=lambda place, ids: len(ids) >= 5)
    loops = [one for one in found.values() if one.ending == "loop"]
    assert len(loops) > 3
    for one in loops:
        for ids, logps in zip(texts_of(one.place, one.ids), one.logps, strict=True):
            np.testing.assert_allclose(logps, whole(loud, clips[one.place], ids), rtol=1e-5, atol=1e-5)


def test_the_same_list_gives_the_same_bytes(loud, clips):
    """Also from a decoder that has heard something else before, where rows are of other lengths."""
    decoder = FAMILY.decoder(loud, Decoding(prompt=Prompt("Hebrew"), clips_at_once=3))
    run = lambda some, limits: {  # noqa: E731
        one.place: [logps.tobytes() for logps in one.logps]
        for one in decoder.decode(some, limits, lambda place, ids: False, all_texts_of)
    }
    first = run(clips[5:], LIMITS[5:])
    next(decoder.decode(clips, [300] * len(clips), lambda place, ids: False, all_texts_of))  # given up
    assert run(clips[5:], LIMITS[5:]) == first


def test_many_texts_are_scored_in_parts(loud, clips, monkeypatch):
    expected = heard(loud, clips, 10)
    monkeypatch.setattr(continuations, "PASS_KEYS", 100)
    monkeypatch.setattr(continuations, "LOGIT_ROWS", 3)
    for place, one in heard(loud, clips, 10).items():
        for own, other in zip(one.logps, expected[place].logps, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)
