"""Fused encoder layers compute what the modules do: states, loss, every gradient, whatever trains."""

import copy
from dataclasses import replace

import pytest
import torch
from whisper_models import SENTENCES, loaded_whisper

from shibolet.model.family import LoadedModel
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.parts import freeze_all_but, partition
from shibolet.model.whisper import fused as fused_module
from shibolet.model.whisper.fused import EncoderLayer, fuse_layers
from shibolet.model.whisper.packed import Pack, encoder_states, head, hidden, lay_out, packed_attention
from shibolet.model.whisper.prompt import TranscriptionPrompt

WHOLE = ("encoder.conv", "encoder.layers", "encoder.norm", "embeddings", "decoder.positions", "cross_attention",
         "decoder.layers", "decoder.norm")  # fmt: skip
CASES = [WHOLE, ("encoder.layers[1:2]", "lora"), ("encoder.conv",), ("lora",)]


@pytest.fixture
def loaded() -> LoadedModel:
    return loaded_whisper(d_model=48, encoder_attention_heads=3)  # of 16: what scales them is a power of two


@pytest.fixture
def pack(loaded) -> Pack:
    return pack_of(loaded, 2)


def pack_of(loaded: LoadedModel, num: int) -> Pack:
    prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
    laid = lay_out(prompt.frame, prompt.encode(SENTENCES[:num]), [3000] * num)
    return replace(laid, features=torch.randn(num, 80, 3000, generator=torch.Generator().manual_seed(0)))


def fused_twin(model):
    twin = copy.deepcopy(model)
    fuse_layers(twin)
    assert {type(layer) for layer in twin.model.encoder.layers} == {EncoderLayer}
    return twin


def loss_and_gradients(model, pack: Pack) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with packed_attention(model):
        loss = summed_cross_entropy(hidden(model, pack), head(model), pack.labels)
        loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found: tuple[torch.Tensor, dict], expected: tuple[torch.Tensor, dict]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert found[1].keys() == expected[1].keys() and expected[1]
    whole = torch.stack([gradient.norm() for gradient in expected[1].values()]).norm()
    for name, gradient in expected[1].items():
        error = (found[1][name] - gradient).norm()
        assert gradient.any() and error < 1e-5 * gradient.norm() + 1e-7 * whole, f"{name}: {error / gradient.norm()}"


def train(model, parts: tuple[str, ...]) -> None:
    if "lora" in parts:
        attach_lora(model, "decoder.layers", rank=4, alpha=8, dropout=0.0, targets=["q_proj", "o_proj"], seed=0)
    freeze_all_but(model.train(), partition(model, parts))
    for name, weight in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)


@pytest.mark.parametrize("parts", CASES, ids=lambda parts: "+".join(parts)[:40])
def test_gradients_are_those_of_the_modules(loaded, pack, parts):
    train(loaded.model, parts)
    twin = fused_twin(loaded.model)
    assert_same(loss_and_gradients(twin, pack), loss_and_gradients(loaded.model, pack))


@pytest.mark.parametrize("kind", ["norm", "bias", "fc2.weight", "v_proj.weight", "out_proj.weight"])
def test_parts_of_a_layer_train_alone(loaded, pack, kind: str):
    for name, weight in loaded.model.named_parameters():
        weight.requires_grad_("encoder.layers" in name and kind in name)
    twin = fused_twin(loaded.model)
    assert_same(loss_and_gradients(twin, pack), loss_and_gradients(loaded.model, pack))


def test_layers_are_computed_again_where_activations_are_not_kept(loaded, pack, monkeypatch: pytest.MonkeyPatch):
    train(loaded.model, WHOLE)
    twin, norms, layer_norm = fused_twin(loaded.model), [], fused_module.layer_norm
    monkeypatch.setattr(
        fused_module, "layer_norm", lambda x, *rest, **more: norms.append(1) or layer_norm(x, *rest, **more)
    )
    twin.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(loss_and_gradients(twin, pack), loss_and_gradients(loaded.model, pack))
    assert len(norms) == 2 * 2 * len(twin.model.encoder.layers)


def test_states_are_those_of_the_modules_and_of_transformers(loaded, pack):
    twin = fused_twin(loaded.model)
    with torch.inference_mode():
        expected = loaded.model.model.encoder(pack.features).last_hidden_state
        for model in (twin, loaded.model):
            torch.testing.assert_close(encoder_states(model, pack.features), expected, rtol=1e-5, atol=1e-5)
        assert twin.model.encoder(pack.features).last_hidden_state.equal(expected)  # its own forward is transformers'


def test_a_gradient_has_the_same_bits_for_any_number_of_threads():
    loaded = loaded_whisper(d_model=192, decoder_attention_heads=6)
    train(loaded.model, WHOLE)
    twin, found, pack = fused_twin(loaded.model), [], pack_of(loaded, 3)
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            found.append(loss_and_gradients(twin, pack)[1])
        finally:
            torch.set_num_threads(1)
        twin.zero_grad()
    assert [name for name, gradient in found[0].items() if not gradient.equal(found[1][name])] == []
