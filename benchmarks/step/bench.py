"""How fast is the training step alone?  `turbomim bench step`.

On a synthetic batch that is in memory: ours, a textbook MAE in eager torch and through torch.compile, and
Hugging Face's ViTMAEForPreTraining, with the same weights, batch, masks, precision and AdamW.  Each runs in a
process of its own; first their losses are compared, then they are timed in turn, round by round.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import torch

from turbomim.benchmarks.options import BenchStep
from turbomim.benchmarks.step.forms import FORMS, IN_FLOAT32, OTHER_LOSS, USUAL, Task
from turbomim.benchmarks.step.process import FormProcess, Turn
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import emit, report
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.machine.cpu_products import auto_is_bfloat16
from turbomim.train.machine.matmul_rate import peak_flops
from turbomim.train.machine.predicted_memory import predicted_bytes
from turbomim.train.models.methods import flops_per_image
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.flags import parse
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.precision import precision_name, uses_bfloat16
from turbomim.train.world.distributed import choose_device

# patch, width, depth, heads
MODELS: Final = {
    "vit-tiny": (16, 192, 12, 3),
    "vit-small": (16, 384, 12, 6),
    "vit-base": (16, 768, 12, 12),
    "vit-large": (16, 1024, 24, 16),
    "vit-huge": (14, 1280, 32, 16),
    # of the CIFAR-10 recipes: --size 32 --decoder-width 96 --decoder-depth 2 --decoder-heads 3
    "vit-t4": (4, 192, 6, 3),
}
REFERENCE: Final = "textbook"
PEER: Final = "Hugging Face"

# the most that losses may differ from the textbook's, as a share of it: of the first step, and of those after
# updates, which turn rounding in small gradients into whole steps of AdamW
TOLERANCES: Final = {False: (1e-5, 1e-3), True: (1e-2, 3e-2)}


@dataclass(kw_only=True, slots=True)
class Row:
    """What is known of one form: `turns` grows; failure: why it is not in the rounds."""

    name: str
    losses: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    failure: str = ""

    @property
    def seconds(self) -> list[float]:
        """Of a step, in every round."""
        return [turn.seconds for turn in self.turns]

    @property
    def cpu_seconds(self) -> list[float]:
        """Of a step, in every round: what other programs on a busy machine change least."""
        return [turn.cpu_seconds for turn in self.turns]


def bench_step_command(argv: list[str]) -> None:
    """`turbomim bench step …`: JSON lines, then a table.  Raises UserError."""
    options = parse(BenchStep, argv, "turbomim bench step")
    if options.rounds < 2 or options.batch < 0 or options.seconds <= 0:
        raise UsageError(
            f"--rounds {options.rounds} --batch {options.batch} --seconds {options.seconds:g}: "
            "at least 2 rounds, 1 image and more than 0 seconds"
        )
    device = choose_device(options.device, 0)
    on_gpu = device.type == "cuda"
    usual = "vit-base,vit-large,vit-huge" if on_gpu else "vit-tiny,vit-small"
    models = _chosen("--models", options.models or usual, list(MODELS))
    names = _chosen("--forms", options.forms or ",".join(USUAL), list(FORMS))
    batch = options.batch or (256 if on_gpu else 16)
    if options.precision == "auto" and auto_is_bfloat16(device):
        options = dataclasses.replace(options, precision="bfloat16")
    if options.precision == "bfloat16" and not on_gpu and not options.forms:
        names.append(IN_FLOAT32)
    lines: list[tuple[str, ...]] = [HEADER]
    for model in models:
        task = Task(config=configure(model, options), batch=batch, device=device.type)
        rows = compare(task, list(dict.fromkeys([REFERENCE, *names])), options.rounds, options.seconds)
        for row in rows:
            if row.failure:
                print(f"{model}: {row.name}: {row.failure}", file=sys.stderr, flush=True)
        for text in json_lines(model, task, rows):
            emit(text, options.out)
        lines += table_rows(model, task, rows)
    print(markdown_table(lines, words=2))
    if not on_gpu:
        print(
            "\nIn brackets: the ratio of CPU times, for a machine that has other work too; there, set "
            "OMP_WAIT_POLICY=PASSIVE, or threads that spin count as work."
        )


def configure(model: str, options: BenchStep) -> Config:
    """A model's settings: MAE with three quarters of the patches masked."""
    patch, width, depth, heads = MODELS[model]
    return Config(
        data=DataConfig(size=options.size),
        model=ModelConfig(
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            decoder_width=options.decoder_width,
            decoder_depth=options.decoder_depth,
            decoder_heads=options.decoder_heads,
        ),
        step=StepConfig(device=options.device, precision=options.precision),
    )


def compare(task: Task, names: list[str], rounds: int, seconds: float) -> list[Row]:
    """Start every form, compare their losses, time those that agree.  The first is the reference.

    Raises RuntimeError if the reference does not run: then there is nothing to compare with.
    """
    rows = [Row(name=name) for name in names]
    bfloat16 = uses_bfloat16(task.config.step, torch.device(task.device))
    with ExitStack() as stack:
        processes = {}
        # one at a time: they would compile and allocate in each other's way
        for row in rows:
            processes[row.name] = stack.enter_context(FormProcess(row.name, task))
            try:
                row.losses = processes[row.name].losses()
            except RuntimeError as error:
                row.failure = f"not run: {error}"
                if row is rows[0]:
                    raise RuntimeError(f"{row.name}: {row.failure}") from error
                continue
            if row.name not in OTHER_LOSS:
                row.failure = disagreement(row.losses, rows[0].losses, bfloat16=bfloat16)
            said = ", ".join(f"{loss:.7f}" for loss in row.losses)
            print(f"{row.name}: losses {said}", file=sys.stderr, flush=True)
        for number in range(rounds):
            for row in (row for row in rows if not row.failure):
                try:
                    row.turns.append(processes[row.name].turn(seconds))
                except RuntimeError as error:
                    row.failure = f"failed in round {number + 1}: {error}"
    return rows


