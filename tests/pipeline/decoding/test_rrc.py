"""The random resized crop: windows against torchvision's own search, distributions, pixels, settings."""

# DALI does not type its Pipeline
# mypy: allow-untyped-calls

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from rich.console import Console
from tests.pipeline.decoding.crop_reference import (
    encode,
    rrc_by_definition,
    rrc_by_torchvision,
    rrc_window_by_torchvision,
    run_graph,
)
from torch import nn

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import Inputs, draw_crops, rrc_squares
from turbomim.pipeline.decoding.crop_graphs import rrc_window
from turbomim.pipeline.stream.philox import CROP, draw_u32
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Interpolation
from turbomim.train.loop import data
from turbomim.train.loop.session import open_session, take_folder
from turbomim.train.pictures import reconstruction
from turbomim.train.pretrain import heldout, pretrain
from turbomim.train.settings.config import Config, DataConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

SIZE = 48
SEED = 2**40 + 5
LAST = 2**32 - 1


def windows(u32: NDArray[np.uint32], sides: NDArray[np.int64], scale: float) -> NDArray[np.int64]:
    """Top, left, height and width, (B, 4), by the graph's arithmetic."""
    pipeline = Pipeline(batch_size=len(sides), num_threads=2, device_id=None, prefetch_queue_depth=1)
    inputs = {
        "squares": rrc_squares(u32[:, :20].reshape(-1, 10, 2), scale),
        "words": u32[:, 20:].astype(np.int64),
        "sides": sides,
    }
    with pipeline:
        pipeline.set_outputs(*rrc_window(*(fn.external_source(name=name) for name in inputs)))
    pipeline.build()
    for name, array in inputs.items():
        pipeline.feed_input(name, array)
    return np.concatenate([np.asarray(out.as_tensor()) for out in pipeline.run()], 1)


def words(seed: int, count: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 2**32, (count, 22), np.uint32)


