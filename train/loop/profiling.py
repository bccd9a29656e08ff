"""Where the time of a step goes: `turbomim pretrain … --profile steps=10:15`.

Writes a trace for chrome://tracing or Perfetto and a page of text.  On a GPU the host waits for the device
after every part while a profile is taken, so that each part's time is its own; what otherwise goes on at the
same time then adds up, and these steps are slower than others.
"""

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from torch.profiler import ProfilerActivity, record_function

from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.words import counted

Part = Literal["wait", "forward", "backward", "optimizer"]

PREFIX = "turbomim."
# names of the fused kernels' ops on a CPU, and within the names of their kernels on a GPU
KERNELS = ("masked_patches", "random_masking", "ideal_patches", "_product_kernel")


def parse_steps(text: str) -> range:
    """`steps=10:15` to the 10th to 15th step of a process, both counted.  Raises UsageError."""
    match = re.fullmatch(r"steps=(\d+):(\d+)", text)
    steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
    if not steps or steps.start < 1:
        raise UsageError(
            f"--profile {text}: must be steps=FIRST:LAST, counted from 1 when the process starts, "
            "steps=10:15 for example"
        )
    return steps


@contextmanager
def part(name: Part) -> Iterator[None]:
    """A named part of the step in a profile; nothing outside one."""
    if not torch._C._autograd._profiler_enabled():
        yield
        return
    with record_function(PREFIX + name):
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()


# what each part of a breakdown is, and what makes it shorter
ABOUT = {
    "wait: read": "blocked until samples were read",
    "wait: decode": "blocked until they were decoded and cropped",
    "wait: copy": "hand-over of this batch, feeding the next",
    "kernel": "masks, patches and targets",
    "forward": "model and loss",
    "backward": "gradients, and their exchange between ranks",
    "optimizer": "finite check and update",
    "other": "waiting for other ranks, and the loop itself",
}
REMEDIES = {
    "wait: read": "`turbomim tune loader` measures what reads fastest here",
    "wait: decode": "more --data.threads, or `turbomim shard make --store resized`, decode faster",
    "wait: copy": "a larger --optim.micro-batch makes fewer hand-overs",
    "kernel": "`turbomim bench kernels` measures them, beside other forms",
    "forward": "`turbomim tune step` measures which micro-batch and compile mode are fastest here",
    "backward": "`turbomim tune step` measures which micro-batch and compile mode are fastest here",
    "optimizer": "a larger --optim.global-batch, with its lr, takes fewer of them",
    "other": "of several ranks another one's data comes later, see `wait` in the log; on one rank a larger "
    "--optim.global-batch, with its lr, makes fewer rounds",
}


def breakdown(
    parts: Mapping[str, float], kernels: float | None, *, step: float, reading: float, decoding: float
) -> dict[str, float]:
    """Parts that add up to the step, in its unit, by the names of ABOUT.

    parts: the step's `Part`s; kernels: time of the fused kernels, within the forward, None where they are
    compiled into it and cannot be told apart; reading and decoding: within the wait.
    """
    found = {
        "wait: read": reading,
        "wait: decode": decoding,
        "wait: copy": parts["wait"] - reading - decoding,
        "kernel": kernels or 0.0,
        "forward": parts["forward"] - (kernels or 0.0),
        "backward": parts["backward"],
        "optimizer": parts["optimizer"],
        "other": step - sum(parts.values()),
    }
    if kernels is None:
        del found["kernel"]
    # clocks differ by microseconds
    return {name: max(0.0, value) for name, value in found.items()}


