"""Our greedy decoding writes what transformers' `generate` writes, whatever shares a batch with what."""

import numpy as np
import pytest
import torch

from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr import decoding, rows
from shibolet.model.qwen3_asr.decoding import GreedyDecoder, Request, generate_padded
from shibolet.model.qwen3_asr.features import PackedLogMel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

DURATIONS_S = [2.0, 0.4, 9.3, 3.5, 1.0, 3.49, 0.99, 8.0, 5.2, 17.0, 0.5, 6.1]


@pytest.fixture(scope="module")
def requests(loud) -> list[Request]:
    rng, prompt, made = np.random.default_rng(0), TranscriptionPrompt(loud.tokenizer, "Hebrew"), []
    for i, duration_s in enumerate(DURATIONS_S):
        noise = rng.standard_normal(round(duration_s * 16000))
        samples = (0.1 * noise * np.sin(np.arange(len(noise)) * (0.002 + 0.03 * i))).astype(np.float32)
        num_audio = num_audio_tokens(num_mel_frames(len(samples)))
        made.append(Request(prompt.request(num_audio), samples, 8 + 5 * (i % 7)))
    return made


def stops(loaded: LoadedModel) -> list[int]:
    return [loaded.tokenizer.convert_tokens_to_ids("<|im_end|>"), loaded.tokenizer.pad_token_id]


def ours(loaded: LoadedModel, requests: list[Request], rows: int, is_loop=None) -> list[tuple[list[int], str]]:
    decoder = GreedyDecoder(
        loaded.model,
        PackedLogMel(loaded.extractor, loaded.model.device),
        audio_id=loaded.tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        stop_ids=stops(loaded),
        max_rows=rows,
    )
    positions = max(len(request.prompt) + request.max_new_tokens for request in requests)
    more = {} if is_loop is None else {"is_loop": is_loop}
    found = {one.place: (one.ids, one.ending) for one in decoder.decode(iter(requests), positions, **more)}
    assert len(found) == len(requests)
    return [found[index] for index in range(len(requests))]


def theirs(loaded: LoadedModel, requests: list[Request]) -> list[tuple[list[int], str]]:
    features = PackedLogMel(loaded.extractor, loaded.model.device)
    return generate_padded(
        loaded.model, features, requests, stop_ids=stops(loaded), pad_id=loaded.tokenizer.pad_token_id
    )


@pytest.mark.parametrize("rows", [1, 3, 12, 32])
def test_tokens_are_those_of_generate(loud, requests, rows):
    """Protects from a cache row that keeps its former tenant's keys, wrong positions, and masks off by one."""
    expected = theirs(loud, requests)
    assert {ending for _, ending in expected} == {"end", "limit"}, "both endings must occur, or half is not tested"
    assert len({tuple(ids) for ids, _ in expected}) >= 10, "the texts must differ, or the comparison shows nothing"
    assert ours(loud, requests, rows) == expected


@pytest.mark.parametrize(("rows", "lag"), [(1, 1), (3, 1), (3, 2), (12, 1)])
def test_ends_that_are_known_late_change_no_token(loud, requests, monkeypatch, rows, lag):
    """Protects from an end that is taken for that of a row's next tenant, and from what is written after an end."""
    monkeypatch.setattr(decoding, "CPU_LAG", lag)
    assert ours(loud, requests, rows) == theirs(loud, requests)


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_device_has_work_while_the_host_reads(loud, requests, monkeypatch, lag):
    """Protects from a host that waits for all that it has launched, which leaves a GPU without work while it reads."""
    launched, read, ahead = [], [], []
    steps, wait, look = GreedyDecoder._steps, rows.Look.wait, rows.Rows.look
    monkeypatch.setattr(decoding, "CPU_LAG", lag)
    monkeypatch.setattr(GreedyDecoder, "_steps", lambda *args: launched.append(1) or steps(*args))

    def looked(self, most):
        made = look(self, most)
        read.append((made, len(launched)))
        return made

    def waited(self):
        ahead.append(len(launched) - next(num for made, num in read if made is self))
        wait(self)

    monkeypatch.setattr(rows.Rows, "look", looked)
    monkeypatch.setattr(rows.Look, "wait", waited)
    ours(loud, requests, 12)
    assert len(ahead) == len(read) == len(launched) > 10
    assert ahead == [lag] * (len(ahead) - lag) + list(range(lag))[::-1], "all but the last are read that much later"


