"""`turbomim show --targets IMAGE`: what each reconstruction target keeps of a photograph.

Shapes: N patches, P values of a patch, H W pixels (H == W == SIZE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from turbomim.kernels.masked_patches import Target, masked_patches
from turbomim.pipeline.system.durable import make_folder_of, refusal
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import why
from turbomim.train.pictures.figure import FloatArray, to_uint8, unpatchify, wrap
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD
from turbomim.train.settings.flags import parse

SIZE, PATCH = 224, 16
# cycles per image; the published cut-off is 40, and it is the one whose normalised target is drawn
RADII, PUBLISHED = (10, 20, 40, 80), 40
# decades of amplitude below the spectrum's largest that are drawn; the rest is black
_DECADES = 5
# standard deviations of a normalised patch that black and white stand for
_CONTRAST = 3

_INK, _SOFT, _ORANGE = "#1c1c1c", "#5a5a5a", "#ff8c1a"
_GAP, _MARGIN, _HEADING, _TEXT = 12, 28, 19, 14
_LINE = _TEXT + 6

_INTRODUCTION = (
    "A masked autoencoder sees a quarter of a photograph's patches and predicts the others: its target. Here "
    "the targets of all patches are drawn.",
    "A low-pass filter takes fine detail out of the target, never out of what the model sees. Waves of up to "
    "about so many cycles across the picture as the radius says stay.",
    "A spectrum shows how much of each wave there is (log scale): large shapes in the middle, fine detail "
    "outside. The orange circle is the radius.",
    "Right: what the loss compares. Each patch minus its mean, over its deviation (black, white: "
    f"±{_CONTRAST}).",
)
_ABOUT: dict[Target, str] = {
    "gaussian": "A Gaussian blur: waves fade smoothly, to 61 % of their amplitude at the radius (76 % at 80, "
    "a blur of less than half a pixel). Edges stay clean. The default of the PixMIM recipes here.",
    "ideal": "The published disc: waves inside stay whole, waves outside go. The sharp cut leaves ripples "
    "beside edges, and taking the modulus puts a faint haze outside the circle.",
}
_HEADINGS: dict[Target, str] = {
    "raw": "Raw target: the photograph itself (MAE)",
    "gaussian": "Gaussian low-pass target",
    "ideal": "Ideal low-pass target (PixMIM as published)",
}


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Draw the raw, Gaussian and ideal targets of one photograph, with their spectra."""

    targets: Path
    """Any image file."""
    out: Path | None = None
    """Picture to write; IMAGE's name with -targets.png, in this folder, if not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A picture (SIZE, SIZE, 3) float 0..1, or a text in its place; a label under it; a circle on it."""

    picture: FloatArray | None = None
    text: str = ""
    label: str = ""
    # pixels around the zero frequency
    circle: float | None = None
    columns: int = 1


def targets(argv: list[str]) -> None:
    """`turbomim show --targets IMAGE [--out FILE.png]`: write it, print its path.  Raises UserError."""
    options = parse(Targets, argv, "turbomim show")
    print(draw_targets(options.targets, options.out))


def draw_targets(image: Path, out: Path | None = None) -> Path:
    """Write the picture of a photograph's targets and return its path.

    Raises UserError if the file is no image that Pillow reads, or if the picture cannot be written.
    """
    photograph_HWC = read_photograph(image)
    out = out or Path(f"{image.stem}-targets.png")
    make_folder_of(out)
    try:
        draw(sections(photograph_HWC)).save(out, "PNG", optimize=True)
    except OSError as error:
        raise refusal(out, error) from error
    return out


def read_photograph(path: Path) -> torch.Tensor:
    """The middle square of an image at SIZE pixels, (SIZE, SIZE, 3) uint8.  Raises UserError."""
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            upright = image.convert("RGB")
    # a broken file raises almost anything: each format has a reader of its own
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"--targets {path} cannot be read: {why(error, 'give a JPEG or PNG')}") from error
    square = ImageOps.fit(upright, (SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square))


