"""Texts that are drawn for a clip: as likely as they are told to be, from one encoding, whoever else is decoded."""

import numpy as np
import pytest
import torch
from whisper_models import loaded_whisper

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoding, Draw, Prompt, Sampled
from shibolet.model.qwen3_asr import decoding as qwen_decoding
from shibolet.model.qwen3_asr import rows as qwen_rows
from shibolet.model.whisper import decoding as whisper_decoding

HEBREW = Prompt("Hebrew")
LIMITS, SEEDS = [14, 9, 17, 5, 11], [3, 2**63 + 1, 0, 77, 5]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng, made = np.random.default_rng(0), []
    for i, seconds in enumerate([4.1, 3.0, 2.2, 1.0, 0.4]):
        noise = rng.standard_normal(round(seconds * 16000))
        made.append((0.1 * noise * np.sin(np.arange(len(noise)) * (0.002 + 0.03 * i))).astype(np.float32))
    return made


@pytest.fixture(scope="module", params=["qwen3_asr", "whisper"])
def loaded(request) -> LoadedModel:
    """A tiny model of each family whose texts hang on the audio; the Whisper bars tokens."""
    if request.param == "qwen3_asr":
        return request.getfixturevalue("loud")
    made = loaded_whisper(seed=4, max_target_positions=64)
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if weight.ndim > 1 and ".layers." in name:
                weight.mul_(4)
    end, settings = made.tokenizer.eos_token_id, made.model.generation_config
    settings.suppress_tokens, settings.begin_suppress_tokens = [*range(200, 230)], [*range(100), end]
    with torch.no_grad():
        embeddings = made.model.get_input_embeddings().weight
        embeddings[end] = 12 * embeddings[150]  # likely at some places, and unlikely at others
    return made


def drawn(
    loaded: LoadedModel, clips, rows: int = 12, num: int = 3, temperature: float = 1.0, loops=lambda place, ids: False,
    which=None, bias: float = 0.0,
) -> list[Sampled]:  # fmt: skip
    which = range(len(clips)) if which is None else which
    decoder = loaded.family.decoder(loaded, Decoding(prompt=HEBREW, clips_at_once=rows, repeat_bias=bias))
    given = [[each[i] for i in which] for each in (clips, LIMITS, SEEDS)]
    found = list(decoder.sample(*given[:2], loops, num=num, temperature=temperature, seeds=given[2]))
    assert sorted(one.place for one in found) == list(range(len(which)))
    assert all(len(one.texts) == num for one in found)
    return sorted(found, key=lambda one: one.place)


def ids_of(found: list[Sampled]) -> list[list[list[int]]]:
    return [[draw.ids for draw in (one.greedy, *one.texts)] for one in found]


@torch.inference_mode()
def logps_of(loaded: LoadedModel, clip: np.ndarray, ids: list[int]) -> torch.Tensor:
    """Log-probabilities `[ids, V]` where each id is written, by the whole sequence, alone; a barred token has none."""
    family = loaded.family
    frame = family.targets(loaded.tokenizer, HEBREW).frame
    pack = family.lay_out(frame, [ids], [family.num_frames(len(clip))])
    pack = family.with_audio(pack, [clip], family.features(loaded.extractor, "cpu"), torch.device("cpu"))
    logits = family.logits(loaded.model, pack)[frame.num_prefix : frame.num_prefix + len(ids)].float()
    settings = loaded.model.generation_config
    logits[:, list(getattr(settings, "suppress_tokens", None) or [])] = -torch.inf
    logits[0, list(getattr(settings, "begin_suppress_tokens", None) or [])] = -torch.inf
    return logits.log_softmax(-1)


def teacher_forced(loaded: LoadedModel, clip: np.ndarray, draw: Draw) -> float:
    return logps_of(loaded, clip, draw.ids).gather(1, torch.tensor(draw.ids)[:, None]).sum().item()


@pytest.mark.parametrize("rows", [4, 9, 32])
def test_texts_are_as_likely_as_their_whole_sequences(loaded, clips, rows):
    """Protects from keys of another sample, from a prompt that only the first row holds, and from sums that go on."""
    found = drawn(loaded, clips, rows)
    assert {draw.ending for one in found for draw in one.texts} == {"end", "limit"}
    for clip, one in zip(clips, found, strict=True):
        assert len({tuple(draw.ids) for draw in one.texts}) == 3, "samples must differ, or the comparison shows little"
        for draw in (one.greedy, *one.texts):
            assert draw.logp == pytest.approx(teacher_forced(loaded, clip, draw), rel=1e-4, abs=1e-3)


