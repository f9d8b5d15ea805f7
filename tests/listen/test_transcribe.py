"""Transcription: a clip's text does not depend on its neighbours, and long audio is heard whole, once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo.tiny import new_recogniser, train_tokenizer
from shibolet.listen import transcribe
from shibolet.listen.engine import Engine, Written
from shibolet.listen.pieces import cut_at_pauses
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Decoding, Prompt
from shibolet.model.qwen3_asr import decoding
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

RATE = 16000


@pytest.fixture(scope="module")
def chatty() -> LoadedModel:
    """A tiny recogniser whose random weights are large enough that what it writes depends on what it hears."""
    tokenizer = train_tokenizer(["language Hebrew שלום עולם מה נשמע"])
    model = new_recogniser(tokenizer, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), Path("random"), "random")


def tones(durations_s: list[float]) -> list[np.ndarray]:
    """A different sound for each duration."""
    rng = np.random.default_rng(0)
    clips = []
    for i, duration_s in enumerate(durations_s):
        noise = rng.standard_normal(round(duration_s * RATE))
        clips.append((0.1 * noise * np.sin(np.arange(len(noise)) * (0.002 + 0.03 * i))).astype(np.float32))
    return clips


def test_left_padding_and_neighbours_change_nothing(chatty):
    """Protects from attention to padding, features of one clip leaking into the next, and results in sorted order."""
    clips = tones([2.0, 0.01, 9.3, 0.4, 3.5, 1.0, 3.49, 0.99, 8.0, 5.2])
    batched = Transcriber(chatty, "Hebrew", batch_utterances=4, max_new_tokens_per_s=4)
    alone = [batched.transcribe([clip])[0] for clip in clips]
    assert len(set(alone)) >= 8, "the texts must differ, or the comparison shows nothing"
    assert batched.transcribe(clips) == alone
    assert batched.transcribe(clips[::-1]) == alone[::-1]
    assert batched.transcribe([]) == []


def test_runaway_text_is_bounded_by_its_own_duration(chatty):
    """A loop in a short clip must not go on for as long as the longest clip of its batch allows."""
    short, long = tones([0.6, 6.0])
    transcriber = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=5)
    written = transcriber.transcribe([long, short])
    assert written[1] == transcriber.transcribe([short])[0]
    assert len(written[0]) > len(written[1]) > 0
    assert len(chatty.tokenizer(written[1])["input_ids"]) <= 3


def test_silence_is_heard_like_anything_else(chatty):
    """No shortcut for silent audio: what a model invents there has to be seen."""
    written = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=4).write([np.zeros(RATE, np.float32)])
    assert written[0].text and written[0].ending == "limit"


def test_special_tokens_are_dropped_and_letters_that_look_like_them_stay(chatty):
    """A transcript about markup is still a transcript."""
    decoder = FAMILY.decoder(chatty, Decoding(prompt=Prompt("Hebrew")))
    tokenizer = chatty.tokenizer
    (literal,) = TranscriptionPrompt(tokenizer, "Hebrew").encode(["<b> <asr_text> מה"])
    audio, asr_text, end = tokenizer.convert_tokens_to_ids(["<|audio_pad|>", "<asr_text>", "<|im_end|>"])
    assert decoder.text([asr_text, *literal, audio, end, *literal]) == "<b> <asr_text> מה"


def test_long_audio_is_its_pieces_joined(chatty):
    """Real pauses, real model: the joined text is what the pieces give one by one."""
    speech = tones([4.0, 3.0, 5.0])
    pause = np.zeros(RATE, np.float32)
    recording = np.concatenate([speech[0], pause, speech[1], pause, speech[2]])
    transcriber = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=3)
    pieces = cut_at_pauses(recording, 6.0)
    assert len(pieces) >= 3
    texts = [transcriber.transcribe([recording[start:end]])[0] for start, end in pieces]
    assert transcriber.write_long(recording, 6.0).text == " ".join(text for text in texts if text)


def test_a_long_recording_was_written_again_where_one_of_its_pieces_was():
    """Its one loop would be lost among the pieces that ended by themselves."""

    class Ends(Engine):
        def __init__(self, *endings):
            self.endings = endings

        def write(self, clips):
            return [Written("א", ending) for ending in self.endings[: len(clips)]]

    samples = np.concatenate([np.ones(RATE, np.float32), np.zeros(RATE, np.float32), np.ones(RATE, np.float32)])
    assert Ends("again", "end").write_long(samples, 1.6) == Written("א א", "again")
    assert Ends("end", "limit").write_long(samples, 1.6) == Written("א א", "limit")
    assert Ends().write_long(samples[:0], 1.6) == Written("", "end")


def test_beam_search_takes_its_settings_and_keeps_the_order(chatty):
    """Protects from a beam size or a length penalty that do nothing, and from results in the order of length."""
    clips = tones([2.0, 0.6, 4.3, 1.0, 7.0])

    def heard(clips: list[np.ndarray], **settings) -> list[str]:
        return Transcriber(chatty, "Hebrew", max_new_tokens_per_s=8, **settings).transcribe(clips)

    greedy, beams = heard(clips), heard(clips, beam_size=3)
    short = heard(clips, beam_size=3, length_penalty=-4.0)
    assert greedy != beams and sum(map(len, short)) < sum(map(len, beams))
    assert heard(clips[::-1], beam_size=3) == beams[::-1]


def test_samples_of_a_clip_are_its_own_whatever_list_it_is_in(chatty, monkeypatch):
    """Protects from draws that a split between GPUs would change, and from settings that do nothing."""
    clips, chosen = tones([2.0, 0.6, 4.3, 1.0]), []
    monkeypatch.setattr(
        transcribe, "least_risk", lambda greedy, samples, language: chosen.append((greedy, *samples)) or len(samples)
    )

    def heard(clips: list[np.ndarray], **settings) -> list[str]:
        settings = {"mbr_samples": 3, "mbr_temperature": 1.0} | settings
        return Transcriber(chatty, "Hebrew", max_new_tokens_per_s=8, **settings).transcribe(clips)

    last = heard(clips)
    greedy = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=8).transcribe(clips)
    assert sorted(own[0] for own in chosen) == sorted(greedy) and {own[-1] for own in chosen} == set(last)
    assert all(len(set(own)) > 1 for own in chosen), "samples must differ, or nothing is compared"
    assert heard(clips[::-1], batch_utterances=4) == last[::-1]
    assert [heard([clip])[0] for clip in clips] == last
    assert heard(clips, mbr_temperature=0.01) != last and heard(clips, mbr_samples=2) != last
    assert heard([]) == []


def test_a_repeat_bias_ends_a_loop(chatty, monkeypatch):
    """Protects from a setting that never reaches the rows: the head wants one word for ever, by less than the bias."""
    word = chatty.tokenizer(" שלום")["input_ids"]
    monkeypatch.setattr(chatty.model.lm_head, "forward", Repeating(word, chatty.model.config.text_config.vocab_size))
    clip = [np.zeros(RATE, np.float32)]
    without, held = (
        Transcriber(chatty, "Hebrew", max_new_tokens_per_s=60, repeat_bias=bias).transcribe(clip)[0]
        for bias in (0.0, 100.0)
    )
    three, four = (" ".join(["שלום"] * num) for num in (3, 4))
    assert without.startswith(four) and held.startswith(three) and four not in held


def test_a_loop_is_stopped_counted_and_left_in_the_text(chatty, monkeypatch):
    """Protects from minutes of one word, and from a text that was cut in silence."""
    word = chatty.tokenizer(" שלום")["input_ids"]
    transcriber = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=200)
    monkeypatch.setattr(chatty.model.lm_head, "forward", Repeating(word, chatty.model.config.text_config.vocab_size))
    written = transcriber.write([np.zeros(2 * RATE, np.float32)])[0]
    assert written.ending == "loop"
    more = decoding.LOOP_STEPS * 5 / len(word)  # characters until the next question
    assert 25 * 2 < len(written.text) <= 25 * 2 + more + 5, "as much as could be said in two seconds, and little more"
    assert set(written.text.split()) == {"שלום"}


def test_a_loop_is_written_again_with_a_bias_and_stays_where_that_loops_too(chatty, monkeypatch):
    """Protects from 65 words for 8 in a score, and from a second loop in place of the first."""
    word = chatty.tokenizer(" שלום")["input_ids"]
    end = TranscriptionPrompt(chatty.tokenizer, Prompt("Hebrew")).frame.end_id
    clips = [np.zeros(seconds * RATE, np.float32) for seconds in (1, 2)]

    def written(bias: float) -> list[Written]:
        transcriber = Transcriber(chatty, "Hebrew", max_new_tokens_per_s=200, loop_bias=bias)
        head = Repeating(word, chatty.model.config.text_config.vocab_size, end)
        monkeypatch.setattr(chatty.model.lm_head, "forward", head)
        return transcriber.write(clips)

    stay, again = written(0.0), written(100.0)
    assert [one.ending for one in stay] == ["loop", "loop"] and [one.ending for one in again] == ["again", "again"]
    assert all("שלום " * 4 not in one.text for one in again)
    assert written(0.001) == stay  # too little to end it


class Repeating:
    """A head that wants a list of tokens again and again, and an end next."""

    def __init__(self, ids: list[int], num_tokens: int, end_id: int = 0) -> None:
        self.ids, self.num_tokens, self.end_id, self.step = ids, num_tokens, end_id, 0

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*hidden.shape[:-1], self.num_tokens)
        logits[..., self.end_id] = 0.5
        logits[..., self.ids[self.step % len(self.ids)]] = 1
        self.step += 1
        return logits