def target_picture(
    photograph_HWC: torch.Tensor, target: Target, radius: float, *, normalised: bool = False
) -> FloatArray:
    """The target of every patch as one picture (SIZE, SIZE, 3) float: 0..1, or in deviations."""
    every_1N = torch.arange((SIZE // PATCH) ** 2)[None, :]
    _, target_1NP = masked_patches(
        photograph_HWC[None],
        every_1N[:, :1].contiguous(),
        every_1N,
        patch=PATCH,
        target=target,
        radius=float(radius),
        norm_pix=normalised,
        mean=IMAGENET_MEAN if normalised else (0.0, 0.0, 0.0),
        std=IMAGENET_STD if normalised else (1.0, 1.0, 1.0),
        dtype=torch.float32,
    )
    return unpatchify(target_1NP[0].numpy(), PATCH)


def spectrum_picture(picture_HWC: FloatArray, largest: float) -> FloatArray:
    """Amplitudes of the picture's waves as grey (H, W, 3) 0..1: 1 = `largest`, 0 = _DECADES below it or less.

    The zero frequency is at (H // 2, W // 2).
    """
    ratio_HW = amplitudes(picture_HWC) / largest
    shades_HW = 1 + np.log10(np.maximum(ratio_HW, 10.0**-_DECADES)) / _DECADES
    return np.repeat(shades_HW[..., None], 3, axis=2)


def amplitudes(picture_HWC: FloatArray) -> FloatArray:
    """Amplitude of every wave of a picture's brightness (H, W), zero frequency in the middle.

    The mean is left out, and a Hann window hides that left and right, top and bottom do not meet.
    """
    grey_HW = picture_HWC.mean(2, dtype=np.float64)
    window = np.hanning(len(grey_HW) + 2)[1:-1]
    waves_HW: FloatArray = np.abs(np.fft.fft2((grey_HW - grey_HW.mean()) * np.outer(window, window)))
    return np.fft.fftshift(waves_HW)


def sections(photograph_HWC: torch.Tensor) -> list[tuple[str, list[list[Tile]]]]:
    """What to draw: (heading, rows of tiles) of the raw, the Gaussian and the ideal target."""
    raw = target_picture(photograph_HWC, "raw", PUBLISHED)
    # a flat photograph has no waves
    largest = max(float(amplitudes(raw).max()), 1e-9)

    def normalised(target: Target, label: str) -> Tile:
        deviations = target_picture(photograph_HWC, target, PUBLISHED, normalised=True)
        return Tile(picture=0.5 + deviations / (2 * _CONTRAST), label=label)

    first = [
        Tile(picture=raw, label="photograph"),
        Tile(picture=spectrum_picture(raw, largest), label="its spectrum"),
        Tile(text="\n".join(_INTRODUCTION), columns=2),
        normalised("raw", "normalised by patch"),
    ]
    drawn = [(_HEADINGS["raw"], [first])]
    filters: tuple[Target, ...] = ("gaussian", "ideal")
    for target in filters:
        pictures = [target_picture(photograph_HWC, target, radius) for radius in RADII]
        images = [
            Tile(picture=picture, label=f"radius {radius}")
            for picture, radius in zip(pictures, RADII, strict=True)
        ]
        images.append(normalised(target, f"radius {PUBLISHED}, normalised by patch"))
        spectra = [
            Tile(picture=spectrum_picture(picture, largest), circle=radius)
            for picture, radius in zip(pictures, RADII, strict=True)
        ]
        drawn.append((_HEADINGS[target], [images, [*spectra, Tile(text=_ABOUT[target])]]))
    return drawn


def draw(drawn: Sequence[tuple[str, list[list[Tile]]]]) -> Image.Image:
    """Sections under each other on white, each a heading and rows of tiles."""
    columns = max(sum(tile.columns for tile in row) for _, rows in drawn for row in rows)
    row_h = [[SIZE + _GAP + (_LINE if any(t.label for t in row) else 0) for row in rows] for _, rows in drawn]
    heading_h = _HEADING + 14
    width = 2 * _MARGIN + columns * SIZE + (columns - 1) * _GAP
    height = 2 * _MARGIN + sum(heading_h + sum(rows) + _GAP for rows in row_h) - 2 * _GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for (heading, rows), heights in zip(drawn, row_h, strict=True):
        pen.text((_MARGIN, top), heading, fill=_INK, font=ImageFont.load_default(size=_HEADING))
        top += heading_h
        for row, used in zip(rows, heights, strict=True):
            left = _MARGIN
            for tile in row:
                _draw_tile(sheet, pen, tile, left, top)
                left += tile.columns * (SIZE + _GAP)
            top += used
        top += _GAP
    return sheet


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    """Draw one tile with its upper left corner there."""
    font = ImageFont.load_default(size=_TEXT)
    if tile.picture is not None:
        sheet.paste(Image.fromarray(to_uint8(tile.picture)), (left, top))
    if tile.circle is not None:
        x, y, r = left + SIZE // 2, top + SIZE // 2, tile.circle
        pen.ellipse((x - r, y - r, x + r, y + r), outline=_ORANGE, width=1)
    if tile.label:
        pen.text((left + SIZE / 2, top + SIZE + 5), tile.label, fill=_SOFT, font=font, anchor="mt")
    room = tile.columns * (SIZE + _GAP) - _GAP
    for paragraph in tile.text.splitlines():
        for line in wrap(paragraph, room - 8, font):
            pen.text((left + 4, top), line, fill=_INK, font=font)
            top += _LINE
        top += _LINE // 2
