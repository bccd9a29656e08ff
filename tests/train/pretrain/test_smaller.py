"""Runs whose first images are smaller: what is seen, stopped and resumed around a border, and by two ranks.

Planted, each seen to fail the test named: the size of the step before
(`test_each_step_has_its_size_of_the_same_crops`), or of the process's own steps
(`test_stopped_around_a_border_it_goes_on_bit_for_bit`); no antialiasing, pixels cut instead of rounded
(`test_a_small_image_is_the_crop_resized`); the position's rank or micro-batch left in
(`test_ranks_and_micro_batches_change_nothing`); no compilation noted at a border, work to come at this
window's rate (`test_the_log_knows_what_a_step_of_each_size_takes`).
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runs import attempt, config_for, finish, launch, losses, outcome, quiet, records, run, wait_for
from torch import Tensor

from turbomim.pipeline.decoding.resize import FILTERS, resize
from turbomim.pipeline.loader import LoaderStats
from turbomim.train.folder import checkpoint
from turbomim.train.loop.log_window import LogWindow
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import mean_flops
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.pretrain.smaller import shrunk, shrunk_in_float
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import make_plan
from turbomim.train.world.distributed import World

STEPS, BORDERS = 20, (8, 14)


def small(trees: Path, runs: Path, sizes: str = "16:0.4,24:0.3", /, **sections: dict[str, Any]) -> Config:
    """Twenty steps of 8 samples: 8 of 16 pixels, 6 of 24, 6 of 32."""
    base: dict[str, dict[str, Any]] = {
        "data": {"sizes": sizes},
        "optim": {"steps": STEPS, "base_lr": 5e-3},
        "run": {"save_every": 1, "keep": 100},
    }
    return config_for(
        trees, runs, **{name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}
    )


@pytest.fixture(scope="module")
def whole(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell, with every checkpoint.  Do not change it."""
    runs = tmp_path_factory.mktemp("whole")
    run(small(trees, runs))
    return runs / "r"


def test_each_step_has_its_size_of_the_same_crops(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[int], Tensor]] = []
    forward = MAE.forward

    def watched(self: MAE, images_BHWC: Tensor, epochs_B: Tensor, ids_B: Tensor) -> Tensor:
        # the forward pass that memory is predicted from has no numbers
        if type(ids_B) is Tensor:
            seen.append((images_BHWC.shape[1], ids_B.tolist(), images_BHWC))
        return forward(self, images_BHWC, epochs_B, ids_B)

    monkeypatch.setattr(MAE, "forward", watched)
    runs: list[list[tuple[int, list[int], Tensor]]] = []
    for sizes in ("16:0.4,24:0.3", ""):
        seen.clear()
        config = small(trees, tmp_path / (sizes[:2] or "full"), sizes, data={"heldout": str(trees)})
        pretrain(config, console=quiet())
        runs.append(list(seen))
    ours, plain = runs
    # held-out images are of full size
    sides = [16] * 8 + [24] * 6 + [32] * 6
    assert [size for size, *_ in ours] == sides + [32] * (len(ours) - STEPS)
    assert len(ours) == len(plain) > STEPS
    for (size, ids, images), (_, same, crops) in zip(ours, plain, strict=True):
        assert ids == same
        assert torch.equal(images, crops if size == 32 else shrunk(crops, size, "bicubic"))


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_small_image_is_the_crop_resized(size: int, interpolation: Any) -> None:
    """On a CPU as stored photographs are; in float as Pillow resizes one channel of floats, rounded."""
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ours = shrunk(torch.from_numpy(crops), size, interpolation)
    assert ours.dtype == torch.uint8 and ours.shape == (3, size, size, 3) and ours.is_contiguous()
    assert np.array_equal(ours, [resize(crop, size, size, interpolation) for crop in crops])
    planes = crops.transpose(0, 3, 1, 2)
    in_float = shrunk_in_float(torch.from_numpy(planes), size, interpolation).numpy()
    for own, plane in zip(in_float.reshape(-1, size, size), planes.reshape(-1, 32, 32), strict=True):
        image = Image.fromarray(plane.astype(np.float32))
        right = np.asarray(image.resize((size, size), FILTERS[interpolation])).clip(0, 255)
        assert np.abs(own - right).max() <= 0.5 + 1e-3
    # of noise, where a bicubic overshoots most
    apart = np.abs(in_float.transpose(0, 2, 3, 1).astype(int) - ours.numpy())
    assert apart.max() <= 10 and apart.mean() < 0.3


