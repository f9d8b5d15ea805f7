"""Layers launched as graphs have the bits of the same layers launched one by one, and gradients that add up."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shibolet.demo import tiny
from shibolet.model.fast import graphs
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.qwen3_asr import launching
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.packed import (
    Pack,
    build_pack,
    decode_pack,
    encoder_states,
    output_head,
    packed_attention,
)
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

pytestmark = pytest.mark.gpu

SENTENCES = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול על השולחן"]
FRAMES = ((170, 800, 1720, 330), (300, 990, 1500, 200), (90, 1210, 1400, 640))  # of packs of nearly as many rows


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.train_tokenizer(SENTENCES * 10)


def packs(tokenizer) -> list[Pack]:
    prompt, made = TranscriptionPrompt(tokenizer, "Hebrew"), []
    for number, frames in enumerate(FRAMES):
        generator = torch.Generator().manual_seed(number)
        mels = [torch.randn(128, num, generator=generator) for num in frames]
        sequences = prompt.examples([num_audio_tokens(num) for num in frames], SENTENCES)
        made.append(build_pack(sequences, mels, prompt.audio_id, shift=True).to("cuda"))
    return made


def new_model(tokenizer):
    """Adapters with dropout on frozen layers, the second layer of each tower trains."""
    model = tiny.new_recogniser(tokenizer, seed=1).to("cuda", torch.bfloat16)
    attach_lora(
        model, "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.1, targets=["q_proj", "v_proj", "o_proj"], seed=0
    )
    fuse_layers(model)
    for name, weight in model.named_parameters():
        trains = "lora_" in name or "layers.1." in name or "projector" in name or "ln_post" in name
        weight.requires_grad_(trains)
    return model.train()


def step(model, given: list[Pack], seed: int, *, at_once: bool = False) -> dict[str, Tensor]:
    """Gradients of the packs' losses, added up by a backward pass each or by one of all."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = []
    with packed_attention(model):
        for pack in given:
            loss = summed_cross_entropy(decode_pack(model, pack), output_head(model), pack.labels)
            losses.append(loss)
            if not at_once:
                loss.backward()
        if at_once:
            sum(losses).backward()
    grads = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return grads | {f"loss {number}": loss.detach() for number, loss in enumerate(losses)}


def num_recordings(model) -> list[int]:
    towers = (model.model.language_model, model.model.audio_tower)
    return [len(launching._CHAINS[tower]._recordings) for tower in towers]


def assert_same_bits(model, plain, given: list[Pack], seeds: range, monkeypatch) -> None:
    """Steps of a model that is launched as graphs and of one whose layers are launched one by one."""
    for seed in seeds:
        monkeypatch.setattr(graphs, "_SEEN_BEFORE", 10**9)
        expected = step(plain, given, seed)
        monkeypatch.setattr(graphs, "_SEEN_BEFORE", 1)
        found = step(model, given, seed)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (seed, name)
    assert num_recordings(plain) == [0, 0]
    assert min(num_recordings(model)) >= 1


def test_graphs_have_the_bits_of_single_launches_over_many_packs(tokenizer, monkeypatch):
    given = packs(tokenizer)
    model, plain = new_model(tokenizer), new_model(tokenizer)
    assert_same_bits(model, plain, given, range(4), monkeypatch)


def test_gradients_that_no_second_pack_is_added_to_have_the_bits_of_single_launches(tokenizer, monkeypatch):
    """They stay in the memory that the graph writes."""
    pack, other, _ = packs(tokenizer)
    model, plain = new_model(tokenizer), new_model(tokenizer)
    for given in ([pack], [pack], [other, pack], [pack]):
        assert_same_bits(model, plain, given, range(2), monkeypatch)
    step(model, [pack], 0)
    decoder = launching._CHAINS[model.model.language_model]
    held = {gradient.data_ptr() for of_part in decoder._gradients for gradient in of_part}
    assert held & {weight.grad.data_ptr() for weight in model.parameters() if weight.grad is not None}


@pytest.mark.parametrize("grad", [False, True])
def test_a_frozen_encoder_is_launched_as_one_graph_whose_output_stays(tokenizer, monkeypatch, grad: bool):
    """The states of a phase that does not train it are kept for its later epochs."""
    given = packs(tokenizer)
    model, plain = new_model(tokenizer), new_model(tokenizer)
    found = {}
    for one, seen_before in ((plain, 10**9), (model, 1)):
        monkeypatch.setattr(graphs, "_SEEN_BEFORE", seen_before)
        one.model.audio_tower.requires_grad_(False)
        with packed_attention(one), torch.set_grad_enabled(grad):
            found[seen_before] = [encoder_states(one, pack) for pack in given * 3]
    for expected, states in zip(found[10**9], found[1], strict=True):
        assert torch.equal(states, expected) and not states.requires_grad
    assert launching._CHAINS[plain.model.audio_tower]._recordings == {}
    (recording, *_) = launching._CHAINS[model.model.audio_tower]._recordings.values()
    assert recording.frozen is not None and not recording.spans


def test_layers_below_those_that_train_are_recorded_with_them(tokenizer, monkeypatch):
    given, model, plain = packs(tokenizer), new_model(tokenizer), new_model(tokenizer)
    assert_same_bits(model, plain, given, range(3), monkeypatch)
    (recording, *_) = launching._CHAINS[model.model.audio_tower]._recordings.values()
    assert recording.frozen is not None and len(recording.spans) == 1


def test_a_forward_pass_before_the_last_one_went_back_has_memory_of_its_own(tokenizer):
    given = packs(tokenizer)
    model = new_model(tokenizer)
    for seed in range(3):
        step(model, given, seed)
    one_by_one, at_once = step(model, given, 7), step(model, given, 7, at_once=True)
    assert min(num_recordings(model)) >= 1
    for name, value in one_by_one.items():
        torch.testing.assert_close(at_once[name], value, rtol=0.02, atol=0.02 * float(value.abs().max()))


def test_a_pass_that_is_made_again_is_launched_one_by_one(tokenizer):
    """Minimum-WER training keeps a pass short, and makes it again in the backward pass."""
    (pack, *_), model = packs(tokenizer), new_model(tokenizer)
    for seed in range(4):
        torch.manual_seed(seed)
        model.zero_grad()
        with packed_attention(model):
            hidden = checkpoint(lambda own=pack: decode_pack(model, own), use_reentrant=False)
            summed_cross_entropy(hidden, output_head(model), pack.labels).backward()
    assert num_recordings(model) == [0, 0]


def test_other_weights_that_train_are_recorded_anew(tokenizer, monkeypatch):
    given, model, plain = packs(tokenizer), new_model(tokenizer), new_model(tokenizer)
    for seed in range(3):
        step(model, given, seed)
    for one in (model, plain):
        for name, weight in one.named_parameters():
            weight.requires_grad_("lora_" in name or "layers.0." in name or "projector" in name)
            weight.data.add_(0.01 * weight.data.sign())  # an optimizer's step: other numbers in the same memory
    assert_same_bits(model, plain, given, range(3), monkeypatch)


def test_padding_changes_rounding_alone(tokenizer, monkeypatch):
    (pack, *_), model = packs(tokenizer), new_model(tokenizer)
    launched = step(model, [pack], 0)
    monkeypatch.setattr("shibolet.model.qwen3_asr.packed.is_launched", lambda model: False)
    plain = step(model, [replace(pack)], 0)
    torch.testing.assert_close(launched["loss 0"], plain["loss 0"], rtol=0.02, atol=0)
