"""`turbomim show --targets IMAGE`: what each reconstruction target keeps of a photograph.

Shapes: N patches, P values of a patch, H W pixels (H == W == SIZE).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from turbomim.kernels.masked_patches import targets_of_whole_images
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.pipeline.checking.sheet import Layout, Tile, headings_strip, tiles_strip, write_sheet
from turbomim.pipeline.decoding.decode import rgb_pixels
from turbomim.pipeline.system.durable import make_folder_of
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.train.pictures.pixels import FloatArray, to_uint8, unpatchify
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD

SIZE, PATCH = 224, 16
# cycles per image; the published cut-off is 40, and it is the one whose normalised target is drawn
RADII, PUBLISHED = (10, 20, 40, 80), 40
# decades of amplitude below the spectrum's largest that are drawn; the rest is black
_DECADES = 5
# standard deviations of a normalised patch that black and white stand for
_CONTRAST = 3

_ORANGE = "#ff8c1a"
_LAYOUT = Layout(columns=5, tile_width=SIZE, tile_height=SIZE)

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
_ABOUT: dict[TargetKind, str] = {
    "gaussian": "A Gaussian blur: waves fade smoothly, to 61 % of their amplitude at the radius (76 % at 80, "
    "a blur of less than half a pixel). Edges stay clean. The default of the PixMIM recipes here.",
    "ideal": "The published disc: waves inside stay whole, waves outside go. The sharp cut leaves ripples "
    "beside edges, and taking the modulus puts a faint haze outside the circle.",
}
_HEADINGS: dict[TargetKind, str] = {
    "raw": "Raw target: the photograph itself (MAE)",
    "gaussian": "Gaussian low-pass target",
    "ideal": "Ideal low-pass target (PixMIM as published)",
}


def draw_targets(image: Path, out: Path | None = None) -> Path:
    """Write the picture of a photograph's targets and return its path.

    Raises UserError if the file is no image that Pillow reads, or if the picture cannot be written.
    """
    photograph_HWC = read_photograph(image)
    out = out or Path(f"{image.stem}-targets.png")
    make_folder_of(out)
    strips: list[Image.Image] = []
    for heading, rows in target_sections(photograph_HWC):
        strips += [headings_strip(_LAYOUT, [heading]), *(tiles_strip(_LAYOUT, row) for row in rows)]
    write_sheet(strips, out)
    return out


def read_photograph(path: Path) -> torch.Tensor:
    """The middle square of an image at SIZE pixels, (SIZE, SIZE, 3) uint8.  Raises UserError."""
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            upright = Image.fromarray(rgb_pixels(image))
    # a broken file raises almost anything: each format has a reader of its own
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"--targets {path} cannot be read: {explain(error, 'give a JPEG or PNG')}") from error
    square = ImageOps.fit(upright, (SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square))


def target_picture(
    photograph_HWC: torch.Tensor, target: TargetKind, radius: float, *, normalised: bool = False
) -> FloatArray:
    """The target of every patch as one picture (SIZE, SIZE, 3) float: 0..1, or in deviations."""
    wanted = PatchTarget(
        patch=PATCH,
        kind=target,
        radius=float(radius),
        norm_pix=normalised,
        mean=IMAGENET_MEAN if normalised else (0.0, 0.0, 0.0),
        std=IMAGENET_STD if normalised else (1.0, 1.0, 1.0),
    )
    target_1NP, _ = targets_of_whole_images(photograph_HWC[None], wanted)
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


def target_sections(photograph_HWC: torch.Tensor) -> list[tuple[str, list[list[Tile]]]]:
    """What to draw: (heading, rows of tiles) of the raw, the Gaussian and the ideal target."""
    raw = target_picture(photograph_HWC, "raw", PUBLISHED)
    # a flat photograph has no waves
    largest = max(float(amplitudes(raw).max()), 1e-9)

    def normalised(target: TargetKind, label: str) -> Tile:
        deviations = target_picture(photograph_HWC, target, PUBLISHED, normalised=True)
        return _picture_tile(0.5 + deviations / (2 * _CONTRAST), label)

    first = [
        _picture_tile(raw, "photograph"),
        _picture_tile(spectrum_picture(raw, largest), "its spectrum"),
        Tile(text="\n".join(_INTRODUCTION), columns=2),
        normalised("raw", "normalised by patch"),
    ]
    drawn = [(_HEADINGS["raw"], [first])]
    filters: tuple[TargetKind, ...] = ("gaussian", "ideal")
    for target in filters:
        pictures = [target_picture(photograph_HWC, target, radius) for radius in RADII]
        images = [
            _picture_tile(picture, f"radius {radius}")
            for picture, radius in zip(pictures, RADII, strict=True)
        ]
        images.append(normalised(target, f"radius {PUBLISHED}, normalised by patch"))
        spectra = [
            Tile(picture=_circled(spectrum_picture(picture, largest), radius))
            for picture, radius in zip(pictures, RADII, strict=True)
        ]
        drawn.append((_HEADINGS[target], [images, [*spectra, Tile(text=_ABOUT[target])]]))
    return drawn


def _picture_tile(picture_HWC: FloatArray, label: str) -> Tile:
    return Tile(picture=Image.fromarray(to_uint8(picture_HWC)), labels=(label,))


def _circled(picture_HWC: FloatArray, radius: float) -> Image.Image:
    """The picture of a spectrum with a circle of `radius` pixels around its zero frequency."""
    image, middle = Image.fromarray(to_uint8(picture_HWC)), SIZE // 2
    box = middle - radius, middle - radius, middle + radius, middle + radius
    ImageDraw.Draw(image).ellipse(box, outline=_ORANGE, width=1)
    return image