def page(found: Mapping[str, float], *, steps: int, step_ms: float, images: int) -> str:
    """A breakdown in milliseconds as text, and one line that names the largest part."""
    about = (
        ABOUT if "kernel" in found else ABOUT | {"forward": "model and loss, the kernels compiled into it"}
    )
    rows = [
        f"  {name:<12}{ms:>9.2f} ms{100 * ms / step_ms:>6.1f} %  {about[name]}" for name, ms in found.items()
    ]
    largest = max(found, key=found.__getitem__)
    head = (
        f"profile: the mean of {counted(steps, 'step')} of {counted(images, 'image')} is {step_ms:.2f} ms, "
        f"{1000 * images / step_ms:,.1f} img/s on this rank"
    )
    share = 100 * found[largest] / step_ms
    return "\n".join([head, *rows, f"largest: {largest}, {share:.0f} % of the step; {REMEDIES[largest]}"])


class Profile:
    """Profiles some steps of one process, or none; `close` ends it."""

    def __init__(self, steps: range, folder: Path, images: int, say: Callable[[str], None]) -> None:
        self._steps, self._folder, self._images, self._say = steps, folder / "profile", images, say
        # steps that this process has taken, profiled or not
        self._taken = 0
        self._seconds = self._begun = 0.0
        self._stats = LoaderStats()
        self._profiler: torch.profiler.profile | None = None

    def begin(self, stats: LoaderStats) -> None:
        """Before the step's data is asked for; a run may stop after that, without the step."""
        if self._steps and self._taken + 1 == self._steps.start:
            self._stats = stats
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            # a full collection takes up to a second, and would be `other` of one of these few steps
            gc.collect()
            self._profiler.start()
        self._begun = time.perf_counter()

    def end(self, stats: LoaderStats) -> None:
        """After the optimizer.  Raises UserError, on this rank alone, if the profile cannot be written."""
        self._taken += 1
        if self._profiler is None:
            return
        self._seconds += time.perf_counter() - self._begun
        if self._taken == self._steps[-1]:
            self._profiler.stop()
            self._write(self._profiler, stats)
            self._profiler = None

    def close(self) -> None:
        """End a profile that is under way, and say so where the process ended before its steps did."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
        if self._steps and self._taken < self._steps[-1]:
            self._say(
                f"no profile: this process took {counted(self._taken, 'step')}, and --profile asks for steps "
                f"{self._steps[0]} to {self._steps[-1]}"
            )

    def _write(self, profiler: torch.profiler.profile, stats: LoaderStats) -> None:
        number = len(self._steps)
        parts, kernels = times(profiler)
        step_ms = 1000 * self._seconds / number
        found = breakdown(
            {name: ms / number for name, ms in parts.items()},
            None if kernels is None else kernels / number,
            step=step_ms,
            reading=1000 * (stats.read_wait_s - self._stats.read_wait_s) / number,
            decoding=1000 * (stats.decode_wait_s - self._stats.decode_wait_s) / number,
        )
        text = page(found, steps=number, step_ms=step_ms, images=self._images)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "breakdown.txt").write_text(text + "\n", encoding="utf-8")
            profiler.export_chrome_trace(str(self._folder / "trace.json"))
        except OSError as error:
            raise write_error(self._folder, error) from error
        for line in text.splitlines():
            self._say(line)
        self._say(
            f"the same is in {self._folder}/breakdown.txt; https://ui.perfetto.dev shows trace.json beside it"
        )


def times(profiler: torch.profiler.profile) -> tuple[dict[str, float], float | None]:
    """Milliseconds of each `Part`, and of the fused kernels where they can be told apart, over all steps."""
    parts = dict.fromkeys(get_args(Part), 0.0)
    kernels = 0.0
    for event in profiler.key_averages():
        on_host = event.device_type.name == "CPU"
        if on_host and event.key.startswith(PREFIX):
            parts[event.key.removeprefix(PREFIX)] += event.cpu_time_total / 1000
        elif any(name in event.key for name in KERNELS):
            # on a GPU the ops only launch; their kernels are events of their own
            if not on_host:
                kernels += event.self_device_time_total / 1000
            elif not torch.cuda.is_available() and event.key.startswith("turbomim::"):
                kernels += event.cpu_time_total / 1000
    return parts, kernels or None
