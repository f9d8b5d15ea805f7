"""Layers with gradients of one thread: protects from gradients that are not torch's."""

import pytest
import torch
import torch.nn.functional as F

from shibolet.model.fast import rows


def gradients(layer, tensors, wanted, *how):
    """The output of a layer and its gradients for the wanted tensors."""
    leaves = [tensor.clone().requires_grad_(at in wanted) for at, tensor in enumerate(tensors)]
    output = layer(*leaves, *how)
    return output, torch.autograd.grad(output.sin().sum(), [leaf for leaf in leaves if leaf.requires_grad])


@pytest.mark.parametrize("wanted", [(0, 1, 2), (0,), (1, 2), (0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_torchs_own_bit_for_bit(wanted, dtype):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    cases = [
        (rows.conv2d, F.conv2d, [draw(5, 3, 16, 10), draw(4, 3, 3, 3), draw(4)], ((2, 2), (1, 1))),
        (
            rows.layer_norm,
            lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, bias, eps),
            [draw(7, 24), draw(24), draw(24)],
            (1e-5,),
        ),
    ]
    if wanted == (0,):
        cases.append((rows.softmax, lambda x: x.softmax(-1), [draw(7, 1500)], ()))
    for own, torchs, tensors, how in cases:
        output, found = gradients(own, tensors, wanted, *how)
        expected_output, expected = gradients(torchs, tensors, wanted, *how)
        assert torch.equal(output, expected_output) and len(found) == len(wanted)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
