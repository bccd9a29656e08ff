"""Whose matrix products are fastest on this processor, and whether bfloat16's are: measured once, and kept.

torch has two libraries for float32 products on a CPU, its BLAS (MKL) and oneDNN; which is faster depends on
the processor and on torch's version.  bfloat16 is fast where the processor has instructions for it, as
AVX512-BF16 or AMX, and slower than float32 elsewhere.  A choice changes the last digits of a run, so it is
kept in cpu.json for this processor and torch, and later runs take the same.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.kernels.linear import ONEDNN, product_op, use_onednn
from turbomim.kernels.source import SOURCE
from turbomim.pipeline.system.errors import UserError
from turbomim.train.machine.measurements import MeasurementFile, machine_name
from turbomim.train.settings.config import AnyConfig, StepConfig
from turbomim.train.settings.precision import precision_name, uses_bfloat16
from turbomim.train.world.distributed import World

CPU: Final = torch.device("cpu")
CPU_FILE: Final = MeasurementFile(name="cpu.json", format="turbomim-cpu-1", made_by="the next run")
# rows, values in and values out of the products that are timed: an encoder's MLP at a small batch
SHAPE: Final = (784, 512, 2048)
# rounds, of which the quickest counts; a product that took so many seconds is not repeated
ROUNDS: Final = 7
SLOW: Final = 0.2
# BLAS is taken where it is this much faster: two equal ones must not be chosen between by chance
CLEARLY: Final = 1.15
# of a step in bfloat16 a third is no product, and casts are added: so much faster its products must be
WORTH: Final = 1.4


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuProducts:
    """Rates of matrix products of one core, GFLOP/s; onednn and bfloat16 are 0 where torch has no oneDNN."""

    blas: float
    onednn: float
    bfloat16: float

    @property
    def float32(self) -> Literal["blas", "onednn"]:
        """The library whose float32 products are taken."""
        return "onednn" if self.onednn and self.blas < CLEARLY * self.onednn else "blas"

    @property
    def float32_name(self) -> str:
        """That library for people."""
        return {"blas": "BLAS", "onednn": "oneDNN"}[self.float32]

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What `step.precision auto` is on this CPU."""
        rate = self.onednn if self.float32 == "onednn" else self.blas
        return precision_name(bfloat16=self.bfloat16 > WORTH * rate)

    def in_words(self) -> str:
        """As people read it."""
        return (
            f"matrix products on a core of this CPU, GFLOP/s: float32 {self.blas:.0f} by BLAS, "
            f"{self.onednn:.0f} by oneDNN, bfloat16 {self.bfloat16:.0f}"
        )


@functools.cache
def measure_products() -> CpuProducts:
    """Time a product in each form, in turn, for a second or two; once in a process.

    By the CPU time of one thread, which other programs on the machine hardly change.
    """
    rows, inside, outside = SHAPE
    x, weight, bias = torch.ones(rows, inside), torch.ones(outside, inside), torch.zeros(outside)
    half = [each.bfloat16() for each in (x, weight, bias)]
    forms: dict[str, Callable[[], Tensor]] = {"blas": lambda: functional.linear(x, weight, bias)}
    if ONEDNN:
        forms["onednn"] = lambda: product_op(x, weight, bias, SOURCE)
        forms["bfloat16"] = lambda: functional.linear(*half)
    seconds = dict.fromkeys(("blas", "onednn", "bfloat16"), float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for name, form in forms.items():
                if SLOW < seconds[name] < float("inf"):
                    continue
                begun = time.thread_time()
                form()
                seconds[name] = min(seconds[name], time.thread_time() - begun)
    finally:
        torch.set_num_threads(threads)
    work = 2e-9 * rows * inside * outside
    return CpuProducts(**{name: round(work / least, 1) for name, least in seconds.items()})


def kept_products() -> CpuProducts | None:
    """What was measured on this machine before, None if nothing was.  Raises UserError: a damaged file."""
    entry = CPU_FILE.read(_key())
    if entry is None:
        return None
    try:
        return CpuProducts(**{f.name: float(entry[f.name]) for f in dataclasses.fields(CpuProducts)})
    except (KeyError, TypeError, ValueError) as error:
        raise CPU_FILE.damaged(error) from error


def products_here() -> CpuProducts:
    """What was measured on this machine before, or now, and is not kept.

    Raises UserError: a damaged file.
    """
    return kept_products() or measure_products()


def keep_products(products: CpuProducts) -> None:
    """Let later runs on this machine take the same.  Raises UserError: the file cannot be written."""
    CPU_FILE.write(_key(), dataclasses.asdict(products))


def cpu_products() -> tuple[CpuProducts, str]:
    """What was measured here before, or now, and a note where that cannot be kept, else an empty one.

    Raises UserError: a damaged file.
    """
    products, note = kept_products(), ""
    if products is None:
        products = measure_products()
        try:
            keep_products(products)
        except UserError as error:
            note = f"the next run measures matrix products again: {error}"
    return products, note


def settle_products(config: AnyConfig, world: World) -> tuple[AnyConfig, list[str]]:
    """Use the fastest products of a CPU, and settle `step.precision`; every rank calls it.

    Returns the settings, and lines for the log; a GPU's are as they were.  Raises UserError: a damaged file.
    """
    if world.device.type != "cpu":
        return config, []
    products, note = world.broadcast_from_rank0(cpu_products)
    use_onednn(products.float32 == "onednn")
    about = [f"{products.in_words()}; kept in {CPU_FILE.path}", *([note] if note else [])]
    if config.step.precision != "auto":
        return config, about
    step = dataclasses.replace(config.step, precision=products.precision)
    about[0] += f"; step.precision auto is {products.precision}"
    return dataclasses.replace(config, step=step), about


def auto_is_bfloat16(device: torch.device) -> bool:
    """What `step.precision auto` is on a device.  Raises UserError: a damaged file."""
    if device.type == "cpu":
        return products_here().precision == "bfloat16"
    return uses_bfloat16(StepConfig(), device)


def _key() -> str:
    return f"{machine_name(CPU)}, torch {torch.__version__}"
