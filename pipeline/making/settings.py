"""What is made of photographs: the settings of `turbomim shard make`, said once for all that need them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import UsageError, UserError, at_least_one
from turbomim.pipeline.tars.store import (
    KINDS,
    RESAMPLINGS,
    SUBSAMPLINGS,
    Interpolation,
    Kind,
    Store,
    Subsampling,
)

Check = Literal["header", "full"]
OnBad = Literal["quarantine", "fail"]

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")

# what each kind of store has, and nothing else, with the values where none are given
USUAL: dict[Kind, dict[str, Any]] = {
    "original": {},
    "resized": {"short_side": 224, "resampling": "bicubic", "quality": 95, "subsampling": "4:4:4"},
    "raw": {"short_side": 224, "resampling": "bicubic"},
}


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What shards are made of photographs.  The text below a field is also the help of its flag."""

    name: str | None = None
    """Data set name, first part of every shard's name; the source's name if not given."""
    split: str = "train"
    """Second part of every shard's name."""
    root: Path | None = None
    """What the paths of a list start from; the list's folder if not given."""
    columns: str | None = None
    """What a list's columns are called, path=NAME,label=NAME (label= for none); usual names if not given."""
    skip: str | None = None
    """Names in SRC to pass over, PATTERN[,PATTERN], beside hidden ones, @eaDir, __MACOSX and their like."""
    shard_size: int | None = None
    """Images a shard; 1000 if neither this nor --shard-count is given."""
    shard_count: int | None = None
    """Shards in all, of equal size."""
    store: Kind = "original"
    """What is kept: original bytes, or images with the short side resized, JPEG (resized) or pixels (raw)."""
    short_side: int | None = None
    """Of resized and raw images, pixels: the size that training crops to; 224 if not given."""
    resampling: Interpolation | None = None
    """Filter of the resize, antialiased: the one that the recipe names; bicubic if not given."""
    quality: int | None = None
    """Of resized JPEGs, 1 to 100; 95 if not given."""
    subsampling: Subsampling | None = None
    """Of the colours of resized JPEGs: 4:4:4 keeps them all, 4:2:0 a quarter; 4:4:4 if not given."""
    check: Check = "header"
    """Whether every image's header is checked, or every pixel is decoded."""
    on_bad: OnBad = "quarantine"
    """What to do with an image that is not fit: name it in bad.jsonl, or stop."""
    min_side: int = 32
    """Images with a shorter side are not fit, pixels."""
    seed: int = 0
    """Seed of the global shuffle."""

    def stored_as(self) -> Store:
        """How photographs are kept, with the usual values of what this kind of store has and nobody gave."""
        given = {name: value for name in USUAL["resized"] if (value := getattr(self, name)) is not None}
        return Store(kind=self.store, **USUAL[self.store] | given)


def check_settings(settings: ShardSettings) -> None:
    """Raise UserError for a setting that cannot be, UsageError for those that exclude each other."""
    for option, value, choices in (
        ("--on-bad", settings.on_bad, get_args(OnBad)),
        ("--check", settings.check, get_args(Check)),
        ("--store", settings.store, KINDS),
        ("--resampling", settings.resampling, (None, *RESAMPLINGS)),
        ("--subsampling", settings.subsampling, (None, *SUBSAMPLINGS)),
    ):
        if value not in choices:
            raise UsageError(f"{option} is {value!r}: give {' or '.join(filter(None, choices))}")
    for option, word in (("--name", settings.name), ("--split", settings.split)):
        if word is not None and not WORD.fullmatch(word):
            raise UserError(
                f"{option} is {word!r}, which goes into file names: give at most 100 letters, digits, "
                "'-' and '_', with a letter or digit first"
            )
    if settings.shard_size is not None and settings.shard_count is not None:
        raise UsageError("--shard-size and --shard-count exclude each other: give one")
    at_least_one("--shard-size", settings.shard_size)
    at_least_one("--shard-count", settings.shard_count)
    at_least_one("--min-side", settings.min_side)
    at_least_one("--short-side", settings.short_side)
    check_seed("--seed", settings.seed)
    if settings.quality is not None and not 1 <= settings.quality <= 100:
        raise UserError(f"--quality is {settings.quality}: it must be 1 to 100")
    usual, given = tuple(USUAL[settings.store]), tuple(settings.stored_as().to_json())[1:]
    if given != usual:
        wanted = ", ".join(usual) or "no settings"
        raise UsageError(f"a store of kind {settings.store!r} has {wanted}, not {', '.join(given)}")
