"""Look at every operation of torch in a step, and raise at the first that a GPU would suffer from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from turbomim.kernels import ideal, masked_patches, masking

# torch's products, which tensor cores do in bfloat16
PRODUCTS = {
    "addbmm", "addmm", "addmv", "baddbmm", "bmm", "convolution", "convolution_backward", "dot", "mm", "mv",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward",
}  # fmt: skip
COPIES = {"_to_copy", "copy_"}
INDEXED = {"index", "index_put", "index_put_"}


class Fault(AssertionError):
    """An operation that is wrong or slow on a GPU."""


class Watch(TorchDispatchMode):
    """Counts operations by name, Triton kernels and what our own do too; a context manager.

    Raises Fault where tensors of the host and of the GPU meet, where the host waits for a number of the
    GPU's, and where a product is not in bfloat16.  Copies from pinned memory that do not block may be.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self._pinned: list[Tensor] = []
        for module in (ideal, masked_patches, masking):
            patch.setattr(module, "wrap_triton", lambda kernel: _Launch(kernel, self.counts))
        ops = (masked_patches.masked_patches_op, masking.random_masking_op)
        # what they do, which torch hides from whoever looks from outside
        self._bodies: dict[str, Callable[..., Any]] = {op._qualname: op._init_fn for op in ops}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        space, name, *_ = str(func.name()).replace("::", ".").split(".")
        self.counts[name] += 1
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "_pin_memory":
            # torch has it for tensors with storage alone
            self._pinned.append(torch.empty_like(taken[0]))
            return self._pinned[-1]
        pinned = name in COPIES and bool(kwargs.get("non_blocking"))
        pinned = pinned and any(tensor is source for tensor in self._pinned for source in taken)
        if not pinned:
            _on_one_device(name, taken)
        if any(tensor.is_cuda for tensor in taken) and _waits(name, func.tags, args):
            raise Fault(f"{name}: the host waits for what the GPU finds")
        if name in PRODUCTS:
            # those behind are what attention kept, in float32 too
            factors = {str(leaf.dtype) for leaf in args[:4] if isinstance(leaf, Tensor)}
            if factors != {"torch.bfloat16"}:
                raise Fault(f"{name}: a product of {', '.join(sorted(factors))}")
        if body := self._bodies.get(f"{space}::{name}"):
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs)
        if not pinned:
            _on_one_device(name, (*taken, *tree_leaves(out)))
        return out


class _Launch:
    """In place of a Triton kernel: is counted, and looks at where its tensors are."""

    def __init__(self, kernel: Any, counts: Counter[str]) -> None:
        self.name, self.counts = str(kernel.fn.__name__), counts

    def __getitem__(self, grid: tuple[int, ...]) -> Self:
        assert 1 <= len(grid) <= 3 and min(grid) > 0
        return self

    def __call__(self, *arguments: object, **constants: object) -> None:
        self.counts[self.name] += 1
        floating = {leaf.dtype for leaf in arguments if isinstance(leaf, Tensor) and leaf.is_floating_point()}
        self.counts.update(f"{self.name} {dtype}" for dtype in floating)
        if not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in arguments):
            raise Fault(f"{self.name}: no tensor on the GPU")
        _on_one_device(self.name, arguments)


def _on_one_device(name: str, leaves: Iterable[object]) -> None:
    devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
    if len(devices) > 1:
        raise Fault(f"{name}: tensors on {' and '.join(sorted(devices))}")


def _waits(name: str, tags: Iterable[torch.Tag], args: tuple[Any, ...]) -> bool:
    """Whether an operation's result, or its size, is only known once the GPU is done."""
    if name in INDEXED:
        # a mask of bools is turned into as many numbers as it has
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(tags)
