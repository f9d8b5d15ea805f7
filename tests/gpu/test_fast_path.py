"""The CUDA path (packed attention, fused kernels, features, masters) computes what the plain path does."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.model.fast.kernels import cross_entropy_
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.qwen3_asr.cost import PackSize
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.features import PackedLogMel, lay_samples, log_mel
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.packed import Pack, build_pack, decode_pack, encoder_states, output_head, packed_attention
from shibolet.model.qwen3_asr.parts import untie_head
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.train.config import OptimizerConfig
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.update import Ran, update

pytestmark = pytest.mark.gpu

SENTENCES = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול על השולחן"] * 2
LENGTHS_S = (0.3, 1.7, 8.01, 17.2, 5.0, 3.3, 9.99, 2.0)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.train_tokenizer(SENTENCES * 10)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in LENGTHS_S]


@pytest.fixture(scope="module")
def pack(tokenizer, clips) -> Pack:
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    mels = [log_mel(clip, Qwen3ASRFeatureExtractor()) for clip in clips]
    sequences = prompt.examples([num_audio_tokens(m.shape[1]) for m in mels], SENTENCES)
    return build_pack(sequences, mels, prompt.audio_id, shift=True)


@pytest.fixture
def model(tokenizer):
    return tiny.new_recogniser(tokenizer, seed=1)


def loss_and_gradients(model, pack: Pack) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, hidden states and gradients, in float64 on the CPU."""
    model.zero_grad()
    pack = pack.to(model.device)
    with packed_attention(model):
        hidden = decode_pack(model, pack)
        loss = summed_cross_entropy(hidden, output_head(model), pack.labels)
        (loss / len(pack.labels)).backward()
    grads = {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item() / len(pack.labels), hidden.detach().double().cpu(), grads


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("adapters", [False, True])
def test_fused_bf16_is_as_near_to_float32_as_plain_bf16(model, pack, adapters: bool):
    if adapters:
        attach_lora(
            model, "decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0,
            targets=["q_proj", "k_proj", "v_proj", "o_proj"], seed=0,
        )  # fmt: skip
        for name, weight in model.named_parameters():
            weight.requires_grad_(".lora_" in name or ".layers.3." in name or name.startswith("lm_head"))
            if ".lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    exact = loss_and_gradients(model, pack)
    plain = loss_and_gradients(copy.deepcopy(model).bfloat16(), pack)  # on the CPU: no fused kernel
    fused_model = copy.deepcopy(model).bfloat16().cuda()
    fuse_layers(fused_model)
    fused = loss_and_gradients(fused_model, pack)
    assert fused[0] == pytest.approx(exact[0], rel=2e-2)
    assert error(fused[1], exact[1]) < 1.5 * error(plain[1], exact[1]) + 1e-3
    assert set(fused[2]) == set(exact[2]) and len(exact[2]) > 20
    whole = torch.stack([g.norm() for g in exact[2].values()]).norm()
    total = lambda grads: torch.stack([(grads[n] - exact[2][n]).norm() for n in grads]).norm() / whole  # noqa: E731
    assert total(fused[2]) < 1.5 * total(plain[2]) + 1e-3


def test_float32_on_the_gpu_is_float32(model, pack):
    exact = loss_and_gradients(model, pack)
    on_gpu = copy.deepcopy(model).cuda()
    fuse_layers(on_gpu)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = loss_and_gradients(on_gpu, pack)
    assert found[0] == pytest.approx(exact[0], rel=1e-5)
    assert error(found[1], exact[1]) < 1e-4


@pytest.mark.parametrize("vocab", [384, 151_936])
def test_the_kernel_gives_the_losses_and_gradients_of_cross_entropy(vocab: int):
    torch.manual_seed(0)
    logits = 3 * torch.randn(300, vocab, device="cuda")
    labels = torch.randint(vocab, (300,), device="cuda")
    wanted = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wanted, labels, reduction="none")
    expected.sum().backward()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        held = logits.to(dtype, copy=True)  # or the first round would overwrite what the second starts from
        losses = cross_entropy_(held, labels)
        assert error(losses.double(), expected.detach()) < tolerance
        assert error(held.double(), wanted.grad) < tolerance


