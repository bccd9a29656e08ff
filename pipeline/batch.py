"""What the loader hands to training.  Shape suffixes: B samples, H W pixels, C channels."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """A micro-batch on the training device; it stays valid as long as it is held.

    images (B, H, W, C) uint8 RGB, contiguous; labels, ids, epochs (B,) int64; position: of its first sample.
    """

    images_BHWC: Tensor
    labels_B: Tensor
    ids_B: Tensor
    epochs_B: Tensor
    position: int

    def __repr__(self) -> str:
        images = self.images_BHWC
        return f"Batch: images {tuple(images.shape)} on {images.device}, at {self.position:,}"
