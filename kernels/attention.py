"""Attention of all tokens among themselves.  On a CPU, in bfloat16, its products are plain batched products.

torch's own flash attention takes two to eight times as long there, most of it in its backward pass
(docs/kernels.md).  Elsewhere, and in float32: torch's own.
Shape suffixes: B batch, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v: (B, H, T, D) in the inputs' dtype, on any device.

    In bfloat16 on a CPU the logits are rounded to it, as every product's result is; the softmax is float32,
    and its weights are rounded before they are divided by their total.
    """
    if q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.bfloat16:
        out: Tensor = _Attention.apply(q_BHTD, k_BHTD, v_BHTD)
        return out
    return functional.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)


class _Attention(torch.autograd.Function):
    """Keeps q, k, v, the output and one number a row, and computes the weights of the sum again.

    Source: the backward pass of FlashAttention, arXiv:2205.14135 algorithm 4.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        logits_BHTT = _logits(q_BHTD, k_BHTD)
        most_BHT1 = logits_BHTT.amax(-1, keepdim=True)
        weights_BHTT = (logits_BHTT - most_BHT1).exp()
        total_BHT1 = weights_BHTT.sum(-1, keepdim=True)
        out_BHTD = ((weights_BHTT.to(v_BHTD.dtype) @ v_BHTD).float() / total_BHT1).to(v_BHTD.dtype)
        ctx.save_for_backward(q_BHTD, k_BHTD, v_BHTD, out_BHTD, most_BHT1 + total_BHT1.log())
        return out_BHTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad_BHTD,) = grads
        q_BHTD, k_BHTD, v_BHTD, out_BHTD, log_total_BHT1 = ctx.saved_tensors
        dtype, scale = grad_BHTD.dtype, q_BHTD.shape[-1] ** -0.5
        weights_BHTT = (_logits(q_BHTD, k_BHTD) - log_total_BHT1).exp()
        for_v_BHTD = weights_BHTT.to(dtype).mT @ grad_BHTD
        for_weights_BHTT = (grad_BHTD @ v_BHTD.mT).float()
        # sum over a row of weights times their gradients
        row_BHT1 = (grad_BHTD.float() * out_BHTD.float()).sum(-1, keepdim=True)
        for_logits_BHTT = (weights_BHTT * (for_weights_BHTT - row_BHT1)).to(dtype)
        return for_logits_BHTT @ k_BHTD * scale, for_logits_BHTT.mT @ q_BHTD * scale, for_v_BHTD


def _logits(q_BHTD: Tensor, k_BHTD: Tensor) -> Tensor:
    # scaled before the product, where there are fewer numbers
    logits_BHTT: Tensor = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHTD.mT
    return logits_BHTT.float()
