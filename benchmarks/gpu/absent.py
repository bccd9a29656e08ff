"""A GPU that this machine has not: models on "cuda" that have shapes and no numbers, and their gradients.

torch's tensors without storage (FakeTensorMode) can be on any device.  Three parts of torch ask the driver
all the same, and get their answer here: autocast, the choice of an attention kernel, and the engine of
backward.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

CUDA = torch.device("cuda", 0)
# what a fused attention kernel needs of a head's width
_HEAD_STEP, _HEAD_MOST = 8, 256


@contextlib.contextmanager
def absent_gpu() -> Iterator[FakeTensorMode]:
    """Let tensors be without storage, and torch take CUDA_0 for a GPU of sm_80 or newer."""
    with contextlib.ExitStack() as patches:
        for where, name, what in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (nn.functional, "scaled_dot_product_attention", attention),
            (torch.autograd, "backward", backward),
            (torch.autograd, "grad", gradients),
            # one pass: what is computed again is computed once
            (torch._C, "_current_graph_task_id", lambda: 0),
        ):
            patches.enter_context(mock.patch.object(where, name, what))
        yield patches.enter_context(FakeTensorMode())


def moved(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the GPU, as `model.to` moves them, without storage.

    Call it inside `absent_gpu`.  The model is a real one: some code reads numbers while it makes a model.
    """
    # torch has no annotation of it
    return model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA))  # type: ignore[no-untyped-call,no-any-return]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """What `scaled_dot_product_attention` runs on sm_80: flash attention, or with a mask the efficient one.

    Raises RuntimeError where there is a head that neither can do.
    Source: select_sdp_backend of torch's sdp_utils.cpp.  sm_90 may have cuDNN's in the place of either.
    """
    tensors = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    if torch.is_autocast_enabled("cuda"):
        tensors = [tensor.to(torch.get_autocast_dtype("cuda")) for tensor in tensors]
    query, key, value, *masks = tensors
    if query.shape[-1] % _HEAD_STEP or query.shape[-1] > _HEAD_MOST:
        raise RuntimeError(
            f"a head of {query.shape[-1]} has no fused attention: torch would take the slow one"
        )
    if not masks and query.dtype in (torch.bfloat16, torch.float16):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out: Tensor = flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return out
    mask = masks[0].expand(*query.shape[:3], key.shape[2]) if masks else None
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    out = efficient(query, key, value, mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]
    return out


def backward(tensors: Tensor, *_: object, **__: object) -> None:
    """What torch.autograd.backward does for one number: add gradients to the parameters' `grad`."""
    run_backward({get_gradient_edge(tensors): torch.ones_like(tensors)}, ())


def gradients(
    outputs: Iterable[Tensor], inputs: Iterable[Tensor], grad_outputs: Iterable[Tensor], **_: object
) -> tuple[Tensor | None, ...]:
    """What torch.autograd.grad does."""
    edges = [get_gradient_edge(tensor) for tensor in inputs]
    arrived = run_backward(dict(zip(map(get_gradient_edge, outputs), grad_outputs, strict=True)), edges)
    return tuple(arrived.get(edge.node, {}).get(edge.output_nr) for edge in edges)


@torch.no_grad()
def run_backward(
    roots: dict[GradientEdge, Tensor], ends: Iterable[GradientEdge]
) -> dict[Node, dict[int, Tensor]]:
    """Run the graph behind `roots`, node by node, the latest first, and return what arrived at `ends`.

    As torch's engine, but for streams and hooks: gradients of one place are added, and get the shape and the
    dtype that the forward pass had there.
    """
    last = {edge.node for edge in ends}
    waits = _uses({edge.node for edge in roots}, last)
    arrived: defaultdict[Node, dict[int, Tensor]] = defaultdict(dict)
    for edge, gradient in roots.items():
        _add(arrived[edge.node], edge.output_nr, gradient, edge.node)
    ready = [node for node in {edge.node for edge in roots} if not waits[node]]
    while ready:
        node: Any = max(ready, key=lambda node: node._sequence_nr())
        ready.remove(node)
        if node in last:
            continue
        came = arrived.pop(node, {})
        made = node(*(came.get(number) for number in range(len(node._input_metadata)))) if came else ()
        made = made if isinstance(made, tuple) else (made,)
        for number, (behind, place) in enumerate(node.next_functions):
            if behind is None:
                continue
            if number < len(made) and made[number] is not None:
                _add(arrived[behind], place, made[number], behind)
            waits[behind] -= 1
            if not waits[behind]:
                ready.append(behind)
    return arrived


def _uses(nodes: set[Node], last: set[Node]) -> Counter[Node]:
    """How often each node behind these gets a gradient; what is behind `last` does not count."""
    uses: Counter[Node] = Counter()
    found, new = set(nodes), list(nodes)
    while new:
        node = new.pop()
        behind = [] if node in last else [other for other, _ in node.next_functions if other is not None]
        uses.update(behind)
        new += {*behind} - found
        found.update(behind)
    return uses


def _add(there: dict[int, Tensor], place: int, gradient: Tensor, node: Any) -> None:
    has = node._input_metadata[place]
    if list(gradient.shape) != list(has.shape):
        gradient = gradient.sum_to_size(list(has.shape))
    gradient = gradient.to(has.dtype)
    there[place] = there[place] + gradient if place in there else gradient