def test_greedy_is_that_of_decode_and_so_is_a_temperature_of_zero(loaded, clips):
    """Also with the bias, and by a decoder that goes from one to the other and back."""
    for bias in (0.0, 4.0):
        decoder = loaded.family.decoder(loaded, Decoding(prompt=HEBREW, clips_at_once=6, repeat_bias=bias))
        never = lambda place, ids: False  # noqa: E731
        for _ in range(2):
            greedy = {one.place: (one.ids, one.ending) for one in decoder.decode(clips, LIMITS, never)}
            for one in decoder.sample(clips, LIMITS, never, num=1, temperature=0.0, seeds=SEEDS):
                for draw in (one.greedy, *one.texts):
                    assert (draw.ids, draw.ending) == greedy[one.place]


@pytest.mark.parametrize("lag", [0, 1])
def test_what_is_drawn_hangs_on_the_clip_and_its_seed_alone(loaded, clips, monkeypatch, lag):
    """Protects from a draw that another batch, another order of ends, or another GPU would change."""
    monkeypatch.setattr(qwen_decoding, "CPU_LAG", lag)
    monkeypatch.setitem(whisper_decoding.LAG, "cpu", lag)
    expected = ids_of(drawn(loaded, clips, 4))
    assert ids_of(drawn(loaded, clips, 32)) == expected
    for which in ([2], [0, 3, 4]):
        assert ids_of(drawn(loaded, clips, 9, which=which)) == [expected[i] for i in which]
    fewer = ids_of(drawn(loaded, clips, 9, num=2))
    assert fewer == [own[:3] for own in expected], "the first samples are the same, however many follow"
    assert ids_of(drawn(loaded, clips, temperature=0.5)) != expected


def test_a_clip_is_encoded_and_its_prompt_is_read_once(loaded, clips, monkeypatch):
    """Protects from N samples that cost N encodings."""
    heard = []
    monkeypatch.setattr(whisper_decoding, "encoder_states", _counted(whisper_decoding.encoder_states, heard))
    monkeypatch.setattr(qwen_decoding, "decode_pack", _counted(qwen_decoding.decode_pack, heard))
    drawn(loaded, clips[:1], 32, num=7)
    assert heard == [1]


def _counted(work, calls: list[int]):
    def counted(*given, **named):
        calls.append(1)
        return work(*given, **named)

    return counted


def test_first_tokens_come_as_often_as_the_model_says(loaded, clips):
    """Protects from draws of a clip that hang together: 400 samples against the distribution after the prompt."""
    decoder = loaded.family.decoder(loaded, Decoding(prompt=HEBREW, clips_at_once=401))
    (found,) = decoder.sample(clips[4:], [1], lambda place, ids: False, num=400, temperature=3.0, seeds=[9])
    first = torch.tensor([draw.ids[0] for draw in found.texts])
    expected = (logps_of(loaded, clips[4], [0])[0] / 3).softmax(-1)
    order = expected.argsort(descending=True)
    at = expected[order].cumsum(0)  # tokens from the likeliest on, in ten groups of about a tenth each
    group = torch.empty_like(order).scatter(0, order, (10 * (at - expected[order] / 2)).long().clamp(max=9))
    mass = torch.zeros(10).scatter_add(0, group, expected)
    counted = group[first].bincount(minlength=10) / 400
    assert (mass > 0).sum() >= 5, "the distribution must be broad, or little is tested"
    assert (counted - mass).abs().max() < 4.5 * (mass / 400).sqrt().max()


def test_the_caller_may_end_a_sample(loaded, clips, monkeypatch):
    """The other samples of the clip go on, and the place that is asked about is the clip's."""
    monkeypatch.setattr(qwen_decoding, "LOOP_STEPS", qwen_decoding.STEPS)
    monkeypatch.setattr(whisper_decoding, "LOOP_STEPS", 2)
    expected = ids_of(drawn(loaded, clips))
    longest = max(expected[0], key=len)
    asked = set()

    def loops(place: int, ids: list[int]) -> bool:
        asked.add(place)
        return len(ids) >= 4 and ids == longest[: len(ids)] and place == 0

    found = drawn(loaded, clips, loops=loops)
    ended = [draw for draw in (found[0].greedy, *found[0].texts) if draw.ending == "loop"]
    assert asked <= set(range(len(clips))) and len(ended) == 1
    assert ended[0].logp == pytest.approx(teacher_forced(loaded, clips[0], ended[0]), rel=1e-4, abs=1e-3)
    left = [[ids for ids in own if ids != longest] for own in expected]
    assert [[ids for ids in own if ids != ended[0].ids] for own in ids_of(found)] == left


def test_more_samples_than_memory_has_rows_for_are_refused(clips, loud, monkeypatch):
    monkeypatch.setattr(qwen_rows, "CPU_BYTES", 9 * 512 * 2 * 4 * 2 * 32 * 4)
    with pytest.raises(ModelError, match=r"a clip takes 31 for its greedy text and its samples; draw fewer"):
        drawn(loud, clips, num=30)
