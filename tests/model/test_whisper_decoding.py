"""A Whisper's decoder writes what transformers' `generate` writes."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from real_models import real_model, real_speech
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput
from whisper_models import loaded_whisper

from shibolet.errors import ModelError
from shibolet.listen.loops import is_loop
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoded, Decoding, Prompt
from shibolet.model.whisper import decoding, rows
from shibolet.model.whisper.decoding import ClipDecoder
from shibolet.model.whisper.load import load_recogniser
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.scoring.rows import score_row
from shibolet.speech import audio
from shibolet.speech.text import get_language

DURATIONS_S = [9.3, 6.1, 3.5, 2.0, 1.0, 0.3]
LIMITS = [26, 19, 33, 12, 28, 22]
HEBREW = Prompt("Hebrew")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng, made = np.random.default_rng(0), []
    for i, seconds in enumerate(DURATIONS_S):
        at = np.arange(round(seconds * 16000))
        made.append((0.1 * rng.standard_normal(len(at)) * np.sin(at * (0.002 + 0.03 * i))).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def loud(clips) -> LoadedModel:
    """A tiny Whisper with large weights, whose texts differ and hang on the audio; some of them end by themselves."""
    loaded = loaded_whisper(seed=4, max_target_positions=64)
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if weight.ndim > 1 and ".layers." in name:
                weight.mul_(4)
    end, settings = loaded.tokenizer.eos_token_id, loaded.model.generation_config
    times = list(range(loaded.tokenizer.convert_tokens_to_ids("<|0.00|>"), len(loaded.tokenizer)))
    settings.suppress_tokens = times  # at which Whisper's own `generate` cuts texts
    first = [ids[0] for ids, _ in theirs(loaded, clips, [1] * len(clips))]
    settings.suppress_tokens, settings.begin_suppress_tokens = [first[0], *times], [first[2], end]
    with torch.no_grad():
        embeddings = loaded.model.get_input_embeddings().weight
        embeddings[end] = 1.1 * embeddings[208]  # which stands late in some texts and early in others
    return loaded


def decoder_of(loaded: LoadedModel, clips_at_once: int, prompt: Prompt = HEBREW, beams: int = 1, penalty: float = 1.0):
    return ClipDecoder(
        loaded, Decoding(prompt=prompt, clips_at_once=clips_at_once, beam_size=beams, length_penalty=penalty)
    )


def never(place: int, ids: list[int]) -> bool:
    return False


def ours(loaded: LoadedModel, clips, limits, clips_at_once: int, loops=never, **settings) -> list[Decoded]:
    found = list(decoder_of(loaded, clips_at_once, **settings).decode(clips, limits, loops))
    assert len(found) == len(clips)
    return sorted(found, key=lambda one: one.place)


def states_of(loaded: LoadedModel, clip: np.ndarray) -> torch.Tensor:
    features = loaded.extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
    return loaded.model.model.encoder(features.to(loaded.model.device)).last_hidden_state


def prompt_of(loaded: LoadedModel, prompt: Prompt = HEBREW) -> list[int]:
    return decoder_of(loaded, 1, prompt)._frame.prompt


@torch.inference_mode()
def theirs(
    loaded: LoadedModel, clips, limits: Sequence[int], prompt: Prompt = HEBREW, beams: int = 1, penalty: float = 1.0
) -> list[tuple[list[int], str]]:
    """By `generate`, each clip alone."""
    found, start = [], prompt_of(loaded, prompt)
    for clip, limit in zip(clips, limits, strict=False):
        settings = copy.copy(loaded.model.generation_config)
        settings.update(do_sample=False, num_beams=beams, length_penalty=penalty, max_length=len(start) + limit)
        states = states_of(loaded, clip)
        (ids,) = GenerationMixin.generate(
            loaded.model,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            decoder_input_ids=torch.tensor([start], device=states.device),
            generation_config=settings,
        )[:, len(start) :].tolist()
        found.append((ids, "end" if ids[-1] == loaded.tokenizer.eos_token_id else "limit"))
    return found


@pytest.fixture(scope="module")
def expected(loud, clips) -> list[tuple[list[int], str]]:
    found = theirs(loud, clips, LIMITS)
    assert {ending for _, ending in found} == {"end", "limit"}, "both endings must occur, or half is not tested"
    assert len({tuple(ids) for ids, _ in found}) == len(clips), "the texts must differ, or nothing is compared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loud.model.generation_config, "suppress_tokens", None)
        patch.setattr(loud.model.generation_config, "begin_suppress_tokens", None)
        assert theirs(loud, clips[:2], LIMITS) != found[:2], "barred tokens must matter, or they are not tested"
    return found


def same(found: Sequence[Decoded]) -> list[tuple[list[int], str]]:
    assert all(one.logps is None for one in found)
    return [(one.ids, one.ending) for one in found]


@pytest.mark.parametrize("clips_at_once", [1, 3, 4, 6, 32])
def test_tokens_are_those_of_generate(loud, clips, expected, clips_at_once):
    """Protects from keys of a former clip, wrong positions, and tokens that are barred nowhere or always."""
    assert same(ours(loud, clips, LIMITS, clips_at_once)) == expected


@pytest.mark.parametrize(("steps", "lag"), [(4, 0), (4, 1), (3, 2)])
def test_ends_that_are_known_late_change_no_token(loud, clips, expected, monkeypatch, steps, lag):
    """Protects from what is written behind an end, as on a GPU, where the host looks seldom and later."""
    monkeypatch.setitem(decoding.STEPS, "cpu", steps)
    monkeypatch.setitem(decoding.LAG, "cpu", lag)
    assert same(ours(loud, clips, LIMITS, 4)) == expected


def test_windows_that_are_encoded_together_change_no_token(loud, clips, expected, monkeypatch):
    monkeypatch.setitem(decoding.ENCODED_AT_ONCE, "cpu", 3)
    assert same(ours(loud, clips, LIMITS, 4)) == expected


def test_what_a_frozen_encoder_made_of_an_array_is_kept_for_the_next_call(loud, clips, expected, monkeypatch):
    """Another array, even an equal one, is heard; so is one that came twice in a list, or had no room."""
    heard, encoder_states = [], decoding.encoder_states
    monkeypatch.setattr(decoding, "encoder_states", lambda *given: heard.append(1) or encoder_states(*given))
    window = encoder_states(
        loud.model, decoding.LogMel(loud.extractor, "cpu")(decoding.lay_samples(clips[:1], num_bins=80))
    )
    monkeypatch.setitem(decoding.KEPT_BYTES, "cpu", 5 * window.nbytes)
    decoder = ClipDecoder(loud, Decoding(prompt=HEBREW, clips_at_once=4, keep_encoded=True))

    def written(*given: np.ndarray) -> int:
        heard.clear()
        places = [next(i for i, clip in enumerate(clips) if np.array_equal(clip, one)) for one in given]
        found = sorted(decoder.decode(given, [LIMITS[i] for i in places], never), key=lambda one: one.place)
        assert same(found) == [expected[i] for i in places]
        return len(heard)

    assert written(clips[0], clips[1], clips[1]) == 3 and written(clips[0], clips[1], clips[1]) == 0
    assert written(clips[0], clips[1].copy(), clips[2]) == 2
    assert written(*clips) == 3 and written(*clips) == 2, "five windows have room, one of them the copy's"


def test_whispers_own_generate_writes_the_same(loud, clips):
    """Protects from a prompt of ours that no user of the published model has."""
    for clip, one in zip(clips[:3], ours(loud, clips[:3], [20] * 3, 3), strict=True):
        features = loud.extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
        written = loud.model.generate(features, language="he", task="transcribe", max_new_tokens=20)[0].tolist()
        start = prompt_of(loud)
        written = written[len(start) :] if written[: len(start)] == start else written
        assert written[: len(one.ids)] == one.ids or written == one.ids[: len(written)]
        assert len(written) >= len(one.ids) - 1  # it keeps the end to itself


def test_no_text_is_longer_than_the_model_has_positions(loud, clips):
    """Protects from a position beyond the last one, whatever a caller allows."""
    room = 64 - len(prompt_of(loud))
    found = ours(loud, clips[3:], [1000] * 3, 2)
    assert max(len(one.ids) for one in found) == room
    assert same(found) == theirs(loud, clips[3:], [room] * 3)
    assert same(ours(loud, clips[:2], [1] * 2, 2)) == theirs(loud, clips[:2], [1] * 2)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_caller_may_end_a_row(loud, clips, expected, monkeypatch, lag):
    """The others go on as if nothing had happened, and what was written up to then is told."""
    monkeypatch.setitem(decoding.LAG, "cpu", lag)
    monkeypatch.setattr(decoding, "LOOP_STEPS", 4)
    longest, asked = max(range(len(expected)), key=lambda i: len(expected[i][0])), []

    def loops(place: int, ids: list[int]) -> bool:
        asked.append((place, len(ids)))
        return place == longest and len(ids) >= 6

    found = ours(loud, clips, LIMITS, 6, loops)
    ids, ending = found[longest].ids, found[longest].ending
    assert ending == "loop" and len(ids) == 9 and ids == expected[longest][0][:9]
    others = [one for one in found if one.place != longest]
    assert same(others) == [one for place, one in enumerate(expected) if place != longest]
    assert {num for _, num in asked} == {5, 9, 13, 17, 21, 25, 29} & {num for _, num in asked} and len(asked) > 10


def test_a_row_that_has_ended_costs_no_attention(loud, clips, monkeypatch):
    """Protects from rows that go on behind their end, which reads all of their windows for nothing."""
    counted, attend_window = [], rows._attend_window

    def attend(query, keys, values, done):
        counted.append(int((~done).sum()))
        return attend_window(query, keys, values, done)

    monkeypatch.setattr(rows, "_attend_window", attend)
    monkeypatch.setattr(decoding, "LOOP_STEPS", 4)
    found = ours(loud, clips, LIMITS, 6, lambda place, ids: place == 4)
    assert "loop" in {one.ending for one in found} and len({len(one.ids) for one in found}) > 3
    layers = loud.model.config.decoder_layers
    assert sum(counted) == layers * sum(len(one.ids) - 1 for one in found)  # the prompt writes the first


def test_the_lowest_id_wins_a_tie(loud, clips, monkeypatch):
    monkeypatch.setattr(
        loud.model.proj_out, "forward", lambda hidden: hidden.new_zeros(*hidden.shape[:-1], len(loud.tokenizer))
    )
    barred = set(loud.model.generation_config.suppress_tokens)
    lowest = min(set(range(10)) - barred)
    assert same(ours(loud, clips[:2], [3, 3], 2)) == theirs(loud, clips[:2], [3, 3])
    assert ours(loud, clips[:1], [3], 1)[0].ids[1:] == [lowest] * 2


def test_a_decoder_is_used_again(loud, clips, expected):
    """Protects from what a call that was given up leaves in the rows."""
    decoder = decoder_of(loud, 4)
    next(decoder.decode(clips, LIMITS, never))
    for some in (range(2), range(6), range(3, 5)):
        found = decoder.decode([clips[i] for i in some], [LIMITS[i] for i in some], never)
        assert same(sorted(found, key=lambda one: one.place)) == [expected[i] for i in some]
    assert list(decoder.decode([], [], never)) == []


@pytest.mark.gpu
@pytest.mark.parametrize("clips_at_once", [4, 32])
def test_graphs_write_the_same_on_a_gpu(loud, clips, clips_at_once):
    """In fp32, where rounding leaves no near tie; twice, and with rows that no clip is in."""
    loaded = replace(loud, model=copy.deepcopy(loud.model).to("cuda"))
    expected, decoder = theirs(loaded, clips, LIMITS), decoder_of(loaded, clips_at_once)
    for _ in range(2):
        found = sorted(decoder.decode(clips, LIMITS, never), key=lambda one: one.place)
        assert same(found) == expected


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_are_those_of_generate(loud, clips, penalty):
    whole = theirs(loud, clips[:3], [max(LIMITS[:3])] * 3, beams=3, penalty=penalty)
    cut = [ids[:limit] for (ids, _), limit in zip(whole, LIMITS)]
    expected = [(ids, "end" if ids[-1] == loud.tokenizer.eos_token_id else "limit") for ids in cut]
    assert same(ours(loud, clips[:3], LIMITS[:3], 2, beams=3, penalty=penalty)) == expected
    assert cut != [ids for ids, _ in theirs(loud, clips[:3], LIMITS[:3])], "beams must find other texts than one row"


def test_words_are_what_is_neither_markup_nor_time(loud):
    ids = loud.tokenizer(" שלום עולם", add_special_tokens=False)["input_ids"]
    times = loud.tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|1.50|>", "<|notimestamps|>"])
    decoder = decoder_of(loud, 1)
    assert decoder.text([*times, *ids, loud.tokenizer.eos_token_id]) == "שלום עולם"
    broken = loud.tokenizer("ש", add_special_tokens=False)["input_ids"]
    assert decoder.text([]) == ""
    assert len(broken) < 2 or decoder.text([*ids, broken[0]]) == "שלום עולם"


def test_what_cannot_be_decoded_is_refused(loud, clips, monkeypatch):
    with pytest.raises(ModelError, match=r"a clip of 30\.01 s is longer than the 30 s"):
        list(decoder_of(loud, 2).decode([np.zeros(480_160, np.float32)], [5], never))
    monkeypatch.setattr(loud.model.generation_config, "repetition_penalty", 1.3)
    with pytest.raises(ModelError, match=r"generation_config\.json sets repetition_penalty to 1\.3"):
        list(decoder_of(loud, 2).decode(clips[:1], [5], never))


def test_memory_bounds_the_rows(loud, monkeypatch):
    row_bytes = 2 * 2 * (1500 + 64) * 32 * 4
    for rows_fit, expected in ((0.5, 1), (3.9, 3), (40, 32)):
        monkeypatch.setattr(rows, "CPU_BYTES", int(row_bytes * rows_fit / rows.CACHE_FRAC) + 1)
        assert rows.num_rows_of(loud.model, 64) == expected
    assert rows.num_rows_of(loud.model, 5) == 5 and rows.num_rows_of(loud.model, 64, share=0.5) == 16


TEST_SPEAKERS = "fbbh fjam fjdn fsaf2 mblw mcrt mdcs2 mjbh mnfe mrjc2 mrmg msjr mskh mtcv".split()
ENGLISH = Prompt("English")


def real_clips() -> list[tuple[np.ndarray, str]]:
    """Clips of AN4's test speakers with their texts, the longest first."""
    manifest = real_speech()
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    own = [(str(manifest.parent / row["audio"]), row["text"]) for row in rows if row["speaker"] in TEST_SPEAKERS]
    return sorted([(audio.load(AudioRef(path=path)), text) for path, text in own], key=lambda one: -len(one[0]))


