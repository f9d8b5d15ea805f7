"""The prompt is the published one, labels stand on the target only, and text stays text."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen3ASRFeatureExtractor, Qwen3ASRProcessor

from shibolet.errors import ModelError
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.layouts import template_of
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.prompt import IGNORED, AlignmentPrompt, TranscriptionPrompt
from shibolet.model.tokens import encode_plain

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "qwen3-asr"


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip("no folder 'shared' beside the repository")
    tokenizer = AutoTokenizer.from_pretrained(REAL)
    tokenizer.chat_template = json.loads((REAL / "chat_template.json").read_text())["chat_template"]
    return tokenizer


def test_the_prompt_is_the_published_templates(real):
    messages = [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}]
    text = real.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|audio_pad|>", "<|audio_pad|>" * 26) + "language Hebrew<asr_text>"
    assert TranscriptionPrompt(real, "Hebrew").request(26) == real(text)["input_ids"]


def test_context_and_style_stand_in_the_systems_turn(tokenizer):
    """One place for what later rounds tell a model; markup in it must not end the turn."""
    tokenizer.chat_template = template_of("native", aligner=False)
    messages = [
        {"role": "system", "content": "שמות: דן\nבלי פיסוק"},
        {"role": "user", "content": [{"type": "audio", "audio": "x"}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False) + "language Hebrew<asr_text>"
    told = Prompt("Hebrew", context="שמות: דן\n", style="בלי פיסוק")
    assert TranscriptionPrompt(tokenizer, told).request(1) == tokenizer(text)["input_ids"]
    plain, marked = (TranscriptionPrompt(tokenizer, Prompt("Hebrew", context=said)) for said in ("א", "א<|im_end|>"))
    assert marked.request(1).count(marked.end_id) == plain.request(1).count(plain.end_id) == 2
    assert TranscriptionPrompt(tokenizer, Prompt("Hebrew")).frame == TranscriptionPrompt(tokenizer, "Hebrew").frame


def test_hebrew_costs_about_two_tokens_a_word(real):
    words = "הילד הלך אל הים ביום חם מאוד וחזר הביתה בערב"
    assert 1.5 <= len(TranscriptionPrompt(real, "Hebrew").encode([words])[0]) / len(words.split()) <= 3


def test_the_prompt_is_that_of_the_native_processor(tokenizer, clips):
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, template_of("native", aligner=False))
    prompt = TranscriptionPrompt(tokenizer, "English")  # the processor refuses Hebrew
    request = processor.apply_transcription_request(audio=clips[1], language="English", return_tensors="pt")
    assert request["input_ids"][0].tolist() == prompt.request(num_audio_tokens(170))
    with pytest.raises(ValueError):
        processor.apply_transcription_request(audio=clips[1], language="Hebrew")


def test_the_aligners_prompt_is_that_of_the_native_processor(tokenizer, clips):
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, template_of("native", aligner=True))
    inputs, words = processor.prepare_forced_aligner_inputs(clips[1], "שלום עולם", return_tensors="pt")
    assert words == [["שלום", "עולם"]]
    (expected,) = AlignmentPrompt(tokenizer).examples([num_audio_tokens(170)], words, [None])
    assert inputs["input_ids"][0].tolist() == expected.input_ids


def test_labels_stand_on_the_target_and_nowhere_else(tokenizer):
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    (sequence,) = prompt.examples([5], ["שלום עולם"])
    request = prompt.request(5)
    num_text = len(prompt.encode(["שלום עולם"])[0])
    assert len(sequence.input_ids) == len(sequence.labels) == prompt.frame.num_tokens(5, num_text)
    assert sequence.input_ids[: len(request)] == request
    target = [label for label in sequence.labels if label != IGNORED]
    assert tokenizer.decode(target) == "language Hebrew<asr_text>שלום עולם<|im_end|>"
    assert len(target) == prompt.frame.num_targets(num_text)
    assert sequence.labels[-len(target) :] == sequence.input_ids[-len(target) :] == target


@pytest.mark.parametrize("markup", ["<|im_end|>", "<|audio_pad|>", "<asr_text>", "<timestamp>"])
def test_markup_in_a_transcript_is_no_token_of_ours(tokenizer, markup: str):
    transcription, alignment = TranscriptionPrompt(tokenizer, "Hebrew"), AlignmentPrompt(tokenizer)
    special = tokenizer.convert_tokens_to_ids(markup)
    plain, marked = transcription.examples([3, 3], ["שלום", f"שלום {markup}"])
    assert marked.input_ids.count(special) == plain.input_ids.count(special)
    assert tokenizer.decode(transcription.encode([markup])[0]) == markup
    plain, marked = alignment.examples([3, 3], [["שלום"], [markup]], [None, None])
    assert marked.input_ids.count(special) == plain.input_ids.count(special)


@pytest.mark.parametrize("markup", ["<asr_text>", "<think>", "<|im_end|>", "<<think>", "<asr_text><asr_text>"])
def test_markup_in_a_transcript_is_no_token_of_the_published_tokenizer(real, markup: str):
    """The library splits what is marked special and nothing else: a text with <think> in it once had that token."""
    (ids,) = TranscriptionPrompt(real, "Hebrew").encode([f"שלום {markup} עולם"])
    assert not set(ids) & set(real.added_tokens_decoder) and real.decode(ids) == f"שלום {markup} עולם"


def test_ids_are_those_that_the_library_gives_and_threads_may_ask_at_once(tokenizer):
    """Its own call makes masks that nobody reads; what an earlier call has set must cut no text and pad none."""
    texts = [f"שלום {i} <|im_end|> {'עולם ' * (i % 7)}" for i in range(200)]
    expected = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokenizer(texts, truncation=True, max_length=4, padding="max_length")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: encode_plain(tokenizer, texts), range(24)))
    assert found == [expected] * 24
    assert max(map(len, expected)) > 8 > 4 and len(set(map(len, expected))) > 3
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.convert_tokens_to_ids("<|im_end|>")], (
        "it reads markup again"
    )


def test_the_aligners_markers_follow_each_word(tokenizer):
    prompt = AlignmentPrompt(tokenizer)
    (sequence,) = prompt.examples([4], [["שלום", "עולם"]], [[3, 7, 7, 12]])
    at = [i for i, token in enumerate(sequence.input_ids) if token == prompt.timestamp_id]
    assert [sequence.labels[i] for i in at] == [3, 7, 7, 12]
    assert sum(label != IGNORED for label in sequence.labels) == 4
    assert tokenizer.decode(sequence.input_ids[6:]) == "שלום<timestamp><timestamp>עולם<timestamp><timestamp>"
    with pytest.raises(ValueError, match="2 words need 4 time classes, got 3"):
        prompt.examples([4], [["שלום", "עולם"]], [[1, 2, 3]])


def test_a_tokenizer_of_another_model_is_refused(real):
    with pytest.raises(ModelError, match="no token '<timestamp>'"):
        AlignmentPrompt(real)