@pytest.mark.parametrize("scale", [0.08, 0.2, 0.67, 1.0])
def test_windows_are_those_of_torchvision(scale: float) -> None:
    """Without exception, as both sides compute in float64; tall, wide, tiny and huge images included."""
    random = np.random.default_rng(3)
    extremes = [[1, 1], [1, 2], [2, 1], [2, 3], [1, 5000], [5000, 1], [1, 65500], [65500, 65500], [3, 4]]
    sides = np.array(
        extremes * 20
        + np.exp(random.uniform(0, np.log(5000), (500, 2))).astype(int).tolist()
        + random.integers(200, 600, (500, 2)).tolist()
        # float32 would miss a pixel of these
        + random.integers(10_000, 65_500, (1000, 2)).tolist()
        + [[side, side * 5 // 3] for side in range(1, 200)]
    )
    u32 = words(4, len(sides))
    u32[::50, 20:] = 0
    u32[1::50, 20:] = LAST
    u32[2::50, 1:20:2] = 0
    u32[3::50, 1:20:2] = LAST
    expected = [
        rrc_window_by_torchvision(row, height, width, scale)
        for row, (height, width) in zip(u32.tolist(), sides.tolist(), strict=True)
    ]
    assert windows(u32, sides, scale).tolist() == [list(window) for window in expected]


def test_the_central_crop_and_each_attempt_occur() -> None:
    """What the words of an attempt ask for is the window, once the attempts before it do not fit."""
    u32 = words(5, 11)
    # the whole area, three quarters as wide as high: too high for a square
    u32[:, :20] = [LAST, 0] * 10
    for attempt in range(10):
        # a fifth of the area, square
        u32[attempt, 2 * attempt : 2 * attempt + 2] = [0, 2**31]
    found = windows(u32, np.full((11, 2), 1000), 0.2)
    assert found[:, 2:].tolist() == [[447, 447]] * 10 + [[1000, 1000]]
    # 4/3 of the short side, in the middle, rounded to the near end
    found = windows(np.tile(u32[10:], (3, 1)), np.array([[100, 801], [800, 100], [100, 120]]), 1.0)
    assert found[:2].tolist() == [[0, 334, 100, 133], [333, 0, 133, 100]]


def unevenness(values: NDArray[np.float64]) -> float:
    """Kolmogorov's distance from uniform on [0, 1], times the root of the count; above 1.95 once in 1000."""
    ranks = np.arange(len(values)) / len(values)
    return float(np.abs(np.sort(values) - ranks).max() * np.sqrt(len(values)))


def test_area_ratio_and_place_are_uniform_and_independent() -> None:
    """Of a square image, for shares up to 3/4, which fit at every ratio; the window's sides are rounded."""
    count, side = 10_000, 50_000
    ids = np.arange(count)
    found = windows(draw_u32(SEED, np.zeros_like(ids), ids, CROP, 22), np.full((count, 2), side), 0.2).astype(
        np.float64
    )
    top, left, height, width = found.T
    share = height * width / side**2
    assert 0.2 - 1e-4 < share.min() < 0.201
    assert share.max() > 0.99
    chosen = share < 0.75
    uniform = np.stack(
        [
            (share - 0.2) / 0.55,
            np.log(width / height) / np.log(16 / 9) + 0.5,
            top / (side - height + 1),
            left / (side - width + 1),
        ]
    )[:, chosen]
    assert max(unevenness(values) for values in uniform) < 1.95
    correlation = np.corrcoef(uniform) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(chosen.sum())


def test_draws_written_out() -> None:
    """Attempt a: word 2a the share, 2a + 1 the ratio.  Words 20 and 21: y and x.  Flips as those of src."""
    turn = Turn(position=0, epochs_B=np.arange(50), ids_B=np.arange(50) * 7)
    inputs = draw_crops(Crop(kind="rrc", size=SIZE, scale=0.3), SEED, turn)
    u32 = draw_u32(SEED, turn.epochs_B, turn.ids_B, CROP, 22)
    assert inputs["words"].tolist() == u32[:, 20:].tolist()
    assert inputs["flips"].tolist() == draw_crops(Crop(size=SIZE), SEED, turn)["flips"].tolist()
    height, width = inputs["squares"].transpose(2, 0, 1) ** 0.5
    assert height * width == pytest.approx(0.3 + 0.7 * u32[:, :20:2] / 2**32)
    assert width / height == pytest.approx(np.exp(np.log(4 / 3) * (u32[:, 1:20:2] / 2**31 - 1)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("extension", ["PNG", "JPEG"])
def test_pixels(extension: str, interpolation: Interpolation) -> None:
    """From one pixel, a line and a column to windows much larger than the crop."""
    random = np.random.default_rng(2)
    shapes = [[1, 1], [1, 300], [300, 1], [5, 200], *random.integers(20, 250, (36, 2)).tolist()]
    images = [encode(Image.fromarray(texture(i, *shape)), extension) for i, shape in enumerate(shapes)]
    u32 = words(6, 40)
    flips = random.integers(0, 2, 40).astype(np.int32)
    inputs: Inputs = {
        "squares": rrc_squares(u32[:, :20].reshape(-1, 10, 2), 0.2),
        "words": u32[:, 20:].astype(np.int64),
        "flips": flips,
    }
    pixels = run_graph(images, inputs, SIZE, "rrc", interpolation).astype(np.float32)
    found = [
        rrc_window_by_torchvision(row, height, width, 0.2)
        for row, (height, width) in zip(u32.tolist(), shapes, strict=True)
    ]
    samples = list(zip(images, found, flips.tolist(), strict=True))
    # half a grey level of rounding, and a third for DALI's table of filter weights; no more for JPEG, as it
    # decodes to Pillow's pixels
    definition = np.stack([rrc_by_definition(*sample, SIZE, interpolation) for sample in samples])
    assert np.abs(pixels - definition).max() < 0.85
    # PIL rounds twice and clips in between; it cuts its filter at the edge, which shows in the outermost
    # pixels, and more without the negative lobes of bicubic
    expected = np.stack([rrc_by_torchvision(*sample, SIZE, interpolation) for sample in samples])
    difference = np.abs(pixels - expected)
    assert difference.mean() < 0.25
    assert difference.max() <= 12
    inside = difference[:, 1:-1, 1:-1]
    assert inside.max() <= 2
    assert (inside > 1).mean() < 0.001


def test_every_user_of_the_loader_passes_the_crop_on(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, held-out loss and `show` see the same crops."""
    config = Config(
        data=DataConfig(
            path=str(tiny_split.folder), size=32, crop="rrc", rrc_scale=0.6, interpolation="bilinear"
        ),
        model=ModelConfig(
            patch=8, width=32, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2
        ),
        optim=OptimConfig(global_batch=8),
        step=StepConfig(device="cpu", compile=False),
        run=RunConfig(folder=str(tmp_path), name="r"),
    )
    passed: list[Crop] = []

    class Stop(Exception):
        pass

    def loader(split: Split, crop: Crop, *_: object, **arguments: object) -> None:
        passed.append(crop)
        raise Stop

    monkeypatch.setattr(data, "Loader", loader)
    console = Console(file=io.StringIO())
    with pytest.raises(Stop), open_session(config, console) as session, take_folder(session) as folder:
        heldout.heldout_loss(nn.Linear(1, 1), tiny_split, session, folder)
    with pytest.raises(Stop):
        pretrain.pretrain(config, console=console)
    with pytest.raises(Stop):
        reconstruction.pick_samples(tiny_split, config, 2)
    assert passed == [Crop(kind="rrc", size=32, scale=0.6, interpolation="bilinear")] * 3