def in_words(loaded: LoadedModel, clips: Sequence[np.ndarray]) -> list[Decoded]:
    """What is written of clips as a transcription does it: in the limits of their lengths, loops ended."""
    decoder, seconds = decoder_of(loaded, 8, ENGLISH), [len(clip) / 16000 for clip in clips]
    found = decoder.decode(
        clips, [math.ceil(25 * s) for s in seconds], lambda place, ids: is_loop(decoder.text(ids), seconds[place])
    )
    return sorted(found, key=lambda one: one.place)


@pytest.mark.slow("model", seconds=40)
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_real_models_write_what_generate_writes(name):
    loaded = load_recogniser(str(real_model(name)))
    clips = [clip for clip, _ in real_clips()[::3][:20]]
    found = ours(loaded, clips, [120] * len(clips), 8, prompt=ENGLISH)
    assert same(found) == theirs(loaded, clips, [120] * len(clips), ENGLISH)
    assert len(found) == 20 and sum(one.ending == "end" for one in found) > 15


@pytest.mark.slow("model", seconds=40)
def test_errors_of_a_real_model_are_those_that_are_known():
    """Protects from windows, prompts, barred tokens and spaces that differ from what the model was trained on."""
    loaded, language, spoken = (
        load_recogniser(str(real_model("whisper-tiny.en"))),
        get_language("English"),
        real_clips(),
    )
    found = in_words(loaded, [clip for clip, _ in spoken])
    texts = [decoder_of(loaded, 1, ENGLISH).text(one.ids) for one in found]
    rows = [
        score_row(
            Utterance(id=str(place), audio=AudioRef(path=""), duration_s=1.0, text=said, source="an4"), text, set="an4",
            normaliser=language.to_scoring,
        )
        for place, ((_, said), text) in enumerate(zip(spoken, texts, strict=True))
    ]  # fmt: skip
    rates = [sum((row.words for row in some), EditCounts()) for some in (rows, *in_nearest_reading([rows], language))]
    assert len(rows) == 65 and all(one.word_errors().words == 323 for one in rates)
    assert 100 * rates[0].word_errors().rate == pytest.approx(59, abs=2)
    assert 100 * rates[1].word_errors().rate == pytest.approx(5.3, abs=1)


@pytest.mark.slow("model", seconds=20)
def test_a_real_model_comes_to_an_end_where_nothing_is_said():
    """Silence, noise, a hum and a clip of nothing at all: what it makes up is short, or ended as a loop."""
    rng, at = np.random.default_rng(0), np.arange(20 * 16000)
    quiet = [np.zeros(25 * 16000), 0.1 * rng.standard_normal(22 * 16000), 0.2 * np.sin(0.05 * at), np.zeros(160)]
    found = in_words(load_recogniser(str(real_model("whisper-tiny.en"))), [clip.astype(np.float32) for clip in quiet])
    assert all(one.ending in ("end", "loop") or len(one.ids) <= 1 for one in found)
