"""`turbomim show --targets`: what the picture holds, and what a file that is no photograph ends in.

Which test fails for which mistake (each was made once, on purpose):
rows and columns of patches swapped: test_raw_target_is_the_photograph;
one radius for all, the raw picture for the filtered: test_a_filter_removes_what_is_outside_its_radius;
an unshifted spectrum, a mean left in: test_a_wave_is_two_points_of_the_spectrum;
no normalisation, another target's: test_normalised_patches_have_no_mean_and_unit_deviation;
a division by a flat picture's amplitude, a text one column wide: test_writes_a_picture_of_a_flat_image;
an error of Pillow's let through: test_what_is_no_photograph_is_one_line.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import png
from turbomim.kernels.patch_target import TargetKind
from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands.show import show_command
from turbomim.train.pictures.targets import (
    PATCH,
    RADII,
    SIZE,
    amplitudes,
    draw_targets,
    read_photograph,
    spectrum_picture,
    target_picture,
    target_sections,
)


def photograph() -> torch.Tensor:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    noise[:, : SIZE // 2] //= 2
    return torch.from_numpy(noise)


def distance() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    along = np.arange(SIZE) - SIZE / 2
    from_zero: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.hypot(along[:, None], along[None, :])
    return from_zero


def test_raw_target_is_the_photograph() -> None:
    image = photograph()
    np.testing.assert_allclose(target_picture(image, "raw", 40) * 255, image.numpy(), atol=1e-4)


@pytest.mark.parametrize("radius", RADII)
def test_a_filter_removes_what_is_outside_its_radius(radius: int) -> None:
    image = photograph()
    raw = amplitudes(target_picture(image, "raw", radius))
    kept = {}
    filters: tuple[TargetKind, ...] = ("gaussian", "ideal")
    for target in filters:
        ratio = amplitudes(target_picture(image, target, radius)) / raw
        kept[target] = [
            np.median(ratio[abs(distance() - at) < 1.5]) for at in (radius / 2, radius, 1.3 * radius)
        ]
    # the response of the blur's taps, pixels on a grid: above exp(-1/2) at a radius of 80
    tap = np.arange(-40, 41)
    weight = np.exp(-0.5 * (tap * 2 * np.pi * radius / SIZE) ** 2)
    waves = 2 * np.pi * tap * np.array([[0.5], [1.0], [1.3]]) * radius / SIZE
    np.testing.assert_allclose(kept["gaussian"], np.cos(waves) @ weight / weight.sum(), rtol=0.12)
    assert kept["ideal"][0] > 0.9 and kept["ideal"][2] < 0.1


def test_normalised_patches_have_no_mean_and_unit_deviation() -> None:
    side = SIZE // PATCH
    raw, ideal = (target_picture(photograph(), t, 40, normalised=True) for t in ("raw", "ideal"))
    for picture in (raw, ideal):
        patches = picture.reshape(side, PATCH, side, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(side**2, -1)
        np.testing.assert_allclose(patches.mean(1), 0, atol=1e-5)
        np.testing.assert_allclose(patches.std(1, ddof=1), 1, atol=1e-3)
    assert abs(raw - ideal).max() > 1


def test_a_wave_is_two_points_of_the_spectrum() -> None:
    x = np.arange(SIZE)
    wave = 0.5 + 0.4 * np.cos(2 * np.pi * 30 * x / SIZE)
    picture = np.broadcast_to(wave[None, :, None], (SIZE, SIZE, 3))
    spectrum = amplitudes(picture)
    middle = SIZE // 2
    # the window spreads each point over its neighbours
    assert sorted(spectrum[middle].argsort()[-2:].tolist()) == [middle - 30, middle + 30]
    far = abs(abs(x - middle) - 30) > 3
    assert spectrum[:, far].max() < 1e-3 * spectrum.max()
    shades = spectrum_picture(picture, spectrum.max())
    assert shades.shape == (SIZE, SIZE, 3) and shades.max() == 1 and shades.min() >= 0
    # a tenth of the amplitude is one decade of five darker
    fainter = spectrum_picture((picture - 0.5) / 10, spectrum.max())
    np.testing.assert_allclose(fainter.max(), 0.8, atol=1e-9)


def test_the_sheet_has_every_target_and_spectrum() -> None:
    drawn = target_sections(photograph())
    assert len(drawn) == 3
    for _, (images, spectra) in drawn[1:]:
        assert [tile.labels[0] for tile in images[:4]] == [f"radius {radius}" for radius in RADII]
        for tile, radius in zip(spectra, RADII, strict=False):
            orange = (np.asarray(tile.picture) == (0xFF, 0x8C, 0x1A)).all(-1).nonzero()
            assert {(at.min(), at.max()) for at in orange} == {(SIZE // 2 - radius, SIZE // 2 + radius)}
        assert all(tile.picture is not None for tile in (*images, *spectra[:4]))


@pytest.mark.parametrize(
    ("mode", "size"),
    [("RGB", (300, 451)), ("L", (40, 30)), ("RGBA", (224, 224)), ("P", (9, 500)), ("I;16", (50, 60))],
)
def test_any_image_becomes_a_square(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    Image.new(mode, size).save(path)
    assert tuple(read_photograph(path).shape) == (SIZE, SIZE, 3)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_writes_a_picture_of_a_flat_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flat.png"
    Image.new("RGB", (30, 20), "white").save(path)
    show_command(["--targets", str(path), "--out", str(tmp_path / "new" / "t.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 't.png'}\n"
    sheet = np.asarray(Image.open(tmp_path / "new" / "t.png"))
    # in the first row: the white photograph, its spectrum, two columns of text, its target
    middle = sheet[150, [28 + SIZE // 2 + column * (SIZE + 12) for column in (0, 1, 4)], 0]
    assert middle[:2].tolist() == [255, 0] and middle[2] < 250


def test_default_name_is_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "cup.jpg")
    monkeypatch.chdir(tmp_path)
    assert draw_targets(Path("cup.jpg")) == Path("cup-targets.png")
    assert (tmp_path / "cup-targets.png").is_file()


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "cut":
        whole = folder / "whole.png"
        Image.fromarray(photograph().numpy()).save(whole)
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "cut"])
def test_what_is_no_photograph_is_one_line(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        draw_targets(path, tmp_path / "out.png")
    text = str(caught.value)
    assert text.startswith(f"--targets {path} ") and "\n" not in text
    assert not (tmp_path / "out.png").exists()


def test_greys_of_16_bits_are_scaled_as_for_training(tmp_path: Path) -> None:
    """Planted, and seen to fail: Pillow's RGB, which shows them white."""
    path = tmp_path / "deep.png"
    path.write_bytes(png(30, 20, 16, 0, 20 * (b"\0" + 30 * (10_000).to_bytes(2, "big"))))
    assert set(read_photograph(path).flatten().tolist()) == {39}, "10,000 of 65,535 are 38.9 of 255"


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(image)
    with pytest.raises(UserError, match="cannot write"):
        draw_targets(image, image / "under-a-file.png")