@pytest.mark.parametrize("lag", [0, 1])
def test_a_decoder_is_used_again(loud, requests, monkeypatch, lag):
    """Protects from what a call that was given up, or a longer one, leaves in the rows and on its way to the host."""
    monkeypatch.setattr(decoding, "CPU_LAG", lag)
    decoder = GreedyDecoder(
        loud.model,
        PackedLogMel(loud.extractor, "cpu"),
        audio_id=loud.tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        stop_ids=stops(loud),
        max_rows=4,
    )
    collect = lambda some, positions: {one.place: one.ids for one in decoder.decode(some, positions)}  # noqa: E731
    short = collect(requests[:2], 128)
    next(decoder.decode(requests, 400))  # given up after the first result
    everything = collect(requests, 400)
    assert everything == {i: ids for i, (ids, _) in enumerate(theirs(loud, requests))}
    assert short == {i: everything[i] for i in (0, 1)} == collect(requests[:2], 128)
    assert collect([], 128) == {}


def test_prefills_are_bounded(loud, requests, monkeypatch):
    """Protects from one prefill of all the audio that a long list begins with."""
    sizes = []
    lay_samples = decoding.lay_samples

    def counted(clips):
        sizes.append(sum(num_mel_frames(len(clip)) for clip in clips))
        return lay_samples(clips)

    monkeypatch.setattr(decoding, "lay_samples", counted)
    monkeypatch.setattr(rows, "PREFILL_FRAMES", 1000)
    assert ours(loud, requests, 12) == theirs(loud, requests)
    assert len(sizes) > 4 and sum(size > 1000 for size in sizes) == 1  # the clip of 17 s alone


def test_memory_bounds_the_rows(loud, requests, monkeypatch):
    monkeypatch.setattr(rows, "CPU_BYTES", 9 * 512 * 2 * 4 * 2 * 32 * 4)  # a third of it: three rows of 512 positions
    decoder = GreedyDecoder(loud.model, PackedLogMel(loud.extractor, "cpu"), audio_id=0, stop_ids=[1])
    assert decoder._reserve(400).num_rows == 3
    assert decoder._reserve(100_000).num_rows == 1


@pytest.mark.parametrize("lag", [0, 1])
def test_the_caller_may_end_a_row(loud, requests, monkeypatch, lag):
    """The row is free for the next one, and the others go on as if nothing had happened."""
    monkeypatch.setattr(decoding, "CPU_LAG", lag)
    monkeypatch.setattr(decoding, "LOOP_STEPS", decoding.STEPS)
    expected = theirs(loud, requests)
    longest = max(range(len(expected)), key=lambda i: len(expected[i][0]))
    found = ours(loud, requests, 3, is_loop=lambda index, ids: index == longest and len(ids) >= 6)
    ids, ending = found[longest]
    assert ending == "loop" and 6 <= len(ids) < 6 + decoding.STEPS and ids == expected[longest][0][: len(ids)]
    assert [f for i, f in enumerate(found) if i != longest] == [e for i, e in enumerate(expected) if i != longest]


def test_the_lowest_id_wins_a_tie(loud, requests, monkeypatch):
    vocab = loud.model.config.text_config.vocab_size
    monkeypatch.setattr(loud.model.lm_head, "forward", lambda hidden: torch.zeros(*hidden.shape[:-1], vocab))
    some = [Request(request.prompt, request.samples, 3) for request in requests[:2]]
    assert ours(loud, some, 2) == theirs(loud, some) == [([0, 0, 0], "limit")] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [3, 12])
def test_graphs_write_the_same_tokens_on_a_gpu(requests, rows):
    """In fp32, where rounding leaves no near tie: protects from graphs that replay another row's addresses."""
    loaded = load_recogniser("builtin:round1", device="cuda")
    assert ours(loaded, requests, rows) == theirs(loaded, requests)
