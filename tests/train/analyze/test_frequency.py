"""`turbomim analyze frequency` against the sum that defines a Fourier transform, and blocks run by hand.

Planted, each seen to fail the test named: the log of the mean amplitude, frequencies along a row, the last
one called 1 whatever it is (`test_amplitudes_are_those_of_the_definition`); radii of the larger of two
frequencies, negative ones far from zero, rounded down, a sum for a mean, amplitudes not relative
(`test_a_cosine_is_one_ring_of_the_radial_curve`); the class token kept and the last patch dropped, cells of
a patch transposed (`test_maps_lie_as_the_tokens_do`); batches that weigh alike whatever their size
(`test_curves_are_those_of_blocks_run_by_hand`); the first run's model for all
(`test_the_command_compares_runs_on_the_same_images`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.calls import call
from tests.runs import config_for, quiet
from tests.train.models import test_convmae, test_mff, test_simmim, test_simmim_swin
from tests.train.models.test_mae import SMALL, inputs, with_model
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.tars.split import open_split
from turbomim.train.analyze.frequency import (
    EPSILON,
    amplitudes_of_blocks,
    diagonal,
    feature_map,
    frequencies,
    log_amplitudes,
    radial,
    relative,
)
from turbomim.train.encoder.features import load_run
from turbomim.train.evaluate.splits import choose_ids
from turbomim.train.models.convmae import places
from turbomim.train.models.methods import make_model
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

METHODS = {
    "mae": SMALL,
    "mff": test_mff.DEEP,
    "convmae": test_convmae.SMALL,
    "simmim": test_simmim.SMALL,
    "swin": test_simmim_swin.SMALL,
    "swinv2": test_simmim_swin.SMALL_V2,
}


def by_definition(maps_BDHW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean log amplitude of the waves with k cycles down and k across, from the sum over all tokens."""
    side = maps_BDHW.shape[-1]
    y, x = np.mgrid[0:side, 0:side]
    found = []
    for cycles in range(side // 2 + 1):
        wave = np.exp(-2j * np.pi * cycles * (x + y) / side)
        amplitudes = [np.log(abs((plane * wave).sum()) + EPSILON) for image in maps_BDHW for plane in image]
        found.append(np.mean(amplitudes))
    return np.array(found)


@pytest.mark.parametrize("side", [6, 7, 8])
def test_amplitudes_are_those_of_the_definition(side: int) -> None:
    maps = np.random.default_rng(side).normal(0.3, 1, (3, 4, side, side))
    ours = diagonal(log_amplitudes(torch.from_numpy(maps).float()))
    np.testing.assert_allclose(ours.numpy(), by_definition(maps), rtol=1e-5, atol=1e-5)
    assert len(frequencies(side)) == len(ours)
    # 1 is Nyquist's: signs that change from token to token
    assert frequencies(side)[-1] == (1 if side % 2 == 0 else (side - 1) / side)


def test_a_wave_along_the_diagonal_is_one_frequency() -> None:
    y, x = np.mgrid[0:8, 0:8]
    for cycles in (1, 2, 4):
        wave = 0.01 + np.cos(2 * np.pi * cycles * (x + y) / 8)
        found = diagonal(log_amplitudes(torch.from_numpy(wave[None, None]).float()))
        assert int(found.argmax()) == cycles


@pytest.mark.parametrize(("down", "across"), [(5, 0), (0, 5), (3, 4), (-4, 3), (4, 4), (8, 0)])
def test_a_cosine_is_one_ring_of_the_radial_curve(down: int, across: int) -> None:
    side = 16
    y, x = np.mgrid[0:side, 0:side]
    # a point has every wave, with amplitude 1; the cosine adds to two of them, which are one at Nyquist's
    wave = 0.5 * np.cos(2 * np.pi * (down * y + across * x) / side)
    wave[0, 0] += 1
    found = radial(log_amplitudes(torch.from_numpy(wave[None, None])))
    waves = [(v, u) for v in range(-8, 8) for u in range(-8, 8)]
    radius = round(np.hypot(down, across))
    ring = sum(round(np.hypot(v, u)) == radius for v, u in waves)
    expected = np.zeros(9)
    added = np.log(1 + 0.25 * side**2) * 2 if radius < 8 else np.log(1 + 0.5 * side**2)
    expected[radius] = added / ring
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert torch.equal(relative(found + 3.0)[:1], torch.zeros(1)) and len(found) == len(frequencies(side))


def test_maps_lie_as_the_tokens_do() -> None:
    numbers = torch.arange(36.0)
    tokens = torch.cat([torch.full((2,), -1.0), numbers]).repeat(3, 1)[..., None].expand(-1, -1, 5)
    expected = numbers.reshape(6, 6)
    assert torch.equal(feature_map(tokens, 2), expected.expand(3, 5, 6, 6))
    by_row = numbers.reshape(6, 6, 1).expand(3, 6, 6, 5)
    assert torch.equal(feature_map(by_row, 0), expected.expand(3, 5, 6, 6))
    # ConvMAE's own numbers of the cells of patches in order
    cells = places(torch.arange(9)[None], 3, 2).reshape(1, 9, 2, 2, 1).float()
    assert torch.equal(feature_map(cells, 0)[0, 0], expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_block_of_the_encoder_is_seen_once(method: str) -> None:
    config = METHODS[method]
    model = make_model(config)
    images, _, _ = inputs(config)
    curves = amplitudes_of_blocks(model, [images[:3].numpy(), images[3:].numpy()])
    sides = {
        "mae": [6] * 3,
        "mff": [6] * 4,
        "convmae": [12] * 2 + [6] + [3] * 2,
        "simmim": [config.grid] * config.model.depth,
        "swin": [12] * 2 + [6] * 2,
        "swinv2": [12] * 2 + [6] * 2,
    }[method]
    assert [len(curve) for curve in curves] == sides
    assert all(bool(curve.isfinite().all()) for curve in curves)
    # SwinV2's blocks begin as the identity
    assert method == "swinv2" or len({float(curve[0, 1] - curve[0, 0]) for curve in curves}) == len(curves)


def test_curves_are_those_of_blocks_run_by_hand() -> None:
    model = make_model(SMALL)
    images, _, _ = inputs(SMALL)
    tokens: Tensor = model.embed(*model.whole_patches(images))
    curves = amplitudes_of_blocks(model, [images[:3].numpy(), images[3:].numpy()])
    for block, curve in zip(model.blocks, curves, strict=True):
        tokens = block(tokens)
        maps = tokens[:, 1:].detach().double().numpy().transpose(0, 2, 1).reshape(5, 48, 6, 6)
        expected = by_definition(maps)
        np.testing.assert_allclose(
            relative(diagonal(curve)).numpy(), expected - expected[0], rtol=1e-4, atol=1e-4
        )


def two_runs(trees: Path, folder: Path) -> list[Path]:
    configs: list[Config] = [
        config_for(trees, folder, optim={"epochs": 0.5, "warmup_epochs": 0}),
        with_model(
            config_for(trees, folder, optim={"epochs": 0.5, "warmup_epochs": 0}, run={"name": "m"}),
            method="mff", fuse="0,1",
        ),
    ]  # fmt: skip
    return [pretrain(config, console=quiet()).folder for config in configs]


def test_the_command_compares_runs_on_the_same_images(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = two_runs(trees, tmp_path)
    words = [*map(str, runs), "--data", str(trees), "--images", "10", "--batch", "4", "--device", "cpu"]
    assert call(monkeypatch, "analyze", "frequency", *words) == 0
    record = json.loads((runs[0] / "analysis" / "frequency.json").read_text())
    assert (runs[0] / "analysis" / "frequency.png").read_bytes()[:4] == b"\x89PNG"
    assert record["analysis"] == "frequency" and record["settings"]["images"] == 10
    assert record["settings"]["fingerprint"] == open_split(trees).manifest.fingerprint
    assert list(record["results"]) == [str(run) for run in runs]
    split = open_split(trees)
    for run, found in zip(runs, record["results"].values(), strict=True):
        _, model, step = load_run(run)
        ids = choose_ids(split, 10)
        crops = centre_crops(split, ids, CentreCrop(size=32), batch=10, threads=1)
        expected = amplitudes_of_blocks(model, [images for images, _ in crops])
        assert found["step"] == step == 3
        for block, curve in zip(found["blocks"], expected, strict=True):
            for name, of in (("", diagonal), ("radial_", radial)):
                ours = block[f"{name}relative_log_amplitude"]
                assert ours[0] == 0
                np.testing.assert_allclose(ours, relative(of(curve)).numpy(), rtol=1e-4, atol=1e-5)
            assert block["frequency"] == [0, 0.5, 1]
    assert "highest frequency" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["frequency", "--data", "D"], 2, "give at least one run folder"),
        (["frequency", "/nowhere", "--data", "D"], 1, "'D'"),
        (["frequency", "/nowhere", "--data", "D", "--images", "0"], 2, "--images 0: must be at least 1"),
        (["frequenzy"], 2, "unknown analyze command 'frequenzy': did you mean frequency"),
        ([], 2, "analyze needs a command: frequency, layers, coverage, flatness, avgdist, robustness"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "analyze", *words) == code
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
