"""What is measured between two log lines, without making the device wait."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from turbomim.pipeline.loader import LoaderStats
from turbomim.train.folder.checkpoint import State
from turbomim.train.folder.log import Record
from turbomim.train.loop.data_wait import DataWait
from turbomim.train.machine.memory import peak_bytes
from turbomim.train.models.methods import mean_flops
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import Plan
from turbomim.train.world.distributed import World


@dataclass(slots=True)
class LogWindow:
    """The steps since the last log line; their numbers stay on the device until somebody asks.

    A window that an earlier process began is resumed with its counts; its times start anew.
    """

    config: Config
    plan: Plan
    world: World
    # FLOP/s of a rank that MFU is a share of, where it is known
    peak_flops: float | None
    # whether it holds this process's first step, and so the compilation; one more comes with every size of
    # data.sizes
    holds_compile: bool = False
    # the loader's when the window began
    stats_at_begin: LoaderStats = field(default_factory=LoaderStats)
    begun: float = field(default_factory=time.perf_counter)
    steps: int = 0
    # those of them that an earlier process took, and the samples that all ranks replaced there
    earlier_steps: int = 0
    earlier_replaced: int = 0
    wait: DataWait = field(init=False)
    # sum of the losses that count, steps skipped, skipped in a row up to now, last gradient norm
    numbers: Tensor = field(default_factory=lambda: torch.zeros(4))

    def __post_init__(self) -> None:
        self.wait = DataWait(self.world.device)

    def add(self, loss: Tensor, norm: Tensor, skipped: Tensor) -> None:
        """Count a step.  A skipped one leaves the loss out."""
        self.steps += 1
        total, count, row, _ = self.numbers.to(loss.device, non_blocking=True).unbind()
        row = (row + 1) * skipped
        total = total + torch.where(skipped > 0, 0.0, loss)
        self.numbers = torch.stack([total, count + skipped, row, norm])

    @property
    def own_steps(self) -> int:
        """Those that this process took."""
        return self.steps - self.earlier_steps

    def to_record(self, step: int, lr: float, stats: LoaderStats) -> Record:
        """The log record of the window that ends with `step`.  It waits for the device.

        Every rank comes here.  Waits are those of the rank that waited longest, as the others wait for it.
        The steps' own is the device's; those of the loader's stages are the host's, which may be longer.
        """
        begin = self.stats_at_begin
        ranks = self.world.all_gather(
            [
                self.wait.seconds(),
                stats.read_wait_s - begin.read_wait_s,
                stats.decode_wait_s - begin.decode_wait_s,
                stats.augment_wait_s - begin.augment_wait_s,
                stats.replaced - begin.replaced,
                peak_bytes(self.world.device),
            ]
        )
        wait_s, read_s, decode_s, augment_s, *_ = max(ranks)
        *_, replaced, memory = zip(*ranks, strict=True)
        loss, skipped, row, norm = self.numbers.tolist()
        counted = self.steps - skipped
        elapsed = time.perf_counter() - self.begun
        rate = self.own_steps * self.plan.global_batch / elapsed
        rank_rate = rate / self.world.size
        position = step * self.plan.global_batch
        own = range(step - self.own_steps, step)
        return {
            "step": step,
            "steps": self.plan.steps,
            "position": position,
            "epoch": position / self.plan.samples,
            # NaN if all steps were skipped
            "loss": loss / counted if counted else math.nan,
            "lr": lr,
            "grad_norm": norm,
            "img_per_s": rate,
            "img_per_s_per_gpu": rank_rate,
            "data_wait_pct": 100 * wait_s / elapsed,
            "read_wait_pct": 100 * read_s / elapsed,
            "decode_wait_pct": 100 * decode_s / elapsed,
            "augment_wait_pct": 100 * augment_s / elapsed,
            "replaced": self.earlier_replaced + int(sum(replaced)),
            "step_ms": 1000 * elapsed / self.own_steps,
            "mfu": rank_rate * self._flops(own) / self.peak_flops if self.peak_flops else None,
            "memory_gib": max(memory) / 2**30,
            "skipped": int(skipped),
            "skipped_in_a_row": int(row),
            "window": self.steps,
            "first": self.holds_compile or self._begins_size(own),
            "eta_s": (self.plan.steps - step) * self._longer(own) * elapsed / self.own_steps,
        }

    def _flops(self, some: range) -> float:
        """Of an image in the mean over some steps, forward and backward."""
        return mean_flops(self.config, self.plan.steps, some)

    def _longer(self, own: range) -> float:
        """The time of a step to come in steps of this window: larger images take longer."""
        if not self.config.data.sizes:
            return 1.0
        return self._flops(range(own.stop, self.plan.steps)) / self._flops(own)

    def _begins_size(self, own: range) -> bool:
        """Whether images of another size came in the window's steps, and with them a compilation."""
        stages = self.config.data.stages(self.plan.steps)
        return self.config.step.compile and any(stage.steps.start in own for stage in stages[1:])

    def resume(self, state: State) -> None:
        """Go on with the window of an earlier process."""
        self.steps = self.earlier_steps = state.window_steps
        self.earlier_replaced = state.window_replaced
        # within a row of skipped steps there is no checkpoint to go on from
        self.numbers = torch.tensor([state.window_loss, state.window_skipped, 0.0, 0.0])

    def checkpoint_fields(self, stats: LoaderStats) -> dict[str, Any]:
        """What a checkpoint keeps of it, by the names in `State`; every rank comes here."""
        loss, skipped, *_ = self.numbers.tolist()
        replaced = self.world.all_gather([stats.replaced - self.stats_at_begin.replaced])
        return {
            "window_steps": self.steps,
            "window_loss": loss,
            "window_skipped": int(skipped),
            "window_replaced": self.earlier_replaced + int(sum(count for (count,) in replaced)),
        }

    @property
    def in_a_row(self) -> int:
        """Steps in a row, up to the last one, that were skipped; waits for the device."""
        return int(self.numbers[2])

    def next(self, stats: LoaderStats) -> LogWindow:
        """An empty window; a row of skipped steps goes on."""
        numbers = torch.zeros_like(self.numbers)
        numbers[2] = self.numbers[2]
        return LogWindow(
            self.config, self.plan, self.world, self.peak_flops, stats_at_begin=stats, numbers=numbers
        )

    def forget_row(self) -> None:
        """The weights are others now: no skipped step lies behind them."""
        self.numbers[2] = 0.0
