"""Whisper on a GPU computes what transformers computes: packs in bfloat16 and float32, greedy texts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationMixin
from whisper_models import SENTENCES, loaded_whisper

from shibolet.model.family import LoadedModel
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.protocols import Decoding, Prompt
from shibolet.model.whisper.family import FAMILY
from shibolet.model.whisper.features import LogMel, lay_samples
from shibolet.model.whisper.packed import Pack, head, hidden, packed_attention
from shibolet.model.whisper.prompt import TranscriptionPrompt

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in (0.3, 1.7, 8.0, 17.2, 30.0)]


@pytest.fixture
def loaded() -> LoadedModel:
    return loaded_whisper(d_model=128)  # heads of 64, as every published model's


@pytest.fixture
def pack(loaded, clips) -> Pack:
    prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
    laid = FAMILY.lay_out(prompt.frame, prompt.encode(SENTENCES), [3000] * len(clips))
    return replace(laid, features=LogMel(loaded.extractor, "cpu")(lay_samples(clips)))


def computed(model, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states and the gradients of the mean loss, in float64 on the CPU."""
    pack = pack.to(model.device)
    with packed_attention(model):
        states = hidden(model, pack)
        (summed_cross_entropy(states, head(model), pack.labels) / len(pack.labels)).backward()
    gradients = {name: weight.grad.double().cpu() for name, weight in model.named_parameters() if weight.requires_grad}
    return states.detach().double().cpu(), gradients


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def total_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    return (torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm() / whole).item()


def test_fused_bf16_is_as_near_to_float32_as_transformers_layers_on_a_cpu(loaded, pack):
    exact = computed(copy.deepcopy(loaded.model), pack)
    plain = computed(copy.deepcopy(loaded.model).bfloat16(), pack)
    fused = copy.deepcopy(loaded.model).bfloat16().cuda()
    FAMILY.fuse(fused)
    found = computed(fused, pack)
    assert error(found[0], exact[0]) < 1.5 * error(plain[0], exact[0]) + 1e-3
    assert len(exact[1]) > 20 and total_error(found[1], exact[1]) < 1.5 * total_error(plain[1], exact[1]) + 1e-3


@pytest.mark.parametrize("fuse", [False, True])
def test_float32_on_the_gpu_is_float32(loaded, pack, fuse: bool):
    exact = computed(copy.deepcopy(loaded.model), pack)
    on_gpu = copy.deepcopy(loaded.model).cuda()
    if fuse:
        FAMILY.fuse(on_gpu)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = computed(on_gpu, pack)
    assert error(found[0], exact[0]) < 1e-5 and total_error(found[1], exact[1]) < 1e-4


def test_logits_in_bf16_are_those_of_transformers(loaded, pack):
    model, frame = loaded.model.bfloat16().cuda(), TranscriptionPrompt(loaded.tokenizer, "Hebrew").frame
    texts = pack.input_ids.split(pack.cu_seqlens.diff().tolist())
    with torch.no_grad():
        alone = [
            model(features[None].bfloat16(), decoder_input_ids=ids[None]).logits[0, len(frame.prompt) - 1 :]
            for features, ids in zip(pack.features.cuda(), (ids.cuda() for ids in texts), strict=True)
        ]
        FAMILY.fuse(model)
        ours = FAMILY.logits(model, pack.to("cuda"))
    assert error(ours.float(), torch.cat(alone).float()) < 2e-2


@pytest.mark.parametrize("fuse", [False, True])
def test_greedy_texts_are_those_of_generate(loaded, clips, fuse: bool):
    """In float32, where texts do not hang on rounding; the graph of a step serves other clips too."""
    loaded.model.cuda()
    features, frame = LogMel(loaded.extractor, "cuda"), TranscriptionPrompt(loaded.tokenizer, "Hebrew").frame
    with torch.backends.cudnn.flags(allow_tf32=False):
        written = GenerationMixin.generate(
            loaded.model, features(lay_samples(clips)), decoder_input_ids=torch.tensor([frame.prompt] * 5).cuda(),
            do_sample=False, max_new_tokens=40, eos_token_id=frame.end_id, pad_token_id=frame.end_id,
        )[:, len(frame.prompt) :].tolist()  # fmt: skip
        if fuse:
            FAMILY.fuse(loaded.model)
        decoder = FAMILY.decoder(loaded, Decoding(prompt=Prompt("Hebrew")))
        for some in (range(5), range(4, -1, -1)):
            found = decoder.decode([clips[i] for i in some], [40] * 5, lambda place, ids: False)
            ours = {some[one.place]: one.ids for one in found}
            assert [ours[i] for i in range(5)] == [ids[: len(ours[i])] for i, ids in enumerate(written)]
            assert all(len(ids) == 40 or ids[-1] == frame.end_id for ids in ours.values())
    assert len({tuple(ids) for ids in written}) > 1


def test_a_training_step_waits_for_the_device_nowhere(loaded, pack):
    model = loaded.model.bfloat16().cuda()
    FAMILY.fuse(model)
    on_gpu = pack.to("cuda")

    def step() -> None:
        with packed_attention(model):
            summed_cross_entropy(hidden(model, on_gpu), head(model), on_gpu.labels).backward()

    step()  # kernels are compiled
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
