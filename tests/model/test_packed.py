"""Utterances in one sequence give what the unmodified model gives for each alone: logits, loss, gradients."""

import pytest
import torch
from torch import nn
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.errors import ModelError
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.packed import (
    PACKED,
    build_pack,
    decode_pack,
    output_head,
    packed_attention,
)
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt


@pytest.fixture(scope="module")
def mels(clips):
    return [log_mel(clip, Qwen3ASRFeatureExtractor()) for clip in clips]


@pytest.fixture
def sequences(tokenizer, mels, sentences):
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    return prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], sentences)


def stock_inputs(sequence, mel) -> dict:
    """One utterance as transformers takes it."""
    padded = torch.nn.functional.pad(mel, (0, -mel.shape[1] % 100))
    mask = (torch.arange(padded.shape[1]) < mel.shape[1]).long()
    return {
        "input_ids": torch.tensor([sequence.input_ids]),
        "input_features": padded[None],
        "input_features_mask": mask[None],
    }


def test_lengths_are_those_of_the_encoder(mels, clips, recogniser):
    for mel, clip in zip(mels, clips, strict=True):
        assert mel.shape == (128, num_mel_frames(len(clip)))
        inputs = stock_inputs(type("S", (), {"input_ids": [0]}), mel)
        out = recogniser.get_audio_features(inputs["input_features"], inputs["input_features_mask"], return_dict=True)
        assert out.pooler_output.shape[0] == num_audio_tokens(mel.shape[1])


def test_logits_loss_and_gradients_are_those_of_the_stock_model(recogniser, tokenizer, sequences, mels):
    labels = [torch.tensor([s.labels]) for s in sequences]
    logits, loss = [], 0.0
    for sequence, mel, label in zip(sequences, mels, labels, strict=True):
        out = recogniser(**stock_inputs(sequence, mel), labels=label)
        count = (label != -100).sum()
        logits.append(out.logits[0, (label[0] != -100).nonzero().squeeze(-1) - 1])
        (out.loss * count).backward()
        loss += (out.loss * count).item()
    stock = {name: weight.grad.clone() for name, weight in recogniser.named_parameters()}
    recogniser.zero_grad()

    pack = build_pack(sequences, mels, TranscriptionPrompt(tokenizer, "Hebrew").audio_id, shift=True)
    assert pack.num_utterances == 4 and len(pack.labels) == len(torch.cat(logits)) > 40
    with packed_attention(recogniser):
        hidden = decode_pack(recogniser, pack)
        packed = summed_cross_entropy(hidden, output_head(recogniser), pack.labels)
        packed.backward()
    torch.testing.assert_close(FAMILY.logits(recogniser, pack), torch.cat(logits), rtol=0, atol=1e-5)
    assert packed.item() == pytest.approx(loss, rel=1e-6)
    whole = torch.stack([grad.norm() for grad in stock.values()]).norm()
    for name, weight in recogniser.named_parameters():
        # a bias of the keys changes no attention: its gradient is rounding, so the whole gradient bounds it
        error = (weight.grad - stock[name]).norm()
        assert error < 2e-5 * stock[name].norm() + 1e-7 * whole, f"{name}: {error:.1e} of {stock[name].norm():.1e}"
        assert stock[name].norm() > 1e-5 * whole or name.endswith("k_proj.bias"), name


def test_a_neighbour_changes_nothing(recogniser, tokenizer, sequences, mels):
    audio_id = TranscriptionPrompt(tokenizer, "Hebrew").audio_id
    alone = FAMILY.logits(recogniser, build_pack(sequences[1:2], mels[1:2], audio_id, shift=True))
    for order in ([1, 3], [3, 1], [0, 2, 1]):
        pack = build_pack([sequences[i] for i in order], [mels[i] for i in order], audio_id, shift=True)
        start = sum(sum(label != -100 for label in sequences[i].labels) for i in order[: order.index(1)])
        together = FAMILY.logits(recogniser, pack)[start : start + len(alone)]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_time_classes_of_the_aligner_are_those_of_the_stock_model(tokenizer, mels, sentences):
    model = tiny.new_aligner(tokenizer, seed=2).eval()
    prompt = AlignmentPrompt(tokenizer)
    words = [text.split() for text in sentences]
    classes = [list(range(2 * len(said))) for said in words]
    sequences = prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], words, classes)
    stock = []
    with torch.no_grad():
        for sequence, mel in zip(sequences, mels, strict=True):
            at = [i for i, label in enumerate(sequence.labels) if label != -100]
            assert all(sequence.input_ids[i] == prompt.timestamp_id for i in at)
            stock.append(model(**stock_inputs(sequence, mel)).logits[0, at])
        packed = FAMILY.logits(model, build_pack(sequences, mels, prompt.audio_id, shift=False))
    torch.testing.assert_close(packed, torch.cat(stock), rtol=0, atol=1e-5)


def test_the_attention_name_is_gone_afterwards(recogniser, tmp_path):
    with packed_attention(recogniser):
        assert recogniser.config.text_config._attn_implementation == PACKED
        assert recogniser.config.audio_config._attn_implementation == PACKED
    with pytest.raises(RuntimeError), packed_attention(recogniser):
        raise RuntimeError
    assert recogniser.config._attn_implementation == "sdpa"
    recogniser.save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()


def test_the_loss_in_chunks_is_the_loss_at_once(recogniser):
    torch.manual_seed(0)
    labels = torch.randint(0, 384, (37,))
    grads = []
    for chunk in (8, 1024):
        hidden = torch.randn(37, 128, generator=torch.Generator().manual_seed(1)).requires_grad_()
        recogniser.lm_head.weight.grad = None
        loss = summed_cross_entropy(hidden, recogniser.lm_head, labels, chunk_positions=chunk)
        loss.backward()
        grads.append((loss.detach(), hidden.grad, recogniser.lm_head.weight.grad.clone()))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_head_with_a_bias_is_refused_by_the_fast_loss():
    with pytest.raises(ModelError, match=r"output head has a bias.*set train\.fast: off"):
        summed_cross_entropy(torch.zeros(2, 4), nn.Linear(4, 3), torch.zeros(2, dtype=torch.long))
