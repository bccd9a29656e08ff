"""`turbomim analyze flatness`: how sharp the pre-training loss is around a run's weights.

The leading eigenvalues of the Hessian of the loss of fixed images behind fixed masks, with respect to every
trained weight, by Lanczos on exact products of the Hessian with vectors (a gradient differentiated again).
Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994; Ghorbani et al., arXiv:1901.10159.

Suffixes: N weights, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UsageError, UserError, to_stderr
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.analyze.lanczos import Ritz, lanczos
from turbomim.train.analyze.options import Flatness, need_run
from turbomim.train.analyze.result import TextTable, labels_of, prepare_folder, settings_of, write_analysis
from turbomim.train.encoder.features import load_run
from turbomim.train.loop.data import check_store, open_loader
from turbomim.train.machine.processor import cores
from turbomim.train.models.initial import fill, normal
from turbomim.train.models.mae import MAE
from turbomim.train.pictures.plot import COLOURS, SOFT, label_axes, new_figure
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import check_least, parse
from turbomim.train.world.distributed import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# weights of Ritz values below this are not drawn
LEAST_WEIGHT = 1e-9


def analyze_flatness_command(argv: list[str]) -> None:
    """`turbomim analyze flatness RUN [RUN …] --data SHARDS`.  Raises UserError."""
    options = parse(Flatness, argv, "turbomim analyze flatness")
    folder = options.folder
    for run in options.runs:
        need_run(run, "the loss is that of a run's own pre-training")
    check_least(
        images=(options.images, 1), batch=(options.batch, 1), steps=(options.steps, 2), top=(options.top, 1)
    )
    check_seed("--seed", options.seed)
    split, device = open_split(options.data), choose_device(options.device, 0)
    if options.images > split.manifest.samples:
        raise UsageError(f"--images {options.images}: {options.data} has {split.manifest.samples} samples")
    out = prepare_folder(folder, "flatness")
    results: dict[str, Any] = {}
    for run in options.runs:
        config, model, step = load_run(run)
        to_stderr(f"{run}: {options.steps} products with the Hessian of the loss of {options.images} images")
        batch = first_batch(config, split, options.images, device)
        try:
            found, loss = sharpness(model.to(device), batch, options)
        except ValueError as error:
            raise UserError(f"{run}: {error}; look at the losses in its metrics.jsonl") from error
        results[str(run)] = {
            "method": config.model.method,
            "target": config.model.target,
            "step": step,
            "weights": sum(p.numel() for p in trained_weights(model)),
            "loss": loss,
            "eigenvalues": found.values_S.tolist(),
            "error_bounds": found.bounds_S.tolist(),
            "density_weights": found.weights_S.tolist(),
        }
    labels = labels_of(options.runs)
    shown = min(options.top, *(len(run["eigenvalues"]) for run in results.values()))
    table = TextTable(
        title=f"Largest eigenvalues of the Hessian of the loss of {options.images} images (? not converged)",
        columns=["run", "loss", *(str(number + 1) for number in range(shown)), "lowest"],
        rows=[
            [label, f"{run['loss']:.3f}", *_cells(run, shown)]
            for label, run in zip(labels, results.values(), strict=True)
        ],
    )
    write_analysis(
        out,
        "flatness",
        runs=options.runs,
        settings=settings_of(options, fingerprint=split.manifest.fingerprint),
        results=results,
        table=table,
        draw=lambda: draw_spectra(labels, list(results.values()), shown),
    )


def _cells(run: dict[str, Any], shown: int) -> list[str]:
    pairs = list(zip(run["eigenvalues"], run["error_bounds"], strict=True))
    # what Lanczos knows to less than a hundredth is a question
    return [f"{v:.3g}{'?' * (bound > 0.01 * abs(v))}" for v, bound in (*pairs[:shown], pairs[-1])]


def first_batch(config: Config, split: Split, images: int, device: torch.device) -> Batch:
    """The first images of the run's stream over this split, as training gets them.  Raises UserError."""
    check_store(config.data, split, "--data", device.type)
    with open_loader(
        config,
        split,
        BatchCut(global_batch=images, micro_batch=images),
        LoaderSpeed(threads=cores(), readers=1, prefetch=1),
        device=device.type,
        notify=to_stderr,
    ) as loader:
        return next(loader)