def disagreement(losses: list[float], reference: list[float], *, bfloat16: bool) -> str:
    """Why losses are not those of the reference, or an empty text."""
    first, later = TOLERANCES[bfloat16]
    for number, (loss, right) in enumerate(zip(losses, reference, strict=True), start=1):
        most = first if number == 1 else later
        # not a number is no agreement
        if not abs(loss - right) <= most * abs(right):
            return (
                f"wrong, not timed: loss {loss:.7f} in step {number}, the textbook's is {right:.7f} "
                f"(they may differ by {most:g} of it)"
            )
    return ""


def speed(task: Task, row: Row) -> float:
    """Images a second, the median of the rounds."""
    return task.batch / statistics.median(row.seconds)


def ratio(mine: list[float], other: list[float]) -> float | None:
    """How many times less than the other's, the median of the rounds; None where one has none."""
    ratios = [theirs / seconds for theirs, seconds in zip(other, mine, strict=False)]
    return statistics.median(ratios) if ratios else None


def in_bfloat16(task: Task, row: Row) -> bool:
    """Whether the matrix products of a form are in bfloat16."""
    return row.name != IN_FLOAT32 and uses_bfloat16(task.config.step, torch.device(task.device))


def utilisation(task: Task, row: Row) -> float | None:
    """Share of the device's rate of matrix products, where that is known."""
    peak = peak_flops(torch.device(task.device), bfloat16=in_bfloat16(task, row))
    return speed(task, row) * flops_per_image(task.config) / peak if peak else None


def predicted_gb(task: Task) -> float:
    """The memory of our step, as `turbomim pretrain --dry-run` says, GB."""
    bfloat16 = uses_bfloat16(task.config.step, torch.device(task.device))
    predicted = predicted_bytes(task.config, task.batch, bfloat16=bfloat16, recompute=False)
    return round(predicted.total / 1e9, 2)


def json_lines(model: str, task: Task, rows: list[Row]) -> list[str]:
    """One line a form that was timed in every round."""
    complete = [row for row in rows if row.turns and not row.failure]
    reference = rows[0]
    peer = next((row for row in complete if row.name == PEER), None)
    settings = dataclasses.asdict(task.config.model) | {"size": task.config.data.size}
    return [
        report(
            f"step, {model}: {row.name}",
            row.seconds,
            task.batch,
            reference.seconds,
            img_per_s=round(speed(task, row), 2),
            times_hugging_face=ratio(row.seconds, peer.seconds) if peer else None,
            cpu_times_faster=ratio(row.cpu_seconds, reference.cpu_seconds),
            cpu_times_hugging_face=ratio(row.cpu_seconds, peer.cpu_seconds) if peer else None,
            cpu_s_per_step=statistics.median(row.cpu_seconds),
            gflop_per_image=round(flops_per_image(task.config) / 1e9, 2),
            mfu=utilisation(task, row),
            peak_gb=round(max(turn.peak_bytes for turn in row.turns) / 1e9, 2),
            predicted_gb=predicted_gb(task) if row.name.startswith("turbomim") else None,
            batch=task.batch,
            precision=precision_name(bfloat16=in_bfloat16(task, row)),
            losses=row.losses,
            model=settings,
        )
        for row in complete
    ]


HEADER: Final = (
    "model", "step", "img/s (range)", f"× {REFERENCE}", f"× {PEER}", "GFLOP/s", "MFU", "memory, GB", "loss",
)  # fmt: skip


def table_rows(model: str, task: Task, rows: list[Row]) -> list[tuple[str, ...]]:
    """As people read it."""
    peer = next((row for row in rows if row.name == PEER), None)

    def times(row: Row, other: Row | None) -> str:
        value = ratio(row.seconds, other.seconds) if other else None
        in_cpu = ratio(row.cpu_seconds, other.cpu_seconds) if other else None
        if value is None or in_cpu is None:
            return ""
        return f"{value:.2f}" if task.device == "cuda" else f"{value:.2f} ({in_cpu:.2f})"

    found: list[tuple[str, ...]] = []
    for row in (row for row in rows if row.turns):
        speeds = [task.batch / seconds for seconds in row.seconds]
        share = utilisation(task, row)
        found.append(
            (
                model,
                row.name,
                f"{speed(task, row):,.1f} ({min(speeds):,.1f} to {max(speeds):,.1f})",
                times(row, rows[0]),
                times(row, peer),
                f"{speed(task, row) * flops_per_image(task.config) / 1e9:,.0f}",
                "" if share is None else f"{share:.0%}",
                f"{max(turn.peak_bytes for turn in row.turns) / 1e9:.2f}",
                f"{row.losses[0]:.6f}",
            )
        )
    return found


def _chosen(flag: str, text: str, known: list[str]) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in known]:
        raise UsageError(f"{flag} has {unknown[0]!r}: choose among {', '.join(known)}")
    return words


if __name__ == "__main__":
    bench_step_command(sys.argv[1:])
