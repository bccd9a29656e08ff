"""Settings of the optimizer and of its schedule."""

import math
from dataclasses import dataclass
from typing import Literal

from turbomim.pipeline.system.errors import need

# as many as orthogonal.py has coefficients for; after these nothing changes
NS_STEPS = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer, its groups and its schedule."""

    # muon: the matrices inside the network by Muon, the rest by AdamW; lamb, lars: for batches above 8192
    name: Literal["adamw", "muon", "lamb", "lars"] = "adamw"
    # passes over the data
    epochs: float = 800
    # optimizer steps of the run, in place of epochs; 0 = as many as epochs take.  Warm-up and drop keep their
    # share of fewer passes, where they are not given
    steps: int = 0
    # passes with a rising lr
    warmup_epochs: float = 40
    # lr reached after warm-up = base_lr * global_batch / lr_batch
    base_lr: float = 1.5e-4
    # samples of the step that base_lr is for (MAE 256, SimMIM 512)
    lr_batch: int = 256
    # cosine: falls to min_lr; step: a tenth from lr_drop_epochs on (SimMIM's 800 epochs); wsd: falls to
    # min_lr over decay_epochs at the end, and a run can be prolonged
    schedule: Literal["cosine", "step", "wsd"] = "cosine"
    # lr at the end of cosine and wsd
    min_lr: float = 0.0
    # passes before the step schedule's drop, warm-up counted (SimMIM 700)
    lr_drop_epochs: float = 0.0
    # passes at the end over which the rate of wsd falls; 0 = a fifth of the run (arXiv:2405.18392)
    decay_epochs: float = 0.0
    # share of the full rate at which warm-up starts (MAE 0, PixMIM 1e-4 or 1e-9)
    warmup_start: float = 0.0
    # mae: by fractions of epochs, the full rate follows warm-up; mmengine (PixMIM, MFF): by whole steps, the
    # last one of warm-up has it
    warmup: Literal["mae", "mmengine"] = "mae"
    # not applied to vectors and biases
    weight_decay: float = 0.05
    # AdamW's and LAMB's decay of the mean of gradients
    beta1: float = 0.9
    # AdamW's and LAMB's decay of the mean of squared gradients
    beta2: float = 0.95
    # AdamW's and LAMB's addition to the denominator
    eps: float = 1e-8
    # decay of Muon's and LARS's momentum (as published 0.95 and 0.9)
    momentum: float = 0.95
    # Newton-Schulz steps of Muon's directions: fewer take less time, and bring singular values less near to 1
    ns_steps: int = 5
    # decay cls_token and mask_token too (MAE does, mmselfsup does not)
    decay_tokens: bool = True
    # gradients of a greater norm are scaled down to it (SimMIM 5); 0 = none are
    clip_grad: float = 0.0
    # decay a step of the weights' exponential moving average (0.999: over 1,000 steps or so); it is scored,
    # drawn and exported in their place, and training goes on with the weights; 0 = none
    ema: float = 0.0
    # do as SimMIM's code does where it means otherwise: the cosine counts from the first step, warm-up too, a
    # step has the rate of the one before, and position tables (a ViT's mask token too) decay
    published_slips: bool = False
    # samples of one optimizer step, over all ranks
    global_batch: int = 4096
    # samples of one forward and backward on one rank; 0 = global_batch / ranks
    micro_batch: int = 0
    # steps in a row, up to a log line, with a loss or gradient that is not finite, before the weights go back
    # to the last good checkpoint and the data since then is passed over
    max_skipped: int = 10

    def __post_init__(self) -> None:
        need(self.epochs > 0, "optim.epochs", self.epochs, "above 0")
        need(
            0 <= self.warmup_epochs <= self.epochs,
            "optim.warmup_epochs",
            self.warmup_epochs,
            f"0 to optim.epochs ({self.epochs:g}): fewer epochs need --optim.warmup_epochs, too",
        )
        need(self.steps >= 0, "optim.steps", self.steps, "0 (by epochs) or more")
        need(self.base_lr > 0, "optim.base_lr", self.base_lr, "above 0")
        need(0 <= self.warmup_start <= 1, "optim.warmup_start", self.warmup_start, "0 to 1")
        plain = self.schedule == "cosine" and not self.published_slips
        legal = "mae, with optim.schedule step or wsd, or optim.published_slips"
        need(self.warmup == "mae" or plain, "optim.warmup", self.warmup, legal)
        wsd = self.schedule == "wsd"
        legal = "false with optim.schedule wsd, which nobody published with them"
        need(not (wsd and self.published_slips), "optim.published_slips", "true", legal)
        need(self.global_batch >= 1, "optim.global_batch", self.global_batch, "at least 1")
        need(self.lr_batch >= 1, "optim.lr_batch", self.lr_batch, "at least 1 sample")
        remedy = "a small batch has a small one; give --optim.min_lr, or a larger --optim.base_lr"
        legal = f"0 to the rate after warm-up, {self.lr:g}: {remedy}"
        need(0 <= self.min_lr <= self.lr, "optim.min_lr", self.min_lr, legal)
        drop = self.lr_drop_epochs
        legal = f"above optim.warmup_epochs ({self.warmup_epochs:g}) with optim.schedule step"
        need(self.schedule != "step" or drop > self.warmup_epochs, "optim.lr_drop_epochs", drop, legal)
        room = self.epochs - self.warmup_epochs if wsd else math.inf
        legal = f"0 (a fifth of the run) to {room:g}, the epochs after warm-up"
        need(0 <= self.decay_epochs <= room, "optim.decay_epochs", self.decay_epochs, legal)
        need(0 <= self.ema < 1, "optim.ema", self.ema, "0 (no average) to below 1")
        need(self.clip_grad >= 0, "optim.clip_grad", self.clip_grad, "0 (off) or more")
        need(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        adapts = self.name not in ("lamb", "lars") or self.weight_decay > 0
        legal = f"above 0 with optim.name {self.name}, which scales the steps of decayed weights alone"
        need(adapts, "optim.weight_decay", self.weight_decay, legal)
        need(0 <= self.beta1 < 1, "optim.beta1", self.beta1, "0 to below 1")
        need(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "0 to below 1")
        need(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 to below 1")
        need(1 <= self.ns_steps <= NS_STEPS, "optim.ns_steps", self.ns_steps, f"1 to {NS_STEPS} steps")
        need(self.eps > 0, "optim.eps", self.eps, "above 0")
        need(self.micro_batch >= 0, "optim.micro_batch", self.micro_batch, "0 (automatic) or more")
        need(self.max_skipped >= 1, "optim.max_skipped", self.max_skipped, "at least 1 step")

    @property
    def lr(self) -> float:
        """Rate after warm-up."""
        return self.base_lr * self.global_batch / self.lr_batch

    @property
    def averaged(self) -> str:
        """What the weights of a run are, in words, where they are an average; empty where they are not."""
        return f"the moving average of the weights (optim.ema {self.ema:g})" if self.ema else ""

    @property
    def decay(self) -> float:
        """Passes over which the rate of wsd falls."""
        return self.decay_epochs or min(self.epochs / 5, self.epochs - self.warmup_epochs)
