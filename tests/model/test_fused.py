"""The fused decoder computes what transformers' own modules do: outputs, gradients, with adapters and without."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3ASRFeatureExtractor

from shibolet.errors import ModelError
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.qwen3_asr import fused as fused_module
from shibolet.model.qwen3_asr.decoding import GreedyDecoder, Request
from shibolet.model.qwen3_asr.features import PackedLogMel, log_mel
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.packed import Pack, build_pack, decode_pack, encoder_states, output_head, packed_attention
from shibolet.model.qwen3_asr.projections import stacked
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
TRAINED = {
    "everything": lambda name: True,
    "adapters and a layer": lambda name: ".lora_" in name or ".layers.3." in name,
    "a layer's norms": lambda name: ".layers.2." in name and "norm" in name,
    "the projector, through frozen layers": lambda name: "multi_modal_projector" in name,
}


@pytest.fixture
def pack(tokenizer, clips, sentences) -> Pack:
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    mels = [log_mel(clip, Qwen3ASRFeatureExtractor()) for clip in clips]
    sequences = prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], sentences)
    return build_pack(sequences, mels, prompt.audio_id, shift=True)


def loss_and_gradients(model, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
    with packed_attention(model):
        loss = summed_cross_entropy(decode_pack(model, pack), output_head(model), pack.labels)
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def pair(model) -> tuple:
    """The model with its own modules, and fused."""
    fused = copy.deepcopy(model)
    fuse_layers(fused)
    return model, fused


def assert_same(plain: tuple[Tensor, dict[str, Tensor]], fused: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(fused[0], plain[0])
    assert fused[1].keys() == plain[1].keys() and plain[1]
    for name, expected in plain[1].items():
        assert expected.any(), name
        torch.testing.assert_close(fused[1][name], expected, rtol=1e-3, atol=1e-8 + 1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_of_the_modules(recogniser, pack, trained: str, recomputed: bool):
    recogniser.train()
    if "adapters" in trained:
        attach_lora(recogniser, "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0, targets=TARGETS, seed=0)
    for name, weight in recogniser.named_parameters():
        weight.requires_grad_(TRAINED[trained](name))
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    plain, fused = pair(recogniser)
    if recomputed:
        fused.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(loss_and_gradients(plain, pack), loss_and_gradients(fused, pack))


@pytest.mark.parametrize("targets", [TARGETS, ["v_proj"]])
def test_adapters_drop_what_those_of_peft_drop(recogniser, pack, targets, monkeypatch: pytest.MonkeyPatch):
    attach_lora(recogniser.train(), "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.3, targets=targets, seed=0)
    for name, weight in recogniser.named_parameters():
        weight.requires_grad_(".lora_" in name)
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    mask = torch.rand(pack.num_tokens, 128) > 0.3
    # peft drops by torch.nn.Dropout, here by native_dropout: both get the same draw
    keep = lambda x: x * mask / 0.7  # noqa: E731
    monkeypatch.setattr(torch, "native_dropout", lambda x, p, train: (keep(x), mask))
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: keep(x) if self.p == 0.3 else x)
    plain, fused = pair(recogniser)
    assert_same(loss_and_gradients(plain, pack), loss_and_gradients(fused, pack))


def test_layers_are_computed_again_where_activations_are_not_kept(recogniser, pack, monkeypatch: pytest.MonkeyPatch):
    """Protects from layers that a later transformers no longer wraps: memory that was planned away is then taken."""
    num_layers, computed = len(recogniser.model.language_model.layers), []
    swiglu = fused_module.swiglu
    monkeypatch.setattr(fused_module, "swiglu", lambda x: computed.append(len(x)) or swiglu(x))
    fuse_layers(recogniser.train())
    loss_and_gradients(recogniser, pack)
    assert len(computed) == num_layers > 1
    recogniser.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss_and_gradients(recogniser, pack)
    assert len(computed) == 3 * num_layers


def test_without_gradients_outputs_are_those_of_the_modules(recogniser, pack):
    plain, fused = pair(recogniser)
    weights = {name: weight.clone() for name, weight in plain.state_dict().items()}
    with torch.inference_mode():
        found = []
        for model in (plain, fused):
            with packed_attention(model):
                found.append((encoder_states(model, pack), decode_pack(model, pack)))
    for own, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    assert all(fused.state_dict()[name].equal(weight) for name, weight in weights.items())


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.num += function.overloadpacket.__name__ in ("mm", "addmm", "matmul", "linear")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("moved", [False, True])
def test_one_product_does_for_all_projections_of_the_same_rows(recogniser, pack, moved: bool):
    """Four a layer; where something has moved weights, those of one input need one each, and say the same."""
    fuse_layers(recogniser)
    decoder = recogniser.model.language_model
    with torch.inference_mode(), packed_attention(recogniser):
        encoded = encoder_states(recogniser, pack)
        expected = decode_pack(recogniser, replace(pack, encoded=encoded))
    if moved:
        for layer in decoder.layers:
            for module in (layer.self_attn.k_proj, layer.mlp.up_proj):
                module.weight.data = module.weight.detach().clone()
    with torch.inference_mode(), packed_attention(recogniser), Products() as products:
        found = decode_pack(recogniser, replace(pack, encoded=encoded))
    assert products.num == 2 + (7 if moved else 4) * len(decoder.layers)  # two of the projector
    assert found.equal(expected)


def test_weights_lie_together_after_steps_and_loading(recogniser, pack):
    attach_lora(recogniser.train(), "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0, targets=TARGETS, seed=0)
    fuse_layers(recogniser)
    optimizer = torch.optim.SGD(recogniser.parameters(), lr=0.01)
    loss_and_gradients(recogniser, pack)
    optimizer.step()
    recogniser.load_state_dict({name: weight.clone() for name, weight in recogniser.state_dict().items()})
    attention = recogniser.model.language_model.layers[0].self_attn
    modules = (attention.q_proj, attention.k_proj, attention.v_proj)
    for weights in ([m.get_base_layer().weight for m in modules], [m.lora_A["default"].weight for m in modules]):
        assert stacked(weights).data_ptr() == weights[0].data_ptr()
        assert stacked(weights).equal(torch.cat(weights))


def test_no_attention_but_the_packed_one_is_disturbed(recogniser, tokenizer, clips):
    """`generate`, and rows that take one token at a time."""
    plain, fused = pair(recogniser)
    prompt = TranscriptionPrompt(tokenizer, "Hebrew").request(num_audio_tokens(num_mel_frames(len(clips[1]))))
    mel = log_mel(clips[1], Qwen3ASRFeatureExtractor())
    padded = torch.nn.functional.pad(mel, (0, -mel.shape[1] % 100))
    given = {
        "input_ids": torch.tensor([prompt]), "input_features": padded[None],
        "input_features_mask": (torch.arange(padded.shape[1]) < mel.shape[1]).long()[None],
    }  # fmt: skip
    written = [model.generate(**given, max_new_tokens=12, do_sample=False).tolist()[0] for model in (plain, fused)]
    assert written[0] == written[1] and len(written[0]) == len(prompt) + 12
    features = PackedLogMel(Qwen3ASRFeatureExtractor(), "cpu")
    audio_id = TranscriptionPrompt(tokenizer, "Hebrew").audio_id
    for model in (plain, fused):
        decoder = GreedyDecoder(model, features, audio_id=audio_id, stop_ids=[-1])
        (answer,) = decoder.decode([Request(prompt, clips[1], 12)], len(prompt) + 12)
        assert answer.ids == written[0][len(prompt) :]


def test_layers_of_another_model_are_refused(recogniser):
    recogniser.config.text_config.attention_bias = True
    with pytest.raises(ModelError, match="attention_bias True"):
        fuse_layers(recogniser)


class Kept:
    """A cache that counts the layers that it is shown."""

    def __init__(self) -> None:
        self.num = 0

    def keep(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        self.num += 1
        return key, value


@pytest.mark.parametrize("name", ["past_key_values", "cache", "memory"])
def test_a_cache_reaches_a_layer_under_the_names_of_transformers_and_is_never_lost(recogniser, pack, name: str):
    """5.24 renamed it; a layer that took it for one more option wrote wrong texts without a word."""
    fuse_layers(recogniser)
    decoder = recogniser.model.language_model
    hidden = torch.randn(1, len(pack.input_ids[0]), decoder.config.hidden_size)
    options = {"position_embeddings": decoder.rotary_emb(hidden, pack.position_ids), "use_cache": True}
    for which in "qk":
        options |= {f"cu_seq_lens_{which}": pack.cu_seqlens, f"max_length_{which}": pack.max_seqlen}
    kept = Kept()
    with torch.no_grad(), packed_attention(recogniser):
        if name == "memory":
            with pytest.raises(ModelError, match=r"names the cache of a layer in a way .* install the version"):
                decoder.layers[0](hidden, memory=kept, **options)
        else:
            decoder.layers[0](hidden, **options, **{name: kept})
    assert kept.num == (name != "memory")
