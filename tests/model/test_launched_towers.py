"""Both towers launched as graphs, with rows padded, give losses and gradients of plain calls; recordings are played.

The bits are a matter of CUDA: tests/gpu/test_launches.py.
"""

import copy

import pytest
import torch
from played_graphs import PlayedChain
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor

from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.qwen3_asr import launching, packed
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.packed import Pack, build_pack, decode_pack, encoder_states, output_head, packed_attention
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt


@pytest.fixture
def packs(tokenizer, clips, sentences) -> list[Pack]:
    """Of two sizes once they are padded."""
    prompt, made = TranscriptionPrompt(tokenizer, "Hebrew"), []
    for some in (slice(0, 3), slice(0, 2)):
        mels = [log_mel(clip, Qwen3ASRFeatureExtractor()) for clip in clips[some]]
        sequences = prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], sentences[some])
        made.append(build_pack(sequences, mels, prompt.audio_id, shift=True))
    return made


@pytest.fixture
def models(recogniser, monkeypatch) -> tuple:
    """One that is launched and one that is not; adapters and the upper layers of both towers train."""
    monkeypatch.setattr(launching, "_ROWS", 64)
    attach_lora(recogniser, "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj"], seed=0)
    for name, weight in recogniser.named_parameters():
        weight.requires_grad_("lora_" in name or "layers.1." in name or "projector" in name)
    fuse_layers(recogniser.train())
    plain = copy.deepcopy(recogniser)
    monkeypatch.setattr(packed, "is_launched", lambda model: model is recogniser)
    monkeypatch.setattr(launching, "Chain", PlayedChain)
    return recogniser, plain


def step(model, packs: list[Pack]) -> dict[str, Tensor]:
    """Losses of packs, and the sums of their gradients."""
    model.zero_grad()
    losses = []
    with packed_attention(model):
        for pack in packs:
            losses.append(summed_cross_entropy(decode_pack(model, pack), output_head(model), pack.labels))
            losses[-1].backward()
    grads = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return grads | {f"loss {number}": loss.detach() for number, loss in enumerate(losses)}


def chains(model) -> list[PlayedChain]:
    return [launching._CHAINS[tower] for tower in (model.model.language_model, model.model.audio_tower)]


def assert_same_steps(models: tuple, steps: list[list[Pack]]) -> None:
    launched, plain = models
    for packs in steps:
        found, expected = step(launched, packs), step(plain, packs)
        assert found.keys() == expected.keys() and len(expected) > 20
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6 + 1e-4 * float(value.abs().max()))


def test_steps_of_one_and_of_several_packs_are_those_of_plain_calls(models, packs):
    first, second = packs
    assert_same_steps(models, [[first], [second, first], [second], [first, second]])
    decoder, encoder = chains(models[0])
    assert len(decoder._recordings) == len(encoder._recordings) == 2
    assert (decoder.num_played, encoder.num_played) == (4, 4 * 2) and len(encoder._frozen) == 1


def test_states_of_a_frozen_encoder_stay_when_the_next_pack_is_heard(models, packs):
    """As those that are kept for later epochs, and computed where nothing asks for gradients."""
    for model in models:
        model.model.audio_tower.requires_grad_(False)
    found = []
    for model in models:
        with packed_attention(model), torch.no_grad():
            found.append([encoder_states(model, pack) for pack in packs * 3])
    for states, expected in zip(*found, strict=True):
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    assert launching._CHAINS[models[0].model.audio_tower].num_played == 4


def test_what_is_given_back_leaves_nothing_recorded(models, packs):
    launched, _ = models
    assert not launching.release(launched, for_good=False)
    for _ in range(2):
        step(launched, packs)
    assert launching.release(launched, for_good=True)
    assert not any(chain._recordings for chain in chains(launched))