def test_a_step_waits_for_the_device_nowhere(model, pack):
    model = model.bfloat16().cuda()
    untie_head(model)
    model.get_input_embeddings().weight.requires_grad_(False)  # as in every shipped recipe
    fuse_layers(model)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = MasterAdamW({"all": weights}, {"all": 1e-3}, OptimizerConfig())
    assert all(dict(optimizer.state(name))["master"].dtype == torch.float32 for name in weights)
    optimizer.set_lr(1.0)
    on_gpu, no_examples = pack.to("cuda"), TrainStep([], 0.0)

    def step() -> None:
        with packed_attention(model):
            total = Transcribe(FAMILY).loss(model, on_gpu, no_examples).total
            total.div(100).backward()
        assert update(optimizer, Ran([total.detach()])).done  # waits for an event, not for what was launched after it

    step()  # kernels are compiled
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_masters_on_the_gpu_are_those_of_the_cpu():
    torch.manual_seed(0)
    start, gradients = torch.randn(64, 64), torch.randn(5, 64, 64)
    seen = []
    for device in ("cpu", "cuda"):
        weight = torch.nn.Parameter(start.bfloat16().to(device))
        optimizer = MasterAdamW({"a": {"w": weight}}, {"a": 1e-2}, OptimizerConfig())
        optimizer.set_lr(1.0)
        for gradient in gradients:
            weight.grad = gradient.bfloat16().to(device)
            norms = optimizer.collect_gradients()
            optimizer.step(norms["a"])
        seen.append((dict(optimizer.state("w"))["master"].cpu(), weight.detach().cpu()))
    torch.testing.assert_close(seen[1][0], seen[0][0], rtol=1e-5, atol=1e-6)
    assert (seen[1][1] == seen[0][1]).float().mean() > 0.999


def test_features_are_those_of_the_library(clips):
    extractor = Qwen3ASRFeatureExtractor()
    features = PackedLogMel(extractor, "cuda")(lay_samples(clips).to("cuda")).cpu()
    start = 0
    for clip in clips:
        alone = log_mel(clip, extractor)
        torch.testing.assert_close(features[0, :, start : start + alone.shape[1]], alone, rtol=0, atol=1e-4)
        start += -(-alone.shape[1] // 100) * 100


def test_encoder_states_are_those_of_the_stock_encoder(model, pack):
    model = model.cuda().eval()
    alone, start = [], 0
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        for seconds in LENGTHS_S:
            frames = max(8000, int(16000 * seconds)) // 160
            width = -(-frames // 100) * 100
            mask = (torch.arange(width, device="cuda")[None] < frames).long()
            features = pack.features[..., start : start + width].cuda()
            alone.append(model.model.audio_tower(features, mask).last_hidden_state)
            start += width
        with packed_attention(model):
            packed = model.model.audio_tower.ln_post(encoder_states(model, pack.to("cuda")))
    torch.testing.assert_close(packed, torch.cat([a.reshape(-1, a.shape[-1]) for a in alone]), rtol=0, atol=1e-4)


def test_sizes_of_a_pack_are_counted_as_it_is_built(pack):
    frames = [max(8000, int(16000 * s)) // 160 for s in LENGTHS_S]
    lengths = pack.cu_seqlens.diff().tolist()
    labels = [1] * len(frames)
    size = PackSize.of(zip(lengths, frames, labels, strict=True))
    assert (size.tokens, size.audio_tokens) == (pack.num_tokens, len(pack.audio_positions))
    assert 100 * size.chunks == pack.features.shape[2]
    assert size.window_pairs == pack.audio_cu_seqlens.diff().square().sum()
