"""The fused decoder computes what transformers' own modules do: outputs, gradients, with adapters and without."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor

from shibolet.errors import ModelError
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.qwen3_asr.decoding import GreedyDecoder, Request
from shibolet.model.qwen3_asr.features import PackedLogMel, log_mel
from shibolet.model.qwen3_asr.fused import fuse_decoder
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.packed import Pack, build_pack, decode_pack, output_head, packed_attention
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
    fuse_decoder(fused)
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
        fuse_decoder(recogniser)
