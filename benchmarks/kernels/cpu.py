"""Linear layers and attention on a CPU, in each form: `python -m turbomim.benchmarks.kernels.cpu`.

Prints JSON lines and two tables: GFLOP/s of a linear layer, forward and forward with backward, by torch's
BLAS, by oneDNN and in bfloat16; milliseconds of attention, compiled, forward with backward, in float32 and in
bfloat16 by torch's flash attention, and in bfloat16 by ours.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import alternate, emit, report
from turbomim.kernels.attention import attention
from turbomim.kernels.linear import linear, use_onednn

# rows, values in, values out: MLPs of ViT-Tiny, ViT-S, the decoder (both layers) and vit-t4
PRODUCTS: Final = (
    (784, 192, 768), (784, 384, 1536), (3152, 512, 2048), (3152, 2048, 512), (4352, 192, 768),
)  # fmt: skip
# batch, heads, tokens, width of a head: the decoder of 224 pixels, ViT-S's encoder, both of vit-t4
ATTENTIONS: Final = ((16, 16, 197, 32), (16, 6, 50, 64), (256, 3, 17, 64), (256, 3, 65, 32))


def with_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """A call of the function and of its gradients with respect to all inputs."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    grad = torch.randn_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def product_forms(rows: int, inside: int, outside: int) -> dict[str, Callable[[], object]]:
    """A linear layer forward and with its backward, by BLAS, oneDNN and in bfloat16."""
    inputs = [torch.randn(rows, inside), torch.randn(outside, inside), torch.randn(outside)]
    half = [each.bfloat16() for each in inputs]
    use_onednn(True)
    return {
        "BLAS": lambda: functional.linear(*inputs),
        "oneDNN": lambda: linear(*inputs),
        "bfloat16": lambda: linear(*half),
        "BLAS, with backward": with_backward(functional.linear, inputs),
        "oneDNN, with backward": with_backward(linear, inputs),
        "bfloat16, with backward": with_backward(linear, half),
    }


def attention_forms(batch: int, heads: int, tokens: int, width: int) -> dict[str, Callable[[], object]]:
    """Attention with its backward, compiled, from strides that a layer gives."""
    laid = torch.randn(batch, tokens, 3, heads, width)
    forms: dict[str, Callable[[], object]] = {}
    for name, function, dtype in (
        ("torch, float32", functional.scaled_dot_product_attention, torch.float32),
        ("torch, bfloat16", functional.scaled_dot_product_attention, torch.bfloat16),
        ("turbomim, bfloat16", attention, torch.bfloat16),
    ):
        compiled = torch.compile(function, fullgraph=True, dynamic=False)
        forms[name] = with_backward(compiled, list(laid.to(dtype).permute(2, 0, 3, 1, 4).unbind()))
    return forms


def main() -> None:
    """Time every shape; print lines, then tables."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each form")
    parser.add_argument("--out", type=Path, help="file for the JSON lines too; it is added to")
    options = parser.parse_args()
    tables: list[list[tuple[str, ...]]] = [[], []]
    for shape in PRODUCTS:
        seconds = alternate(product_forms(*shape), options.rounds)
        work = 2e-9 * shape[0] * shape[1] * shape[2]
        rates = {
            name: work * (3 if "backward" in name else 1) / statistics.median(each)
            for name, each in seconds.items()
        }
        for name, each in seconds.items():
            line = report(
                f"linear {shape}: {name}", each, 1, seconds["BLAS"], gflop_per_s=round(rates[name], 1)
            )
            emit(line, options.out)
        tables[0] = tables[0] or [("rows, in → out, GFLOP/s", *rates)]
        rows, inside, outside = shape
        tables[0].append((f"{rows}, {inside} → {outside}", *(f"{rate:.0f}" for rate in rates.values())))
    for sizes in ATTENTIONS:
        torch.compiler.reset()
        seconds = alternate(attention_forms(*sizes), options.rounds)
        for name, each in seconds.items():
            emit(report(f"attention {sizes}: {name}", each, 1, seconds["torch, bfloat16"]), options.out)
        tables[1] = tables[1] or [("batch, heads, tokens, width, ms", *seconds)]
        took = (f"{1e3 * statistics.median(each):.1f}" for each in seconds.values())
        tables[1].append((", ".join(str(number) for number in sizes), *took))
    for table in tables:
        print(f"\n{markdown_table(table, words=1)}")


if __name__ == "__main__":
    main()
