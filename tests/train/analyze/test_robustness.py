"""`turbomim analyze robustness`: each corruption by its definition, and scores by the parts they are made of.

Planted, each seen to fail the test named: the variance for the deviation, one noise for all samples,
photons in other units (`test_noise_has_its_deviation_and_belongs_to_the_sample`); one mean for all channels,
brightness added to each channel (`test_contrast_and_brightness_are_those_of_the_definition`); a blur that is
not scaled (`test_severities_are_of_the_nearest_set_and_grow`), or cut short
(`test_a_blur_is_the_sum_over_a_mirrored_neighbourhood`); black alone, other values hit in each severity
(`test_impulses_are_salt_and_pepper_and_stay`); a square for a disc, its edge not softened
(`test_a_point_out_of_focus_is_a_soft_disc`); a trail to both sides, its rows and columns exchanged, weights
that do not sum to one, half its length (`test_a_point_in_motion_is_a_line_of_half_a_gaussian`); the other
border repeated (`test_motion_repeats_the_border`); ids lost (`test_batches_change_no_image`); test
features standardised by themselves (`test_the_scorers_are_the_probe_and_the_neighbours`); trained weights for
random ones, test samples learned from, draws of all ids where an image is left out
(`test_the_command_scores_every_corruption_beside_random_weights`).
"""

from __future__ import annotations

import colorsys
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.broken_split import with_broken_image
from tests.calls import call
from tests.train.analyze.test_frequency import two_runs

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.analyze.corruptions import (
    CORRUPTIONS,
    brightness,
    contrast,
    defocus_blur,
    disc,
    gaussian_blur,
    gaussian_noise,
    generator,
    impulse_noise,
    jpeg,
    motion_blur,
    pixelate,
    severities_of_size,
    shot_noise,
    trail,
)
from turbomim.train.analyze.robustness import corrupt, corrupted, scorers_of
from turbomim.train.encoder.features import encode, load_run
from turbomim.train.evaluate.knn import knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.splits import choose_ids
from turbomim.train.models.methods import make_model

Pixels = NDArray[np.uint8]
PHOTO = texture(3, 24, 24)
ANY = generator(0, 0)


def test_noise_has_its_deviation_and_belongs_to_the_sample() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    for deviation in (0.04, 0.08):
        noise = gaussian_noise(grey, deviation, generator(1, 2)) / 255.0 - 128 / 255
        assert abs(noise.std() / deviation - 1) < 0.01 and abs(noise.mean()) < 0.001
    # whole grey levels a photon
    for photons in (51, 85):
        counted = shot_noise(grey, photons, generator(1, 2)) / 255.0 * photons
        # a Poisson number's variance is its mean
        mean = 128 / 255 * photons
        assert abs(counted.mean() / mean - 1) < 0.01 and abs(counted.var() / mean - 1) < 0.02
    assert not shot_noise(np.zeros_like(grey), 60, ANY).any()
    one, again = (gaussian_noise(grey, 0.1, generator(1, 2)) for _ in range(2))
    assert np.array_equal(one, again)
    for other in (generator(1, 3), generator(2, 2)):
        assert not np.array_equal(one, gaussian_noise(grey, 0.1, other))


