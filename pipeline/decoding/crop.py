"""Which crop training cuts out of a photograph: its settings, and whether a split's store can give it."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from turbomim.pipeline.system.errors import UserError, need
from turbomim.pipeline.tars.store import RESAMPLINGS, Interpolation, Store

CropKind = Literal["src", "rrc"]

# src: pixels that are reflected around the resized photograph
PAD: Final = 4

# src: reflection needs PAD pixels beyond the edge pixel, also where the window lies PAD outside
MIN_SIZE: Final = 2 * PAD + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A square out of each photograph.

    kind: simple ("src") or random ("rrc") resized crop, see crop_draws.py; size: pixels of its side; scale:
    the least share of the image's area that rrc keeps, in (0, 1]; interpolation: the filter of the resize.
    Raises UsageError: no crop has these values.
    """

    kind: CropKind = "src"
    size: int
    scale: float = 0.2
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        need(self.kind in get_args(CropKind), "crop", repr(self.kind), "src or rrc")
        legal = " or ".join(RESAMPLINGS)
        need(self.interpolation in RESAMPLINGS, "interpolation", repr(self.interpolation), legal)
        need(0 < self.scale <= 1, "rrc_scale", self.scale, "above 0 and at most 1")
        if self.kind == "src":
            legal = f"at least {MIN_SIZE} pixels, the least that reflect padding allows"
            need(self.size >= MIN_SIZE, "size", self.size, legal)
        need(self.size >= 1, "size", self.size, "at least 1 pixel")

    def check_store(self, store: Store) -> None:
        """Raise UserError unless the crop can come out of photographs that are kept so."""
        if store.short_side is None:
            return
        kept, wanted = (store.short_side, store.resampling), (self.size, self.interpolation)
        if self.kind == "src" and kept != wanted:
            raise UserError(
                f"crop 'src' of {self.size} pixels, {self.interpolation}, cannot come out of a store of "
                f"short side {store.short_side}, {store.resampling}: remake the split with `--short-side "
                f"{self.size}` and `--resampling {self.interpolation}`, or use the store's values"
            )
        if store.short_side < self.size:
            raise UserError(
                f"image size {self.size} is above the store's short side of {store.short_side}: remake the "
                f"split with `--short-side {self.size}`, or use a smaller size"
            )
