"""Cross-entropy straight from hidden states, so that logits of a large vocabulary never exist all at once.

Shapes: L label positions, D model dim, V vocabulary, K tokens of a teacher.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shibolet.errors import ModelError
from shibolet.model.fast import LOSS_CHUNK_POSITIONS
from shibolet.model.fast.kernels import cross_entropy_, scale_

_SMALL_CHUNK = LOSS_CHUNK_POSITIONS // 4  # float32 beside the logits: as many bytes as a chunk of the cross-entropy has


def summed_cross_entropy(
    hidden: Tensor, head: nn.Linear, labels: Tensor, chunk_positions: int = LOSS_CHUNK_POSITIONS
) -> Tensor:
    """Sum over positions, float32, of the cross-entropy of `head(hidden)` `[L, V]` against `labels` `[L]`.

    Its gradients are computed with it, chunk by chunk, so no logit is computed twice; a frozen head has none.
    ModelError for a head with a bias.
    """
    return _SummedCrossEntropy.apply(hidden, _weight_of(head), labels, chunk_positions)


def _weight_of(head: nn.Linear) -> Tensor:
    if head.bias is not None:
        raise ModelError("the model's output head has a bias, which the fast loss cannot take; set train.fast: off")
    return head.weight


def plain_cross_entropy(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """The same by torch alone, with all logits at once."""
    return F.cross_entropy(head(hidden).float(), labels, reduction="sum")


def label_logps(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Log-probabilities `[L]` of labels, float32; few positions have logits at once, in the backward pass too."""

    def some(hidden: Tensor, labels: Tensor) -> Tensor:
        return -F.cross_entropy(head(hidden).float(), labels, reduction="none")

    pieces = zip(hidden.split(_SMALL_CHUNK), labels.split(_SMALL_CHUNK), strict=True)
    return torch.cat([checkpoint(some, *piece, use_reentrant=False) for piece in pieces])


