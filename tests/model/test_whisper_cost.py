"""Counted operations of a Whisper are those that torch executes, counted bytes those that autograd keeps."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from whisper_models import new_whisper, tiny_tokenizer

from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.lora import attach_lora
from shibolet.model.parts import freeze_all_but, partition
from shibolet.model.whisper import packed
from shibolet.model.whisper.cost import Cost, PackSize
from shibolet.model.whisper.fused import fuse_layers
from shibolet.model.whisper.packed import encode, head, hidden, lay_out, packed_attention
from shibolet.model.whisper.parts import untie_head
from shibolet.model.whisper.prompt import TranscriptionPrompt

TEXTS = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "ספר"]
DECODER = ("cross_attention", "decoder.layers", "decoder.norm")
WHOLE = ("encoder.conv", "encoder.layers", "encoder.norm", "embeddings", "decoder.positions", *DECODER)
TOP = ("encoder.layers[1:2]", "encoder.norm", *DECODER)
CASES = [WHOLE, DECODER, TOP, ("lora",), ("decoder.layers",), ("cross_attention",), ("head",), ("encoder.norm",),
         ("decoder.layers[1:2]", "decoder.norm")]  # fmt: skip
BACKWARD = {  # layers whose attention is in the backward pass: encoder, decoder, cross
    WHOLE: (2, 2, 2), DECODER: (0, 2, 2), TOP: (1, 2, 2), ("lora",): (0, 2, 2), ("decoder.layers",): (0, 2, 2),
    ("cross_attention",): (0, 1, 2), ("head",): (0, 0, 0), ("encoder.norm",): (0, 1, 2),
    ("decoder.layers[1:2]", "decoder.norm"): (0, 1, 1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def by_keys_and_values(monkeypatch) -> None:
    """As on a GPU: on a CPU short texts attend to the states themselves, which costs less than a plan says."""
    monkeypatch.setattr(packed, "_is_cheaper_on_states", lambda *_: False)


def in_place(out: tuple, a: tuple, b: tuple, **_) -> int:
    """Of `addmm_`, which torch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]


def trained(parts: tuple[str, ...], **changes):
    """A tiny Whisper in which some parts train, with its cost, a pack and that pack's size."""
    tokenizer = tiny_tokenizer()
    model = new_whisper(tokenizer, **changes)
    if "head" in parts:
        untie_head(model)
    if "lora" in parts:
        attach_lora(
            model, "decoder.layers", rank=4, alpha=8, dropout=0.1, seed=0,
            targets=["q_proj", "k_proj", "v_proj", "o_proj"],
        )  # fmt: skip
    groups = partition(model, parts)
    freeze_all_but(model, groups)
    fuse_layers(model)  # as it trains
    cost = Cost(model, [name for group in groups.values() for name in group], width=4)
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    texts, frames = prompt.encode(TEXTS), [3000] * len(TEXTS)
    pack = lay_out(prompt.frame, texts, frames)
    nums = [(prompt.frame.num_tokens(1500, len(ids)), 3000, prompt.frame.num_targets(len(ids))) for ids in texts]
    size = PackSize.of(nums)
    assert (size.tokens, size.labels, size.text) == (pack.num_tokens, len(pack.labels), len(pack.input_ids))
    return model.train(), cost, replace(pack, features=torch.randn(len(TEXTS), 80, 3000)), size


def loss_of(model, pack) -> torch.Tensor:
    with packed_attention(model):
        return summed_cross_entropy(hidden(model, pack), head(model), pack.labels)


@pytest.mark.parametrize("parts", CASES, ids=lambda parts: "+".join(parts)[:40])
def test_multiply_adds_are_those_that_torch_counts(parts):
    model, cost, pack, size = trained(parts)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        loss_of(model, pack).backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "attention" not in str(op))
    without_attention = replace(size, causal_pairs=0, cross_pairs=0, state_pairs=0)
    assert cost.operations(without_attention) == products
    attention = cost.operations(size) - cost.operations(without_attention)
    pairs = (size.state_pairs, size.causal_pairs, size.cross_pairs)
    dim = model.config.d_model
    assert attention == sum(4 * n * dim * (2 + 2 * back) for n, back in zip(pairs, BACKWARD[parts], strict=True))


@pytest.mark.parametrize(
    ("parts", "is_encoded"),
    [*((parts, False) for parts in CASES), (DECODER, True), (("lora",), True), (("decoder.layers",), True)],
    ids=str,
)
def test_bytes_are_those_that_autograd_keeps(parts, is_encoded: bool):
    model, cost, pack, size = trained(parts, d_model=64, encoder_ffn_dim=256, decoder_ffn_dim=256)
    if is_encoded:
        with torch.no_grad():
            pack = replace(pack, features=None, encoded=encode(model, pack))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    brought = pack.encoded if is_encoded else pack.features
    kept = {brought.untyped_storage().data_ptr(): brought.nbytes}  # a pack keeps it, trained or not

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), packed_attention(model):
        states = hidden(model, pack)
    found = sum(count for at, count in kept.items() if at not in weights)
    counted = sum(bytes_kept for _, bytes_kept, _ in cost.kept(size, encoder=not is_encoded))
    assert states.requires_grad == (parts != ("head",))
    assert counted == pytest.approx(found, rel=0.07), counted / found


def test_states_that_are_kept_cost_no_encoder():
    _, cost, _, size = trained(DECODER)
    assert {part for part, *_ in cost.kept(size, encoder=False)} == {"encoder.norm", *DECODER}
    assert cost.operations(size, encoder=False) < 0.5 * cost.operations(size)