def test_a_blur_is_the_sum_over_a_mirrored_neighbourhood() -> None:
    sigma, reach = 0.9, 4
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    padded = np.pad(PHOTO.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = np.zeros(PHOTO.shape)
    for y in range(24):
        for x in range(24):
            area = padded[y : y + 9, x : x + 9]
            expected[y, x] = np.einsum("yxc,y,x->c", area, taps, taps)
    assert np.abs(gaussian_blur(PHOTO, sigma, ANY) - expected).max() <= 0.5 + 1e-3


def test_impulses_are_salt_and_pepper_and_stay() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    before = np.zeros(grey.shape, bool)
    for share in (0.03, 0.17):
        hit = impulse_noise(grey, share, generator(1, 2))
        changed = hit != 128
        assert abs(changed.mean() / share - 1) < 0.05 and set(np.unique(hit)) == {0, 128, 255}
        assert abs((hit[changed] == 255).mean() - 0.5) < 0.05
        # what is hit is hit in the next severity, and channels for themselves
        assert changed[before].all() and not np.array_equal(changed[..., 0], changed[..., 1])
        before = changed


def point(side: int) -> Pixels:
    """White in the middle, black around."""
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 2, side // 2] = 255
    return image


@pytest.mark.parametrize(("radius", "softness"), [(3, 0.1), (4, 0.5), (6, 0.5), (10, 0.5), (0.3, 0.4)])
def test_a_point_out_of_focus_is_a_soft_disc(radius: float, softness: float) -> None:
    kernel = disc(radius, softness)
    half = len(kernel) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    assert math.isclose(kernel.sum(), 1) and (kernel >= 0).all()
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    away = np.hypot(y, x)
    count = (away <= radius).sum()
    # all alike inside; nothing beyond the edge's 1 or 2 pixels; soft between
    inside = kernel[away <= radius - 3]
    np.testing.assert_allclose(inside, 1 / count, rtol=1e-6)
    assert (kernel[away > radius + 3] == 0).all()
    beyond = kernel[(away > radius) & (away <= radius + 1)].max() * count
    cut = 2 if radius > 8 else 1
    taps = np.exp(-0.5 * (np.arange(-cut, cut + 1) / softness) ** 2)
    assert (beyond > 0.03) == (softness > 0.1) and beyond < 1
    if radius < 1:
        np.testing.assert_allclose(kernel[half, half - 1 : half + 2], taps * taps[cut] / taps.sum() ** 2)
    seen = defocus_blur(point(41), radius, softness, ANY)[..., 0] / 255.0
    assert cut <= half - radius < cut + 1
    assert np.abs(seen[20 - half : 21 + half, 20 - half : 21 + half] - kernel).max() <= 0.5 / 255 + 1e-9
    grey = np.full((20, 20, 3), 77, np.uint8)
    assert np.array_equal(defocus_blur(grey, radius, softness, ANY), grey), "borders lose nothing"


@pytest.mark.parametrize("sample", range(4))
def test_a_point_in_motion_is_a_line_of_half_a_gaussian(sample: int) -> None:
    angle = math.radians(generator(0, sample).uniform(-45, 45))
    weights, rows, columns = trail(10, 3, angle)
    taps = np.exp(-0.5 * (np.arange(21) / 3) ** 2)
    assert math.isclose(weights.sum(), 1)
    np.testing.assert_allclose(weights, taps / taps.sum())
    # on the line through the pixel, to a pixel, and 20 pixels long
    assert (columns >= 0).all() and np.abs(rows - columns * math.tan(angle)).max() <= 0.5 + 0.5 / math.cos(
        angle
    )
    assert abs(np.hypot(rows[-1], columns[-1]) - 20) <= 0.75
    seen = motion_blur(point(61), 10, 3, generator(0, sample))[..., 0] / 255.0
    expected = np.zeros((61, 61))
    for weight, row, column in zip(weights, rows, columns, strict=True):
        expected[30 - row, 30 - column] += weight
    assert np.abs(seen - expected).max() <= 0.5 / 255 + 1e-9
    assert np.array_equal(np.unique(np.argwhere(expected)[:, 1])[-1:], [30]), "to one side alone"


def test_motion_repeats_the_border() -> None:
    # a step down the columns: what lies beyond the right border is white, as its last column
    image = np.zeros((9, 40, 3), np.uint8)
    image[:, 30:] = 255
    blurred = motion_blur(image, 6, 2, generator(0, 1))
    assert (blurred[:, 30:] == 255).all() and (np.diff(blurred[:, :, 0].astype(int), axis=1) >= 0).all()
    grey = np.full((5, 5, 3), 77, np.uint8)
    assert np.array_equal(motion_blur(grey, 20, 15, generator(0, 1)), grey)


def test_contrast_and_brightness_are_those_of_the_definition() -> None:
    unit = PHOTO / 255
    for channel in range(3):
        plane = unit[..., channel]
        expected = np.clip((plane - plane.mean()) * 0.3 + plane.mean(), 0, 1) * 255
        assert np.abs(contrast(PHOTO, 0.3, ANY)[..., channel] - expected).max() <= 0.5 + 1e-9
    odd = PHOTO.copy()
    odd[0, 0], odd[0, 1], odd[0, 2] = 0, 255, (255, 0, 0)
    ours = brightness(odd, 0.2, ANY)
    for y, x in np.ndindex(24, 24):
        hue, saturation, value = colorsys.rgb_to_hsv(*(odd[y, x] / 255).tolist())
        expected_3 = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))) * 255
        assert np.abs(ours[y, x] - expected_3).max() <= 0.5 + 1e-6
    assert ours[0, 0].tolist() == [51, 51, 51]


def test_jpeg_and_pixelate_are_pillows_and_means_of_boxes() -> None:
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, "JPEG", quality=10)
    assert np.array_equal(jpeg(PHOTO, 10, ANY), np.asarray(Image.open(content)))
    boxes = PHOTO.reshape(6, 4, 6, 4, 3).mean((1, 3)).repeat(4, 0).repeat(4, 1)
    assert np.abs(pixelate(PHOTO, 0.25, ANY) - boxes).max() <= 1
    # 0.6 of 24 are 14, not 15
    assert len({row.tobytes() for row in pixelate(PHOTO, 0.6, ANY)}) == 14