def trained_weights(model: MAE) -> list[Tensor]:
    """The weights that training changes."""
    return [param for param in model.parameters() if param.requires_grad]


def sharpness(model: MAE, batch: Batch, options: Flatness) -> tuple[Ritz, float]:
    """Ritz values of the Hessian of the batch's loss, and the loss.  Raises ValueError: it is not finite."""
    # re-computed blocks would be computed four times
    model.recompute = False
    model.eval()
    count, params = len(batch.ids_B), trained_weights(model)

    def losses() -> Iterator[Tensor]:
        """Parts whose sum is the mean loss: every image has as many masked patches."""
        for start in range(0, count, options.batch):
            part = slice(start, start + options.batch)
            loss = model(batch.images_BHWC[part], batch.epochs_B[part], batch.ids_B[part])
            yield loss * (len(batch.ids_B[part]) / count)

    start_N = start_vector(model, options.seed)
    # the fused attention kernels have no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            loss = sum(float(part) for part in losses())
        return lanczos(hessian_product(losses, params), start_N, options.steps), loss


def start_vector(model: MAE, seed: int) -> Tensor:
    """A normal number for each trained weight, (N,) float32, drawn for it by the seed."""
    parts = []
    for name, param in model.named_parameters():
        if param.requires_grad:
            parts.append(torch.empty_like(param, memory_format=torch.contiguous_format))
            # other words than those of the initial weights, which the same seed may have drawn
            fill(parts[-1], normal(1.0), seed, f"flatness.{name}")
    return torch.cat([part.flatten() for part in parts]).detach()


def hessian_product(
    losses: Callable[[], Iterable[Tensor]], params: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """The function v (N,) to H v (N,), H the Hessian of the sum of the losses with respect to the params.

    Every call computes the losses anew, one at a time.
    """

    def product(vector_N: Tensor) -> Tensor:
        parts = torch.split(vector_N, [param.numel() for param in params])
        total_N = torch.zeros_like(vector_N)
        for loss in losses():
            gradients = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
            slope = sum(
                ((gradient.flatten() * part).sum() for gradient, part in zip(gradients, parts, strict=True)),
                torch.zeros_like(loss),
            )
            seconds = torch.autograd.grad(slope, params, materialize_grads=True)
            total_N += torch.cat([second.flatten() for second in seconds])
        return total_N

    return product


def draw_spectra(labels: list[str], runs: list[dict[str, Any]], shown: int) -> Figure:
    """The leading eigenvalues by rank, and of all that were found the weight each has in the spectrum."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    for number, (label, run) in enumerate(zip(labels, runs, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        values, bounds, weights = run["eigenvalues"], run["error_bounds"], run["density_weights"]
        left.errorbar(range(1, shown + 1), values[:shown], yerr=bounds[:shown], color=colour, marker="o",
                      markersize=4, linewidth=1.3, capsize=3, label=label)  # fmt: skip
        kept = [(v, w) for v, w in zip(values, weights, strict=True) if w > LEAST_WEIGHT]
        right.vlines(*zip(*[(v, LEAST_WEIGHT, w) for v, w in kept], strict=True), color=colour, linewidth=1.3)
        right.plot(*zip(*kept, strict=True), color=colour, marker="o", markersize=3.5, linestyle="none")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylim(bottom=min(0, left.get_ylim()[0]))
    left.legend(fontsize=8, frameon=False)
    right.axvline(0, color=SOFT, linewidth=0.8)
    right.set_yscale("log")
    label_axes(left, "rank", "eigenvalue of the Hessian")
    label_axes(right, "eigenvalue (Ritz value)", "share of the spectrum")
    return figure
