"""Triton's passes give what torch's operations give; without a GPU they run where TRITON_INTERPRET=1 says so."""

import os

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes with torch for CUDA")
from shibolet.model.fast import first_use, kernels, triton_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="no CUDA device"),
]
KINDS = [torch.float32, torch.bfloat16]
ROWS, EPS = 37, 1e-6


def numbers(*shape: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(kind)


def compare(function: str, kind: torch.dtype, *args, inputs: int, **named) -> None:
    """Results, and what became of the first `inputs` arguments, of both versions from the same numbers."""
    plain = [a.clone() if isinstance(a, Tensor) else a for a in args]
    expected = getattr(kernels, function)(*plain, **named)
    ours = [a.to(DEVICE, copy=True) if isinstance(a, Tensor) else a for a in args]
    named = {name: a.to(DEVICE) if isinstance(a, Tensor) else a for name, a in named.items()}
    found = getattr(triton_kernels, function)(*ours, **named)
    pairs = zip((*as_tuple(found), *ours[:inputs]), (*as_tuple(expected), *plain[:inputs]), strict=True)
    num_compared = 0
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            tolerance = 1e-5 if b.dtype == torch.float32 and kind == torch.float32 else 2e-2
            torch.testing.assert_close(a.cpu(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())
            num_compared += 1
    assert num_compared


def as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [48, 2048])
@pytest.mark.parametrize("added", [False, True])
def test_norm(kind: torch.dtype, dim: int, added: bool):
    x, weight = numbers(ROWS, dim, kind=kind), numbers(dim, kind=kind, seed=1)
    add = numbers(ROWS, dim, kind=kind, seed=2) if added else None
    compare("rms_norm", kind, x, weight, EPS, add, inputs=1)
    _, total, rstd = kernels.rms_norm(x, weight, EPS, add)
    for wants_weight in (False, True):
        dy = numbers(ROWS, dim, kind=kind, seed=3)
        compare("rms_norm_backward", kind, dy, total, weight, rstd, inputs=0, add=add, wants_weight=wants_weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [48, 1280])
@pytest.mark.parametrize("added", [False, True])
def test_layer_norm(kind: torch.dtype, dim: int, added: bool):
    """Of numbers whose mean is not 0, in a width that is no power of two."""
    x, weight, bias = (
        numbers(ROWS, dim, kind=kind) + 1,
        numbers(dim, kind=kind, seed=1),
        numbers(dim, kind=kind, seed=4),
    )
    add = numbers(ROWS, dim, kind=kind, seed=2) if added else None
    compare("layer_norm", kind, x, weight, bias, EPS, add, inputs=1)
    _, total, mean, rstd = kernels.layer_norm(x, weight, bias, EPS, add)
    for wants_weight in (False, True):
        dy = numbers(ROWS, dim, kind=kind, seed=3)
        given = (dy, total, weight, mean, rstd)
        compare("layer_norm_backward", kind, *given, inputs=0, add=add, wants_weight=wants_weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [200, 1100])
@pytest.mark.parametrize("wanted", [False, True])
def test_gelu_backward(kind: torch.dtype, dim: int, wanted: bool):
    x, dproduct = 3 * numbers(ROWS, dim, kind=kind), numbers(ROWS, dim, kind=kind, seed=1)
    if not wanted:  # the gradient then stays what it was
        ours = [y.to(DEVICE, copy=True) for y in (dproduct, x)]
        triton_kernels.gelu_backward_(*ours, wants_product=False, wants_sum=False)
        assert ours[0].cpu().equal(dproduct)
    compare("gelu_backward_", kind, dproduct, x, inputs=2, wants_product=wanted, wants_sum=wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries, keys, dim", [(3, 1, 24), (16, 8, 128)])
@pytest.mark.parametrize("in_place", [False, True])
def test_norm_and_rotation_of_heads(kind: torch.dtype, queries: int, keys: int, dim: int, in_place: bool):
    """The heads of a row are followed by others, its values, that nobody touches."""
    heads = queries + 2 * keys
    of_rows = numbers(ROWS, heads * dim, kind=kind)
    norms = [numbers(dim, kind=kind, seed=seed) for seed in (1, 4)]
    angle = numbers(ROWS, dim // 2, kind=torch.float32, seed=2).repeat(1, 2)
    cos, sin = angle.cos().to(kind), angle.sin().to(kind)
    pairs = []
    for version, device in ((kernels, "cpu"), (triton_kernels, DEVICE)):
        given = of_rows.to(device, copy=True).view(ROWS, heads, dim)
        *weights, own_cos, own_sin = (tensor.to(device) for tensor in (*norms, cos, sin))
        found = version.norm_rope(given, *weights, (queries, keys), own_cos, own_sin, EPS, in_place=in_place)
        assert (found is given) == in_place and found.shape[1] == (heads if in_place else queries + keys)
        pairs.append([found.cpu(), given.cpu()])
    tolerance = 1e-5 if kind == torch.float32 else 2e-2
    for ours, expected in zip(pairs[1], pairs[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    assert pairs[1][1][:, queries + keys :].equal(of_rows.view(ROWS, heads, dim)[:, queries + keys :])
    x = of_rows.view(ROWS, heads, dim)[:, queries : queries + keys]
    for wants_weight in (False, True):
        dy = numbers(ROWS, keys, dim, kind=kind, seed=3)
        compare("norm_rope_backward", kind, dy, x, norms[1], cos, sin, EPS, inputs=0, wants_weight=wants_weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [200, 1100])
@pytest.mark.parametrize("wants_product", [False, True])
def test_swiglu(kind: torch.dtype, dim: int, wants_product: bool):
    gate_up = torch.cat((3 * numbers(ROWS, dim, kind=kind), numbers(ROWS, dim, kind=kind, seed=1)), dim=1)
    compare("swiglu", kind, gate_up, inputs=0)
    dproduct = numbers(ROWS, dim, kind=kind, seed=2)
    if not wants_product:  # it then holds what nobody reads
        ours = [x.to(DEVICE, copy=True) for x in (dproduct, gate_up)]
        triton_kernels.swiglu_backward_(*ours, wants_product=False)
        assert ours[0].cpu().equal(dproduct)
    compare("swiglu_backward_", kind, dproduct, gate_up, inputs=2, wants_product=wants_product)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [384, 20_000])
def test_cross_entropy(kind: torch.dtype, vocab: int):
    labels = torch.randint(vocab, (ROWS,), generator=torch.Generator().manual_seed(1))
    compare("cross_entropy_", kind, 3 * numbers(ROWS, vocab, kind=kind), labels, inputs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_scale(kind: torch.dtype):
    compare("scale_", kind, numbers(ROWS, 77, kind=kind), torch.tensor(1 / 3), inputs=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank, dim", [(4, 48), (16, 320), (80, 96)])
def test_dropout_before_an_adapter(kind: torch.dtype, rank: int, dim: int):
    """The mask that a draw gives, read off by adapters that hand single inputs through, is the one of both passes."""
    if DEVICE == "cpu" and kind == torch.bfloat16:
        pytest.skip("the interpreter multiplies no bfloat16 matrices")
    rate, scaling, rows = 0.3, 2.0, 200
    x, dlow = numbers(rows, dim, kind=kind), numbers(rows, rank, kind=kind, seed=1)
    a, before = numbers(rank, dim, kind=kind, seed=2), numbers(rows, dim, kind=kind, seed=3)
    mask = torch.zeros(rows, dim, dtype=torch.bool)
    for first in range(0, dim, rank):
        torch.manual_seed(7)
        through = torch.eye(dim, dtype=kind)[first : first + rank].to(DEVICE)
        low, _ = triton_kernels.drop_and_project(torch.ones(rows, dim, dtype=kind, device=DEVICE), through, rate, 1.0)
        mask[:, first : first + rank] = low.cpu() != 0
    assert mask.float().mean().item() == pytest.approx(1 - rate, abs=0.02)
    assert mask.float().mean(0).std() < 0.06 and mask.float().mean(1).std() < 0.12  # no row, no column is favoured
    torch.manual_seed(7)
    low, draw = triton_kernels.drop_and_project(x.to(DEVICE), a.to(DEVICE), rate, scaling)
    grown = scaling / (1 - rate)
    dropped = x.double() * mask * grown
    dx = before.to(DEVICE, copy=True)
    da = triton_kernels.drop_and_project_backward_(dlow.to(DEVICE), x.to(DEVICE), a.to(DEVICE), rate, scaling, draw, dx)
    for found, expected in (
        (low, dropped @ a.double().t()),
        (da, dlow.double().t() @ dropped),
        (dx, before.double() + (dlow.double() @ a.double()) * mask * grown),
    ):
        error = (found.cpu().double() - expected).norm() / expected.norm()
        assert error < (1e-5 if kind == torch.float32 else 5e-3)
    torch.manual_seed(8)
    other, _ = triton_kernels.drop_and_project(x.to(DEVICE), a.to(DEVICE), rate, scaling)
    assert not other.equal(low)


@pytest.mark.parametrize("kind", KINDS)
def test_adamw(kind: torch.dtype):
    """Several tensors at once, of lengths that are no multiple of anything, one of them two steps ahead."""
    shapes, seen = [(37, 65), (5000,), (3,)], []
    for device in ("cpu", DEVICE):
        masters = [numbers(*shape, kind=torch.float32).to(device) for shape in shapes]
        weights = [master.to(kind) if kind != torch.float32 else master for master in masters]
        exp_avgs, exp_avg_sqs = ([torch.zeros_like(master) for master in masters] for _ in range(2))
        for number in range(3):
            gradients = [numbers(*shape, kind=kind, seed=number).to(device) for shape in shapes]
            settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
            steps = [number + 1 + ahead for ahead in (0, 2, 0)]
            tensors = (weights, masters, gradients, steps, exp_avgs, exp_avg_sqs)
            for factor in (0.5, torch.nan):  # the second is refused
                scale = torch.tensor(factor, device=device)
                if len(seen) == 0:
                    kernels.adamw_(*tensors, scale=scale, **settings)
                else:
                    triton_kernels.adamw_(*tensors, scale, *settings.values())
        seen.append([x.cpu() for x in (*masters, *weights, *exp_avgs, *exp_avg_sqs)])
    for ours, theirs in zip(*seen, strict=True):
        tolerance = 1e-5 if ours.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_token_a_row_attends_to_its_own_row(group: int, dtype: torch.dtype):
    """Protects from rows that see another's keys, or places beyond their own, and from rows that have ended."""
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies no bfloat16 matrices")
    torch.manual_seed(0)
    rows, positions, heads, dim = 5, 200, 2, 32
    make = lambda *shape: torch.randn(*shape, device=DEVICE, dtype=dtype)  # noqa: E731
    query, key, value = make(rows, heads * (group + 2), dim).split([heads * group, heads, heads], dim=1)
    keys, values = make(rows, positions, heads, dim), make(rows, positions, heads, dim)
    position = torch.tensor([0, 63, 64, 199, 130], device=DEVICE)
    done = torch.tensor([False, False, False, False, True], device=DEVICE)
    kept = [keys.clone(), values.clone()]
    for cache, new in zip(kept, (key, value)):
        cache[torch.arange(rows, device=DEVICE), position] = new
    found = triton_kernels.attend_rows(query, key, value, keys, values, position, done, 0.3)
    assert torch.equal(keys, kept[0]) and torch.equal(values, kept[1])
    for row in range(rows - 1):
        seen = (cache[row, : int(position[row]) + 1].transpose(0, 1).double() for cache in kept)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[row].view(heads, group, dim).double(), *seen, scale=0.3
        )
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found[row].view(heads, group, dim).double(), expected, rtol=0, atol=tolerance)
    assert found[rows - 1].isfinite().all()


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_libraries_are_used_without_a_trace_in_what_is_drawn_later() -> None:
    before = torch.cuda.get_rng_state(0), torch.get_rng_state(), torch.is_grad_enabled()
    with torch.no_grad():
        first_use.use_libraries(0)
    after = torch.cuda.get_rng_state(0), torch.get_rng_state(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1]) and before[2] == after[2]
