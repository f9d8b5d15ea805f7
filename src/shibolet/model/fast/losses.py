"""Cross-entropy straight from hidden states, so that logits of a large vocabulary never exist all at once.

Shapes: L label positions, D model dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shibolet.errors import ModelError
from shibolet.model.fast import LOSS_CHUNK_POSITIONS
from shibolet.model.fast.kernels import cross_entropy_, scale_


def summed_cross_entropy(
    hidden: Tensor, head: nn.Linear, labels: Tensor, chunk_positions: int = LOSS_CHUNK_POSITIONS
) -> Tensor:
    """Sum over positions, float32, of the cross-entropy of `head(hidden)` `[L, V]` against `labels` `[L]`.

    Its gradients are computed with it, chunk by chunk, so no logit is computed twice; a frozen head has none.
    ModelError for a head with a bias.
    """
    if head.bias is not None:
        raise ModelError("the model's output head has a bias, which the fast loss cannot take; set train.fast: off")
    return _SummedCrossEntropy.apply(hidden, head.weight, labels, chunk_positions)


def plain_cross_entropy(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """The same by torch alone, with all logits at once."""
    return F.cross_entropy(head(hidden).float(), labels, reduction="sum")


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_positions: int) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight, losses = None, []
        num_chunks = -(-len(labels) // chunk_positions)
        start = 0
        for chunk in labels.tensor_split(num_chunks):
            rows = slice(start, start := start + len(chunk))
            logits = hidden[rows] @ weight.t()
            losses.append(cross_entropy_(logits, chunk).sum())
            if needs_hidden:
                torch.mm(logits, weight, out=grad_hidden[rows])
            if needs_weight and grad_weight is None:
                grad_weight = logits.t() @ hidden[rows]
            elif needs_weight:
                grad_weight.addmm_(logits.t(), hidden[rows])
        ctx.gradients = grad_hidden, grad_weight
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None  # scaled in place: a second backward would scale them again
        for gradient in (grad_hidden, grad_weight):
            if gradient is not None:
                scale_(gradient, upstream)
        return grad_hidden, grad_weight, None, None
