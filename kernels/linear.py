"""Linear layers.  On a CPU, in float32, their products are oneDNN's or those of torch's BLAS.

That is MKL, which keeps to AVX2 on some processors that are not Intel's.  oneDNN compiles a kernel for the
processor it meets: on AMD's Zen 5 it takes half the time, on Zen 4 nearly the same (docs/kernels.md).  A run
measures which is faster (train/machine/cpu_products.py).  Elsewhere: torch's own.
Shape suffixes: I values in, O values out, T rows, which is all leading dimensions.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.kernels.source import SOURCE

# torch has no annotation of it
ONEDNN: Final[bool] = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """`torch.nn.functional.linear`: x (…, I) to (…, O), in x's dtype or autocast's, on any device.

    float32 results on a CPU differ from it in the order of the sums.
    """
    if _is_onednn(x):
        out: Tensor = product_op(x, weight_OI, bias_O, SOURCE)
        return out
    return functional.linear(x, weight_OI, bias_O)


def use_onednn(wanted: bool) -> None:
    """Whether float32 products on a CPU are oneDNN's, in this process, from now on; at the start: yes."""
    _Chosen.onednn = wanted and ONEDNN


class _Chosen:
    onednn = ONEDNN


def _is_onednn(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return _Chosen.onednn and plain and x.numel() > 0


@torch.library.custom_op("turbomim::product", mutates_args=(), device_types="cpu")
def product_op(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, source: str) -> Tensor:
    """Return x (…, I) times the transposed weight, plus the bias; weight of any strides."""
    # torch's compiler uses this op for inference, where weights are constants, and refuses it elsewhere
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return out


@product_op.register_fake
def _product_shape(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, source: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_OI.shape[0]))


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """Gradients of x, weight and bias: products too."""
    x, weight_OI = ctx.saved_tensors
    for_x, for_weight, for_bias, _ = ctx.needs_input_grad
    grad_TO = grad.flatten(0, -2)
    return (
        product_op(grad, weight_OI.t(), None, SOURCE) if for_x else None,
        _weight_gradient(grad_TO, x.flatten(0, -2)) if for_weight else None,
        grad_TO.sum(0) if for_bias else None,
        None,
    )


def _weight_gradient(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    """Gradient of the weight (O, I): a sum over rows, which oneDNN's linear wants in rows of one operand.

    The narrower one is transposed, and here, where torch's compiler sees it and uses every core.
    """
    wide_out = grad_TO.shape[1] > x_TI.shape[1]
    narrow, wide = (x_TI, grad_TO) if wide_out else (grad_TO, x_TI)
    gradient: Tensor = product_op(narrow.t().contiguous(), wide.t(), None, SOURCE)
    return gradient.t().contiguous() if wide_out else gradient


def _product_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, str], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


product_op.register_autograd(_product_backward, setup_context=_product_context)
