"""The crop of evaluation for one photograph in memory: what a loaded model brings with it.

Shapes: S the crop's side, C channels.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crop
from turbomim.pipeline.decoding.decode import rgb_pixels
from turbomim.train.encoder.features import normalised
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, slots=True)
class Transform:
    """A Pillow image to what an encoder takes: short side resized, the central square, normalised.

    As everywhere here, EXIF orientation is ignored, alpha dropped.  mean, std: of red, green, blue, 0 to 1.
    """

    crop: CentreCrop
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: Image.Image) -> Tensor:
        """The image as (3, S, S) float32."""
        crop_HWC = torch.from_numpy(centre_crop(rgb_pixels(image), self.crop))
        return normalised(crop_HWC[None], self.mean, self.std)[0]
