"""How a split keeps its photographs: as they were, or with the deterministic half of the crop done before."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from turbomim.pipeline.system.errors import UserError

Kind = Literal["original", "resized", "raw"]
Interpolation = Literal["bicubic", "bilinear"]
Subsampling = Literal["4:4:4", "4:2:0"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RESAMPLINGS: tuple[Interpolation, ...] = get_args(Interpolation)
SUBSAMPLINGS: tuple[Subsampling, ...] = get_args(Subsampling)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """kind: "original" bytes; "resized" JPEG or "raw" RGB pixels (PPM), both with the short side resized.

    short_side: pixels after the resize; resampling: its filter, antialiased, "bicubic" or "bilinear";
    quality: of the JPEG, 1 to 100; subsampling: of its chroma.  What a kind does not use is None.
    """

    kind: Kind = "original"
    short_side: int | None = None
    resampling: Interpolation | None = None
    quality: int | None = None
    subsampling: Subsampling | None = None

    def to_json(self) -> dict[str, Any]:
        """What a manifest records, without what this kind does not use."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Self:
        """Read the store out of a manifest's `made`.  Raises UserError if a newer version wrote it."""
        record = made.get("store", "original")
        # the first version wrote only the kind
        store = dict(record) if isinstance(record, Mapping) else {"kind": record}
        if store.get("kind") not in KINDS or not store.keys() <= {field.name for field in fields(cls)}:
            raise UserError(
                f"the manifest's store is {record!r}, which this version cannot read: update turbomim"
            )
        return cls(**store)
