"""liger-kernel's fused kernels in place of the decoder's plain norms, SwiGLU, rope and cross-entropy, put in by name.

transformers' own switch (`use_liger_kernel`) knows no Qwen3-ASR and does nothing, in silence. The kernels run on CUDA
only; without the extra `gpu` a model on CUDA is an error, not a slow training.

Shapes: T tokens, L label positions, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen3 import modeling_qwen3

from shibolet.errors import ModelError

_FUSED: WeakSet[PreTrainedModel] = WeakSet()  # models that carry fused kernels
_CE_BLOCK = 32768  # columns of logits that a program of the cross-entropy kernel holds at once


def use_fused_kernels(model: PreTrainedModel) -> bool:
    """Put fused norms and SwiGLU into the decoder of a model on CUDA; False on a CPU, where they do not run."""
    if model.device.type != "cuda":
        return False
    liger = _liger()
    for module in model.model.language_model.modules():
        if isinstance(module, modeling_qwen3.Qwen3RMSNorm):
            module.forward = MethodType(_rms_norm(liger.LigerRMSNormFunction), module)
        elif isinstance(module, modeling_qwen3.Qwen3MLP):
            module.forward = MethodType(_swiglu(liger.LigerSiLUMulFunction), module)
    _FUSED.add(model)
    return True


def _rms_norm(function: type[torch.autograd.Function]):
    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        # offset 0, the sum of squares in float32 ("llama"), the gradient in place of what came in
        return function.apply(hidden, self.weight, self.variance_epsilon, 0.0, "llama", True, None)

    return forward


def _swiglu(function: type[torch.autograd.Function]):
    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        return self.down_proj(function.apply(self.gate_proj(hidden), self.up_proj(hidden), 1.0, 1.0))

    return forward


@contextmanager
def fused_rope(model: PreTrainedModel) -> Iterator[None]:
    """Within it a model with fused kernels rotates queries and keys by one: transformers calls a global function."""
    if model not in _FUSED:
        yield
        return
    plain = modeling_qwen3.apply_rotary_pos_emb
    rope = _liger().LigerRopeFunction
    modeling_qwen3.apply_rotary_pos_emb = lambda q, k, cos, sin: rope.apply(q, k, cos, sin, None, 1, None)
    try:
        yield
    finally:
        modeling_qwen3.apply_rotary_pos_emb = plain


def cross_entropy_(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each row of logits `[L, V]`, float32 `[L]`; the logits become its gradient."""
    if not logits.is_cuda:
        log_probs = F.log_softmax(logits.float(), dim=-1)
        losses = -log_probs.gather(1, labels[:, None])[:, 0]
        gradient = log_probs.exp_()
        gradient[torch.arange(len(labels)), labels] -= 1
        logits.copy_(gradient)
        return losses
    from liger_kernel.ops.cross_entropy import liger_cross_entropy_kernel

    # liger's own loss around this kernel asks the device for the number of labels, and its gradient for a factor of 1:
    # two waits a pack.
    losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
    width = logits.shape[1]
    with torch.cuda.device(logits.device):
        liger_cross_entropy_kernel[(len(labels),)](
            X_ptr=logits, X_stride=logits.stride(0), Y_ptr=labels, Y_stride=labels.stride(0), weight_ptr=None,
            loss_ptr=losses, z_loss_ptr=None, loss_stride=1, token_accuracy_ptr=None, token_accuracy_stride=0,
            predicted_tokens_ptr=None, predicted_tokens_stride=0, n_cols=width, n_non_ignore=len(labels),
            sum_non_ignore_weight=len(labels), weight_sum=0.0, ignore_index=-100, lse_square_scale=0.0,
            label_smoothing=0.0, reduction="sum", softcap=None, RETURN_Z_LOSS=False, RETURN_TOKEN_ACCURACY=False,
            RETURN_PREDICTED_TOKENS=False, HAS_WEIGHT=False, HAS_SOFTCAPPING=False, HAS_GRADIENTS=True,
            BLOCK_SIZE=min(_CE_BLOCK, 1 << (width - 1).bit_length()), num_warps=32,
        )  # fmt: skip
    return losses


def _liger():
    try:
        from liger_kernel import ops
    except ImportError as error:
        raise ModelError(
            "training on a GPU needs liger-kernel's fused kernels, which are not installed; run "
            "pip install 'shibolet[gpu]'"
        ) from error
    return ops
