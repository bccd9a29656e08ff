"""How fast are masks, patches, targets and the loss?  `turbomim bench kernels [--static]`.

Each form on the same batch, in turn: ours as the training step runs it (on a GPU the Triton kernels, on a CPU
the compiled reference), the usual forms in eager torch, and what torch.compile makes of the references.
Before that, every form is compared with float64.  On a CPU only the ratios say anything.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.benchmarks.kernels import eager_targets, static
from turbomim.benchmarks.kernels.configurations import load_store_bytes
from turbomim.benchmarks.options import BenchKernels
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import alternate, report
from turbomim.kernels.masked_loss import masked_mse
from turbomim.kernels.masked_patches import masked_patches, masked_patches_ref
from turbomim.kernels.masking import random_masking, random_masking_ref
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD
from turbomim.train.settings.flags import parse

SIZE, PATCH, PATCHES, KEEP, RADIUS = 224, 16, 196, 49, 40.0
MASKED, VALUES = PATCHES - KEEP, PATCH * PATCH * 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One way to compute something."""

    name: str
    run: Callable[[], Any]
    # another filter beside ours, for its time only
    other: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Forms of one computation; the first is the baseline."""

    name: str
    forms: tuple[Form, ...]
    # the fewest bytes an image that DRAM must move
    floor: int
    # largest difference of a form's result from float64, and the most that is right
    error: Callable[[Any], float]
    tolerance: float


def bench_kernels_command(argv: Sequence[str]) -> None:
    """`turbomim bench kernels …`: JSON lines, then a table.  Raises UsageError, or RuntimeError if wrong."""
    options = parse(BenchKernels, list(argv), "turbomim bench kernels")
    if options.static:
        static.print_tables(markdown=options.markdown)
        return
    if options.rounds < 2 or options.batch < 0:
        raise UsageError(f"--rounds {options.rounds} --batch {options.batch}: at least 2 rounds, 1 image")
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    batch = options.batch or (256 if on_gpu else 64)
    copied = copy_bandwidth(device)
    rows: list[tuple[str, ...]] = [
        ("", "form", "us per 1,000 images", "times faster", "GB/s", "of a copy's", "error")
    ]
    for question in questions(device, batch):
        for line, row in measure(question, batch, options.rounds, 20 if on_gpu else 1, copied):
            print(line, flush=True)
            rows.append(row)
    print(markdown_table(rows if on_gpu else [(*row[:2], row[3], row[6]) for row in rows], words=2))


def questions(device: torch.device, batch: int) -> Iterator[Question]:
    """Everything that is measured."""
    images_BHWC = torch.randint(0, 256, (batch, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    ids_B = torch.arange(batch, device=device)
    keep_BK, mask_BM = random_masking(0, ids_B * 0, ids_B, PATCHES, KEEP)
    targets: tuple[TargetKind, ...] = ("raw", "gaussian", "ideal")
    for target in targets:
        yield target_question(target, images_BHWC, keep_BK, mask_BM)
    yield masking_question(ids_B)
    yield loss_question(device, batch)


def target_question(target: TargetKind, images_BHWC: Tensor, keep_BK: Tensor, mask_BM: Tensor) -> Question:
    """Visible patches and targets, normalised."""
    batch = (images_BHWC, keep_BK, mask_BM)
    # a CPU's products are in float32
    dtype = torch.bfloat16 if images_BHWC.is_cuda else torch.float32

    def eager(filtered: eager_targets.Filter) -> Callable[[], object]:
        return functools.partial(eager_targets.patches_and_targets, *batch, filtered, PATCH)

    settings: dict[str, Any] = {"target": pixmim(target), "dtype": dtype, "target_dtype": dtype}
    ours = functools.partial(masked_patches, **settings)
    usual = eager_targets.FILTERS[target](RADIUS)
    forms = [Form(name="eager", run=eager(usual)), Form(name="ours", run=compiled(ours, *batch))]
    if target != "raw":
        disc, other = eager(eager_targets.FILTERS["ideal"](RADIUS)), target == "gaussian"
        forms[:1] = [
            Form(name="FFT, eager", run=disc, other=other),
            Form(name="FFT, compiled", run=compiled(disc), other=other),
        ]
    if target == "gaussian":
        forms.append(Form(name="convolutions, eager", run=eager(usual)))
    if target == "ideal":
        forms.append(Form(name="DFT products, eager", run=eager(eager_targets.dft_products(RADIUS))))
    if images_BHWC.is_cuda:
        reference = functools.partial(masked_patches_ref, *batch, **settings)
        forms.append(Form(name="reference, compiled", run=compiled(reference)))

    images, keep, mask = (tensor[:4].cpu() for tensor in batch)
    exact = eager_targets.patches_and_targets(images, keep, mask, usual, PATCH, torch.float64)

    def error(result: tuple[Tensor, Tensor]) -> float:
        return max(difference(part[:4], right) for part, right in zip(result, exact, strict=True))

    floor = load_store_bytes(SIZE, KEEP, pixmim("raw"), dtype, dtype)[0]
    return Question(
        name=f"patches and targets, {target}",
        forms=tuple(forms),
        floor=floor,
        error=error,
        tolerance=2**-8 if dtype == torch.bfloat16 else 1e-3,
    )


def pixmim(kind: TargetKind) -> PatchTarget:
    """The target of MAE and PixMIM with patches of 16."""
    return PatchTarget(
        patch=PATCH, kind=kind, radius=RADIUS, norm_pix=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def masking_question(ids_B: Tensor) -> Question:
    """Patch numbers to keep and to remove."""
    arguments = (0, ids_B * 0, ids_B, PATCHES, KEEP)

    def noise_and_sort() -> tuple[Tensor, Tensor]:
        order_BN = torch.rand(len(ids_B), PATCHES, device=ids_B.device).argsort(dim=1)
        return order_BN[:, :KEEP].contiguous(), order_BN[:, KEEP:].contiguous()

    forms = [
        Form(name="noise and argsort, eager", run=noise_and_sort),
        Form(name="ours", run=compiled(random_masking, *arguments)),
    ]
    if ids_B.is_cuda:
        forms.append(Form(name="reference, compiled", run=compiled(random_masking_ref, *arguments)))

    def error(result: tuple[Tensor, Tensor]) -> float:
        """How many patches are missing or doubled."""
        every_BN = torch.cat(result, dim=1).sort(dim=1).values
        return float((every_BN != torch.arange(PATCHES, device=ids_B.device)).sum())

    return Question(
        name="random masking", forms=tuple(forms), floor=16 + 8 * PATCHES, error=error, tolerance=0
    )


def loss_question(device: torch.device, batch: int) -> Question:
    """The loss of a batch and its gradient."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pred_BMP, target_BMP = torch.randn(2, batch, MASKED, VALUES, device=device).to(dtype)
    pred_BMP.requires_grad_()

    def step(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        loss = loss_fn(pred_BMP, target_BMP)
        (gradient,) = torch.autograd.grad(loss, pred_BMP)
        return loss.detach(), gradient

    def eager(pred: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(pred.float(), target.float())

    gap = pred_BMP.detach().double() - target_BMP.double()
    exact, slope = gap.square().mean(), 2 * gap / gap.numel()

    def error(result: tuple[Tensor, Tensor]) -> float:
        return max(difference(result[0], exact), difference(result[1] * gap.numel(), slope * gap.numel()))

    ours = torch.compile(masked_mse, fullgraph=True, dynamic=False)
    return Question(
        name="loss and gradient",
        forms=(
            Form(name="eager", run=functools.partial(step, eager)),
            Form(name="ours", run=functools.partial(step, ours)),
        ),
        # prediction and target read, gradient written
        floor=3 * MASKED * VALUES * dtype.itemsize,
        error=error,
        tolerance=2**-8 if dtype == torch.bfloat16 else 1e-5,
    )


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """The function in one compiled graph, with its arguments."""
    # a function of its own each time: compiled under one name they would share one cache of graphs
    return functools.partial(
        torch.compile(functools.partial(function), fullgraph=True, dynamic=False), *arguments
    )


def difference(result: Tensor, exact: Tensor) -> float:
    """Largest difference, as a share of the exact value where that is above 1."""
    exact = exact.to(result.device)
    return float(((result.double() - exact).abs() / exact.abs().clamp(min=1)).max())


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes, the median of nine; 2 GB on a GPU, 256 MB on a CPU."""
    size = 2**31 if device.type == "cuda" else 2**28
    # zeros draw less power
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = alternate({"copy": lambda: target.copy_(source)}, 9)["copy"]
    return 2 * len(source) / statistics.median(seconds)


def measure(
    question: Question, batch: int, rounds: int, calls: int, copied: float
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A JSON line and a table's row of each form.

    `calls` in a row are one measurement: a GPU's launch takes as long as a small kernel.
    """
    errors: dict[str, float] = {}
    for form in question.forms:
        if not form.other:
            errors[form.name] = question.error(form.run())
        if errors.get(form.name, 0) > question.tolerance:
            raise RuntimeError(
                f"{question.name}, {form.name}: off by {errors[form.name]:.2g} from float64, more than "
                f"{question.tolerance:.2g}: not timed"
            )

    def repeated(form: Form) -> Callable[[], object]:
        return lambda: [form.run() for _ in range(calls)]

    seconds = alternate({form.name: repeated(form) for form in question.forms}, rounds)
    baseline = seconds[question.forms[0].name]
    for name, measured in seconds.items():
        middle = statistics.median(measured) / calls
        speed = question.floor * batch / middle
        ratio = statistics.median(b / m for b, m in zip(baseline, measured, strict=True))
        error = errors.get(name)
        line = report(
            f"{question.name}: {name}",
            measured,
            batch * calls,
            baseline,
            batch=batch,
            floor_bytes=question.floor,
            floor_gb_per_s=round(speed / 1e9, 2),
            copy_gb_per_s=round(copied / 1e9, 2),
            share_of_copy=round(speed / copied, 4),
            error_to_float64=error,
        )
        yield (
            line,
            (
                question.name,
                name,
                f"{middle / batch * 1e9:,.1f}",
                f"{ratio:.2f}",
                f"{speed / 1e9:,.1f}",
                f"{speed / copied:.0%}",
                "another filter" if error is None else f"{error:.1e}",
            ),
        )


if __name__ == "__main__":
    bench_kernels_command(sys.argv[1:])