def test_stopped_around_a_border_it_goes_on_bit_for_bit(whole: Path, trees: Path, tmp_path: Path) -> None:
    """From the checkpoints before, at and after each border."""
    for step in (1, *(border + more for border in BORDERS for more in (-1, 0, 1))):
        again = tmp_path / str(step) / "r"
        shutil.copytree(whole, again)
        for path in checkpoint.complete(again / "ckpt"):
            if checkpoint.read_state(path).step > step:
                shutil.rmtree(path)
        assert finish(launch(attempt, small(trees, again.parent))) == 0
        assert f"resumed from {again / 'ckpt'}" in (again / "train.log").read_text()
        assert outcome(again) == outcome(whole), step


def test_killed_and_resumed_it_is_the_same_run(whole: Path, trees: Path, tmp_path: Path) -> None:
    config = small(trees, tmp_path)
    for at in BORDERS:
        process = launch(attempt, config)
        wait_for(lambda: len(records(tmp_path / "r")) >= at, process)  # noqa: B023
        process.kill()
        process.join()
    assert finish(launch(attempt, config)) == 0
    assert outcome(tmp_path / "r") == outcome(whole)


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        (1, {"optim": {"micro_batch": 2}}),
        (2, {"optim": {"micro_batch": 2}}),
        (2, {"step": {"shard": True}}),
    ],
    ids=["accumulated", "2 ranks accumulated", "sharded"],
)
def test_ranks_and_micro_batches_change_nothing(
    whole: Path, trees: Path, tmp_path: Path, world: int, sections: dict[str, dict[str, Any]]
) -> None:
    run(small(trees, tmp_path, **sections), world)
    assert losses(tmp_path / "r") == pytest.approx(losses(whole), abs=1e-6, rel=0)


def test_the_log_knows_what_a_step_of_each_size_takes(trees: Path, tmp_path: Path, whole: Path) -> None:
    """MFU of the work that was done, the time of the work to come, and a compilation for every size."""
    config = small(trees, tmp_path, step={"compile": True})
    plan = make_plan(config, 33, 1)

    def window(steps: int, config: Config = config) -> LogWindow:
        made = LogWindow(config, plan, World(device=torch.device("cpu")), peak_flops=1e9)
        for _ in range(steps):
            made.add(*torch.zeros(3).unbind())
        return made

    def flops(*some: int) -> float:
        return mean_flops(config, STEPS, range(*some))

    # steps 7 to 10 of 20: two of 16 pixels, two of 24
    record = window(4).to_record(10, 0.1, LoaderStats())
    assert record["mfu"] == pytest.approx(record["img_per_s"] * flops(6, 10) / 1e9)
    assert flops(6, 10) == pytest.approx((flops(0, 8) + flops(8, 14)) / 2)
    assert record["eta_s"] == pytest.approx(record["step_ms"] / 1e3 * 10 * flops(10, 20) / flops(6, 10))
    firsts = {step: window(2).to_record(step, 0.1, LoaderStats())["first"] for step in range(2, 21)}
    # the two steps up to the 9th, or 10th, and to the 15th, or 16th, hold the first of their size
    assert [step for step, first in firsts.items() if first] == [9, 10, 15, 16]
    eager = dataclasses.replace(config, step=dataclasses.replace(config.step, compile=False))
    assert not window(2, eager).to_record(9, 0.1, LoaderStats())["first"]
    assert (
        "images of 16 pixels in steps 1 to 8, of 24 to step 14, of 32 to step 20"
        in (whole / "train.log").read_text()
    )