@pytest.mark.parametrize("size", [32, 64, 96, 224])
def test_severities_are_of_the_nearest_set_and_grow(size: int) -> None:
    name, table = severities_of_size(size)
    assert name == ("CIFAR-10-C" if size <= 64 else "ImageNet-C") and table.keys() == CORRUPTIONS.keys()
    strongest = {32: 1.0, 64: 2.0, 96: 6 * 96 / 224, 224: 6.0}[size]
    assert table["gaussian blur"][-1] == pytest.approx(strongest)
    last = {32: (9.0, 2.5), 64: (18.0, 5.0), 96: (20 * 96 / 224, 15 * 96 / 224), 224: (20.0, 15.0)}[size]
    assert table["motion blur"][-1] == pytest.approx(last)
    photo = texture(5, size, size)
    for corruption, values in table.items():
        assert len(values) == 5
        errors = [
            float(((corrupt(photo, CORRUPTIONS[corruption], value, 0, 7) - photo.astype(float)) ** 2).mean())
            for value in values
        ]
        assert errors == sorted(errors) and errors[0] > 0, corruption


def test_batches_change_no_image() -> None:
    images = np.stack([texture(number, 16, 16) for number in range(5)])
    labels, ids = np.zeros(5, np.int64), np.array([4, 0, 9, 2, 7])
    cut = [[(images[:2], labels[:2]), (images[2:], labels[2:])], [(images, labels)]]
    parts, whole = (
        np.concatenate([worse for worse, _ in corrupted(batches, ids, gaussian_noise, 0.1, 3)])
        for batches in cut
    )
    assert np.array_equal(parts, whole)
    assert np.array_equal(whole[2], gaussian_noise(images[2], 0.1, generator(3, 9)))


def test_the_scorers_are_the_probe_and_the_neighbours() -> None:
    g = torch.Generator().manual_seed(0)
    labels, test_labels = torch.arange(120) % 3, torch.arange(60) % 3
    train = torch.randn(120, 8, generator=g) + torch.nn.functional.one_hot(labels, 8)
    test = torch.randn(60, 8, generator=g) + torch.nn.functional.one_hot(test_labels, 8)
    scorers = scorers_of(train, labels)
    probe = fit_linear_probe(train, labels)
    assert scorers["linear probe"](test, test_labels) == probe.accuracy(test, test_labels)
    assert scorers["20 neighbours"](test, test_labels) == knn(train, labels, test, test_labels).majority
    assert 0.4 < scorers["linear probe"](test, test_labels) < 1


def test_the_command_scores_every_corruption_beside_random_weights(
    trees: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = two_runs(trees, tmp_path)
    # the same photographs in another order, the fourth of those chosen damaged
    make_shards(photo_folder, tmp_path / "whole", ShardSettings(split="test", shard_size=9, seed=5))
    chosen = choose_ids(open_split(tmp_path / "whole"), 12)
    with_broken_image(tmp_path / "whole", tmp_path / "t", int(chosen[3]))
    words = [
        "--train",
        str(trees),
        "--test",
        str(tmp_path / "t"),
        "--samples",
        "25",
        "--test-samples",
        "12",
        "--batch",
        "5",
    ]
    assert call(monkeypatch, "analyze", "robustness", str(run), *words, "--device", "cpu") == 0
    record = json.loads((run / "analysis" / "robustness.json").read_text())
    assert (run / "analysis" / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    found, settings = record["results"], record["settings"]
    assert (settings["samples"], settings["test_samples"], settings["parameters_of"]) == (
        25,
        11,
        "CIFAR-10-C",
    )
    assert found["corruptions"].keys() == CORRUPTIONS.keys()

    config, trained, _ = load_run(run)

    def crops(split: Split, count: int) -> tuple[Pixels, torch.Tensor]:
        ids = choose_ids(split, count)
        ((images, labels),) = centre_crops(split, ids, CentreCrop(size=32), batch=count, threads=1)
        return images, torch.from_numpy(labels)

    (learned, labels), (scored, test_labels) = (
        crops(open_split(trees), 25),
        crops(open_split(tmp_path / "t"), 12),
    )
    noisy = np.stack(
        [
            gaussian_noise(i, 0.08, generator(0, n))
            for i, n in zip(scored, np.delete(chosen, 3).tolist(), strict=True)
        ]
    )
    for name, model in (("trained", trained.eval()), ("random weights", make_model(config).eval())):
        with torch.no_grad():
            train, clean, worse = (
                encode(model, torch.from_numpy(images))["mean of patch tokens"]
                for images in (learned, scored, noisy)
            )
        for features, scores in (
            (clean, found["clean"][name]),
            (worse, found["corruptions"]["gaussian noise"]["severities"][2][name]),
        ):
            assert scores["20 neighbours"] == knn(train, labels, features, test_labels).majority
            assert scores["linear probe"] == fit_linear_probe(train, labels).accuracy(features, test_labels)
        every = [s[name]["linear probe"] for c in found["corruptions"].values() for s in c["severities"]]
        assert len(every) == 50 and math.isclose(found["mean"][name]["linear probe"], sum(every) / 50)
    assert "all corrupted" in capsys.readouterr().out
    assert call(monkeypatch, "analyze", "robustness", str(run), *words[:4], "--samples", "3") == 2
    assert "--samples 3: must be 0 (all) or at least 20" in capsys.readouterr().err
