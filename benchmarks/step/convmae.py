"""What does it save to compute ConvMAE's convolutions where patches are visible alone?

`python -m turbomim.benchmarks.step.convmae`: forward and backward from a uint8 batch in memory, with the
same weights and masks.  The textbook form computes all pixels, as the published code does, with maps in
torch's usual order and with channels last; ours the visible cells; each eager and through torch.compile.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from turbomim.benchmarks.step.textbook_convmae import TextbookConvMAE
from turbomim.benchmarks.step.textbook_mae import noise_of, normalised
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import alternate, report
from turbomim.train.loop.step import autocast
from turbomim.train.models.convmae import ConvMAE
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import choose_device

REFERENCE = "textbook"
# the most that losses may differ, as a share of the textbook's: float32, bfloat16
TOLERANCES = {"cpu": 1e-5, "cuda": 1e-2}

Loss = Callable[[], Tensor]


def losses(config: Config, batch: int, device: torch.device) -> dict[str, tuple[torch.nn.Module, Loss]]:
    """Every form: its model, for the gradients, and the loss of one random batch."""
    ours = ConvMAE(config).to(device)
    images_BHWC = torch.randint(0, 256, (batch, config.data.size, config.data.size, 3), dtype=torch.uint8)
    images_BHWC, ids_B = images_BHWC.to(device), torch.arange(batch, device=device)
    masks = ours.random_masking(torch.zeros_like(ids_B), ids_B)
    noise_BN = noise_of(*masks)

    def dense(form: torch.memory_format, compiled: bool) -> tuple[torch.nn.Module, Loss]:
        model = TextbookConvMAE(config)
        model.load_state_dict(ours.state_dict())
        # torch 2.11 has no annotation of it
        placed: Any = model.to(device)
        placed.to(memory_format=form)
        call = torch.compile(model) if compiled else model
        return model, lambda: call(normalised(images_BHWC).contiguous(memory_format=form), noise_BN)

    def visible(compiled: bool) -> tuple[torch.nn.Module, Loss]:
        call = torch.compile(ours, fullgraph=True, dynamic=False) if compiled else ours
        return ours, lambda: call(images_BHWC, torch.zeros_like(ids_B), ids_B, *masks)

    return {
        REFERENCE: dense(torch.contiguous_format, False),
        "textbook, channels last": dense(torch.channels_last, False),
        "visible cells": visible(False),
        "textbook compiled": dense(torch.contiguous_format, True),
        "textbook compiled, channels last": dense(torch.channels_last, True),
        "visible cells compiled": visible(True),
    }


def step(model: torch.nn.Module, loss_fn: Loss, config: Config, device: torch.device) -> float:
    """Forward and backward; the loss."""
    model.zero_grad(set_to_none=True)
    with autocast(config.step, device):
        loss = loss_fn()
    torch.autograd.backward(loss)
    return float(loss.detach())


def main() -> None:
    """Print one JSON line a form, and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", default="convmae-b-1600e", help="or fastconvmae-b-50e")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled forms")
    parser.add_argument("--depth", type=int, default=11, help="blocks of stage 3; fewer compile sooner")
    parser.add_argument("--decoder-depth", type=int, default=8)
    options = parser.parse_args()
    config = recipe(options.recipe)
    sizes = {"depth": options.depth, "decoder_depth": options.decoder_depth}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
    device = choose_device("auto", 0)
    forms = losses(config, options.batch, device)
    if options.eager:
        forms = {name: form for name, form in forms.items() if "compiled" not in name}
    # each compiles or warms up here
    found = {name: step(*form, config, device) for name, form in forms.items()}
    for name, loss in found.items():
        assert abs(loss / found[REFERENCE] - 1) < TOLERANCES[device.type], f"{name}: {found}"
    seconds = alternate(
        {name: partial(step, *form, config, device) for name, form in forms.items()}, options.rounds
    )
    rows: list[tuple[str, ...]] = [("form", "loss", "img/s", "times textbook")]
    for name, times in seconds.items():
        facts = {"recipe": options.recipe, "batch": options.batch, "loss": found[name], **sizes}
        print(report(f"convmae {name}", times, options.batch, seconds[REFERENCE], **facts), flush=True)
        ratio = statistics.median(base / own for base, own in zip(seconds[REFERENCE], times, strict=True))
        rate = f"{options.batch / statistics.median(times):.2f}"
        rows.append((name, f"{found[name]:.6f}", rate, f"{ratio:.2f}"))
    print(markdown_table(rows, words=2))


if __name__ == "__main__":
    main()