def divergences(hidden: Tensor, head: nn.Module, expected: Tensor, teacher_head: nn.Module, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence `[L]` of teacher and student at each position, float32.

    `hidden` are the student's states, `expected` the teacher's, which get no gradient. With m = beta p + (1 - beta) q
    of the teacher's p and the student's q it is beta KL(p || m) + (1 - beta) KL(q || m), and at the ends of beta what
    that tends to beside beta (1 - beta): KL(p || q) at 0 and KL(q || p) at 1 (Agarwal et al. 2024, equation 1 and
    below). Few positions have logits at once, in the backward pass too.
    """

    def some(hidden: Tensor, expected: Tensor) -> Tensor:
        student = head(hidden).float().log_softmax(-1)
        with torch.no_grad():
            teacher = teacher_head(expected).float().log_softmax(-1)
        if beta in (0, 1):
            truth, guess = (teacher, student) if beta == 0 else (student, teacher)
            return (truth.exp() * (truth - guess)).sum(-1)
        middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        of_teacher = (teacher.exp() * (teacher - middle)).sum(-1)
        return beta * of_teacher + (1 - beta) * (student.exp() * (student - middle)).sum(-1)

    pieces = zip(hidden.split(_SMALL_CHUNK), expected.split(_SMALL_CHUNK), strict=True)
    return torch.cat([checkpoint(some, *piece, use_reentrant=False) for piece in pieces])


@dataclass(frozen=True, slots=True)
class TopTokens:
    """What a teacher expects at each label: its likeliest tokens, and one mass for all the others."""

    ids: Tensor  # [L, K]
    probs: Tensor  # [L, K + 1] float32, the others' mass last; they add up to 1


def top_tokens(hidden: Tensor, head: nn.Module, num: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The ids `[L, K]` of the `num` likeliest tokens, and log-probabilities `[L, K + 1]`, the others' mass last.

    Probabilities are the softmax of the logits over `temperature`.
    """
    ids, logps = [], []
    for rows in hidden.split(_SMALL_CHUNK):
        log_probs = (head(rows).float() / temperature).log_softmax(-1)
        top, own = log_probs.topk(num, dim=-1)
        others = log_probs.scatter_(1, own, -torch.inf).logsumexp(-1, keepdim=True)
        ids.append(own)
        logps.append(torch.cat([top, others], dim=-1))
    return torch.cat(ids), torch.cat(logps)


@dataclass(frozen=True, slots=True)
class Mixed:
    """How cross-entropy and divergence make one loss."""

    likelihood_weight: float  # of the cross-entropy; the divergence has the rest
    temperature: float  # at which the teacher's probabilities are, and the student's beside them


def summed_distillation(
    hidden: Tensor, head: nn.Linear, labels: Tensor, teacher: TopTokens, how: Mixed
) -> tuple[Tensor, Tensor]:
    """Sums over positions, float32: of the loss, and, without gradient, of the divergence in it.

    The divergence is KL(teacher || student) times the square of the temperature, which keeps the size of its gradients
    (Hinton et al. 2015). All tokens but the teacher's K are one in it; so it never exceeds that of the whole
    distributions. Gradients are computed with the loss, chunk by chunk, as in `summed_cross_entropy`.
    """
    return _SummedDistillation.apply(hidden, _weight_of(head), labels, teacher.ids, teacher.probs, how)


def plain_distillation(
    hidden: Tensor, head: nn.Linear, labels: Tensor, teacher: TopTokens, how: Mixed
) -> tuple[Tensor, Tensor]:
    """The same by torch alone, with all logits at once."""
    logits = head(hidden).float()
    log_probs = (logits / how.temperature).log_softmax(-1)
    others = log_probs.scatter(1, teacher.ids, -torch.inf).logsumexp(-1, keepdim=True)
    logps = torch.cat([log_probs.gather(1, teacher.ids), others], dim=-1)
    divergence = how.temperature**2 * F.kl_div(logps, teacher.probs, reduction="sum")
    likelihood = F.cross_entropy(logits, labels, reduction="sum")
    return how.likelihood_weight * likelihood + (1 - how.likelihood_weight) * divergence, divergence.detach()


class _SummedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, ids, probs, how):
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        losses = []
        for start in range(0, len(labels), _SMALL_CHUNK):
            rows = slice(start, start + _SMALL_CHUNK)
            logits = hidden[rows] @ weight.t()
            losses.append(_distil_(logits, labels[rows], ids[rows], probs[rows], how))
            if needs_hidden:
                torch.mm(logits, weight, out=grad_hidden[rows])
            if needs_weight:
                grad_weight.addmm_(logits.t(), hidden[rows])
        ctx.gradients = grad_hidden, grad_weight
        total, divergence = torch.stack(losses).sum(0).unbind()
        ctx.mark_non_differentiable(divergence)
        return total, divergence

    @staticmethod
    def backward(ctx, upstream, _):
        return *_scaled(ctx, upstream), None, None, None, None


def _distil_(logits: Tensor, labels: Tensor, ids: Tensor, probs: Tensor, how: Mixed) -> Tensor:
    """`[2]`: loss and divergence of a chunk, summed; the logits become the loss's gradient.

    With q the student's and p the teacher's probabilities at temperature T, that of the divergence is T (q - p) at a
    token of the K and T q (1 - p_others / q_others) at another one.
    """
    log_probs = (logits.float() / how.temperature).log_softmax(-1)
    own = log_probs.gather(1, ids)
    gradient = log_probs.exp_().scatter_(1, ids, 0.0)
    others = gradient.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    divergence = how.temperature**2 * F.kl_div(torch.cat([own, others.log()], dim=-1), probs, reduction="sum")
    gradient *= 1 - probs[:, -1:] / others
    gradient.scatter_(1, ids, own.exp() - probs[:, :-1])
    rest = 1 - how.likelihood_weight
    gradient *= rest * how.temperature
    total = rest * divergence
    if how.likelihood_weight:
        total = total + how.likelihood_weight * cross_entropy_(logits, labels).sum()  # the logits are its gradient now
        gradient.add_(logits, alpha=how.likelihood_weight)
    logits.copy_(gradient)
    return torch.stack([total, divergence])


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
        return *_scaled(ctx, upstream), None, None


def _scaled(ctx, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of hidden states and head that the forward pass computed, times what comes from above."""
    gradients, ctx.gradients = ctx.gradients, None  # scaled in place: a second backward would scale them again
    for gradient in gradients:
        if gradient is not None:
            scale_(gradient, upstream)
    return gradients
