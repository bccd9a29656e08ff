"""Where the time of a step goes: its kernels by torch's profiler, ours by NVIDIA's Nsight Compute."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

from turbomim.benchmarks.gpu.stage import Place, Row, attempt
from turbomim.benchmarks.gpu.steps import task_of
from turbomim.benchmarks.kernels.bench import pixmim
from turbomim.benchmarks.step.forms import turbomim
from turbomim.kernels.masked_patches import masked_patches
from turbomim.kernels.masking import random_masking
from turbomim.kernels.patch_target import TargetKind

# images of the kernels that Nsight Compute watches
BATCH: Final = 256
# kernels of a step that are named
TOP: Final = 20
KERNELS: Final = "regex:_masked_patches_kernel|_random_masking_kernel"
# name in the row: metric of ncu
METRICS: Final = {
    "us": "gpu__time_duration.sum",
    "read_bytes": "dram__bytes_read.sum",
    "written_bytes": "dram__bytes_write.sum",
    "dram_pct": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_pct": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps_pct": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}


def rows(place: Place) -> Iterator[Row]:
    """The step's first, then our kernels'."""
    yield from attempt("kernels of a step", lambda: step_kernels(place))
    yield from attempt("Nsight Compute", lambda: nsight(place))


def step_kernels(place: Place) -> Iterator[Row]:
    """The kernels that take most of three compiled ViT-B steps: their share, and launches a step."""
    task = task_of(place, "vit-base")
    step = turbomim(task)
    for _ in range(3):
        float(step())
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * place.on_gpu]
    with profile(activities=activities) as profiler:
        for _ in range(3):
            float(step())
    kind = "CUDA" if place.on_gpu else "CPU"
    times = [
        (event.key, event.self_device_time_total if place.on_gpu else event.self_cpu_time_total, event.count)
        for event in profiler.key_averages()
        if event.device_type.name == kind
    ]
    total = sum(time for _, time, _ in times)
    launches = sum(count for _, _, count in times) / 3
    yield {"name": "kernels of a step", "batch": task.batch, "us": total / 3, "launches": launches}
    for name, time, count in sorted(times, key=lambda row: -row[1])[:TOP]:
        yield {"name": f"kernel: {name[:120]}", "share": time / total, "us": time / 3, "launches": count / 3}


def nsight(place: Place) -> Iterator[Row]:
    """Time, bytes and occupancy of our kernels, as the hardware counts them."""
    if not place.on_gpu or shutil.which("ncu") is None:
        why = "ncu is not on the PATH" if place.on_gpu else "there is no GPU"
        yield {"name": "Nsight Compute", "why_not": why}
        return
    command = ["ncu", "--csv", "--print-units", "base", "--clock-control", "none", "--kernel-name", KERNELS]
    command += [
        "--metrics",
        ",".join(METRICS.values()),
        sys.executable,
        "-m",
        "turbomim.benchmarks.gpu.profiles",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stdout.splitlines()
    head = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if head is None:
        said = " ".join((done.stdout + done.stderr).split())[-300:]
        yield {"name": "Nsight Compute", "why_not": f"exit code {done.returncode}: {said}"}
        return
    found: dict[str, Row] = {}
    by_metric = {metric: name for name, metric in METRICS.items()}
    for line in csv.DictReader(lines[head:]):
        row = found.setdefault(line["ID"], {"name": f"counters: {line['Kernel Name']}"})
        value = float(line["Metric Value"].replace(",", ""))
        name = by_metric[line["Metric Name"]]
        # base units: nanoseconds
        row[name] = value / 1000 if name == "us" else value
    yield from found.values()


def main() -> None:
    """Launch the kernels twice, as MAE and PixMIM with ViT-B/16 do; at first they are compiled and cold."""
    images_BHWC = torch.randint(0, 256, (BATCH, 224, 224, 3), dtype=torch.uint8, device="cuda")
    ids_B = torch.arange(BATCH, device="cuda")
    targets: tuple[TargetKind, ...] = ("raw", "gaussian")
    for _ in range(2):
        masks = random_masking(0, ids_B * 0, ids_B, 196, 49)
        for target in targets:
            bfloat16 = torch.bfloat16
            masked_patches(images_BHWC, *masks, pixmim(target), dtype=bfloat16, target_dtype=bfloat16)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
