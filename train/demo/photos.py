"""Demo photographs: rectangles cut from pictures that three pip packages ship.  Nothing is downloaded.

Every picture of mvtb-data, scikit-image and scikit-learn was looked at; GROUPS lists the photographs kept.
docs/demo-photographs.md says which were left out and why, and under which licences the others are.
"""

import hashlib
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import UserError, need
from turbomim.train.machine.processor import cores

_CAMPUS = [491, 493, 494, 495, 496, 497, 498, 499, 500, 501, 503, 504, 505, 506, 507, 509, 510, 512, 514, 515]
_CAMPUS_HOLDOUT = [492, 502, 508, 511, 513]
_MVTB, _SKIMAGE, _SKLEARN = "mvtbdata/images", "skimage/data", "sklearn/datasets/images"

# Photographs of one thing or place, near-twins of each other: (group, folder inside the package, files).
# A group is trained on whole or held out whole.  The order decides which: every third small one is held out.
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("campus", f"{_MVTB}/campus", (
        *(f"P1070{n}.png" for n in _CAMPUS), *(f"holdout/P1070{n}.png" for n in _CAMPUS_HOLDOUT),
    )),
    ("aerial", f"{_MVTB}/mosaic", (
        "aerialphoto.png", "aerial-08.png", "aerial-09.png", "aerial-10.png",
        "aerial2-001.png", "aerial2-004.png", "aerial2-007.png", "aerial2-010.png",
    )),
    ("tulips", _MVTB, tuple(f"flowers{n}.png" for n in (1, 3, 4, 5, 7, 8, 9))),
    ("building", _MVTB, ("building2-1.png", "building2-2.png", "building2-3.png")),
    ("notre-dame", _MVTB, ("notre-dame.png",)),
    ("church", _MVTB, ("church.png",)),
    ("butterfly", _MVTB, ("butterfly.jpg",)),
    ("pansies", _MVTB, ("flowers2.png",)),
    ("irises", _MVTB, ("flowers6.png",)),
    ("park", _MVTB, ("parks.png",)),
    ("road", _MVTB, ("road.png",)),
    ("eiffel", _MVTB, ("eiffel-1.png", "eiffel-2.png")),
    ("roof", _MVTB, ("roof.png",)),
    ("walls", _MVTB, ("walls-l.png", "walls-r.png")),
    ("street", _MVTB, ("street.png",)),
    ("tomatoes", _MVTB, ("tomato_14.png", "tomato_35.png", "tomato_54.png", "tomato_124.png")),
    ("dahlia", _SKLEARN, ("flower.jpg",)),
    ("cat", _SKIMAGE, ("chelsea.png",)),
    ("coins", _SKIMAGE, ("coins.png",)),
    ("astronaut", _SKIMAGE, ("astronaut.png",)),
    ("coffee", _SKIMAGE, ("coffee.png",)),
    ("rocket", _SKIMAGE, ("rocket.jpg",)),
    ("cameraman", _SKIMAGE, ("camera.png",)),
    ("motorcycle", _SKIMAGE, ("motorcycle_left.png", "motorcycle_right.png")),
    ("brick", _SKIMAGE, ("brick.png",)),
    ("gravel", _SKIMAGE, ("gravel.png",)),
    ("temple", _SKLEARN, ("china.jpg",)),
    ("grass", _SKIMAGE, ("grass.png",)),
    ("rocks", _MVTB, ("rocks2-l.png", "rocks2-r.png")),
)  # fmt: skip

# what pip calls the packages, and the versions the table was made from
_DISTRIBUTIONS = {
    "mvtbdata": ("mvtb-data", "1.6.1"),
    "skimage": ("scikit-image", "0.26.0"),
    "sklearn": ("scikit-learn", "1.9.1"),
}
# groups of more photographs than this are always trained on
_SMALL_GROUP = 4
# one of so many small groups is held out
HOLDOUT_EVERY = 3
# part of the images that is held out: 64 of 480
_HELDOUT_SHARE = 2 / 15
# longest and shortest side of a result, pixels
_LONG, _SHORT = 500, 375
# a rectangle's long side is at least this many pixels, or the photograph's whole side
_LEAST_LONG = 256
_REPORT = "photos.json"
_SOURCE_LISTS = ("train_sources", "heldout_sources")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One photograph: its folder name in the cut set, its group, and its path below site-packages."""

    name: str
    group: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotosReport:
    """What a cut set holds; also written as photos.json beside train/ and heldout/."""

    images: int
    seed: int
    holdout_every: int
    # sha256 of GROUPS: another table makes another set
    table: str
    train_images: int
    heldout_images: int
    train_sources: tuple[str, ...]
    heldout_sources: tuple[str, ...]
    bytes: int


def sources() -> tuple[Source, ...]:
    """All photographs of GROUPS, in order.  Names have no dot and no space."""
    return tuple(
        Source(name=Path(file).stem.lower(), group=group, path=f"{folder}/{file}")
        for group, folder, files in GROUPS
        for file in files
    )


def heldout_groups() -> frozenset[str]:
    """Every `HOLDOUT_EVERY`-th of the groups of at most four photographs, in table order."""
    small = [group for group, _, files in GROUPS if len(files) <= _SMALL_GROUP]
    return frozenset(small[HOLDOUT_EVERY - 1 :: HOLDOUT_EVERY])


def cut_photos(dst: Path, *, images: int = 480, seed: int = 0) -> PhotosReport:
    """Cut `images` JPEGs into dst/train/SOURCE/SOURCE_0001.jpg and dst/heldout/…, one folder a photograph.

    2 of 15 images are held out, from every `HOLDOUT_EVERY`-th small group, so that no held-out photograph
    has a near-twin in training.  Sides are at most 500 and 375 pixels; nothing is enlarged.
    The same arguments, packages and Pillow give the same bytes.  The folder appears complete or not at all; a
    complete one made with the same arguments is returned at once.
    Raises UserError if a package is missing or holds other files, if `dst` holds something else, or if an
    argument is out of range.
    """
    need(images >= 16, "images", images, "at least 16, so that some can be held out")
    check_seed("seed", seed)
    wanted = {"images": images, "seed": seed, "holdout_every": HOLDOUT_EVERY, "table": _table_digest()}
    made = _already_made(dst, wanted)
    if made is not None:
        return made

    paths = locate(sources())
    plan = _plan(paths, images, heldout_groups())
    part = dst.parent / f".{dst.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        size = _cut_all(part, plan, paths, seed)
        report = PhotosReport(
            images=images, seed=seed, holdout_every=HOLDOUT_EVERY, table=_table_digest(), bytes=size,
            train_images=sum(n for split, _, n in plan if split == "train"),
            heldout_images=sum(n for split, _, n in plan if split == "heldout"),
            train_sources=tuple(s.name for split, s, _ in plan if split == "train"),
            heldout_sources=tuple(s.name for split, s, _ in plan if split == "heldout"),
        )  # fmt: skip
        (part / _REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
        # an empty folder is replaced; one that was filled meanwhile is an error
        part.replace(dst)
    except OSError as error:
        raise write_error(dst, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def locate(wanted: Sequence[Source]) -> dict[str, Path]:
    """Path of each source by name, found without importing the packages.

    Raises UserError naming the package that is missing, or the file that its installed version lacks.
    """
    paths = {}
    for source in wanted:
        package, _, inside = source.path.partition("/")
        name, version = _DISTRIBUTIONS[package]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f'the demo photographs need {name}, which is not installed: pip install "turbomim[demo]"'
            )
        path = Path(next(iter(spec.submodule_search_locations))) / inside
        if not path.is_file():
            raise UserError(f"{path} is missing from the installed {name}: pip install {name}=={version}")
        paths[source.name] = path
    return paths


def _table_digest() -> str:
    return hashlib.sha256(repr(GROUPS).encode()).hexdigest()


def _already_made(dst: Path, wanted: dict[str, object]) -> PhotosReport | None:
    """The report of a complete set made with the same arguments; None if there is nothing at `dst`."""
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return None
    remedy = "remove it or choose another folder"
    try:
        values: dict[str, Any] = json.loads((dst / _REPORT).read_text(encoding="utf-8"))
        report = PhotosReport(**{**values, **{k: tuple(values[k]) for k in _SOURCE_LISTS}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{dst} is there and holds no demo photographs: {remedy}") from error
    different = [f"{name} {values[name]}" for name, value in wanted.items() if values[name] != value]
    if different:
        raise UserError(f"{dst} holds photographs cut with {', '.join(different)}: {remedy}")
    found = [path.stat().st_size for split in ("train", "heldout") for path in (dst / split).glob("*/*.jpg")]
    if (len(found), sum(found)) != (report.images, report.bytes):
        raise UserError(
            f"{dst} holds {len(found)} photographs of {sum(found)} bytes, "
            f"its {_REPORT} says {report.images} of {report.bytes}: {remedy}"
        )
    return report


def _plan(paths: dict[str, Path], images: int, heldout: frozenset[str]) -> list[tuple[str, Source, int]]:
    """(split, source, number of rectangles), sources without one left out."""
    plan = []
    heldout_images = round(images * _HELDOUT_SHARE)
    for split, count in (("train", images - heldout_images), ("heldout", heldout_images)):
        chosen = [source for source in sources() if (source.group in heldout) == (split == "heldout")]
        shares = spread(count, [_weight(paths[source.name]) for source in chosen])
        plan += [(split, source, share) for source, share in zip(chosen, shares, strict=True) if share]
    return plan


def _weight(path: Path) -> float:
    """Share of a photograph, 1 to 4: the square root of how many results its pixels would fill."""
    with Image.open(path) as image:
        return min(4.0, max(1.0, math.sqrt(image.width * image.height / (_LONG * _SHORT))))


def spread(count: int, weights: Sequence[float]) -> list[int]:
    """Split `count` into whole shares proportional to `weights`, each off by less than 1, in sum `count`."""
    total = sum(weights)
    edges = [int(count * reached / total + 0.5) for reached in itertools.accumulate(weights)]
    return [upper - lower for lower, upper in itertools.pairwise([0, *edges])]


def _cut_all(part: Path, plan: list[tuple[str, Source, int]], paths: dict[str, Path], seed: int) -> int:
    """Cut every source into `part`, on all cores; bytes written."""
    jobs = [(paths[source.name], part / split / source.name, count, seed) for split, source, count in plan]
    # the longest jobs first, so that the cores end together
    jobs.sort(key=lambda job: -job[0].stat().st_size)
    workers = min(cores(), 8)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(_cut_source, *zip(*jobs, strict=True)))


def _cut_source(path: Path, folder: Path, count: int, seed: int) -> int:
    """Write `count` rectangles of one photograph; bytes written.  Draws depend on seed and name alone."""
    rng = np.random.default_rng([seed, zlib.crc32(folder.name.encode())])
    folder.mkdir(parents=True)
    written = 0
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for number in range(1, count + 1):
        box, size = rectangle(image.size, rng.random(4))
        file = folder / f"{folder.name}_{number:04d}.jpg"
        # reducing_gap halves large rectangles first; 3.0 is as good as none to the eye
        cut = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        cut.save(file, "JPEG", quality=92 + int(4 * rng.random()), subsampling="4:2:0")
        written += file.stat().st_size
    return written


def rectangle(
    photograph: tuple[int, int], draws: Sequence[float] | npt.NDArray[np.float64]
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A 4:3 or 3:4 rectangle of a photograph and the size to reduce it to.

    photograph (width, height) pixels; draws: four numbers in [0, 1) for direction, long side, left, top.
    Returns the box (left, top, right, bottom) and (width, height), at most 500×375 or 375×500 and never above
    the box.  The rectangle lies along the photograph's long side four times out of five.  Its long side is
    log-uniform between the result's 500 (in a small photograph 60 % of what fits) and the largest that fits.
    """
    width, height = photograph
    across = (width >= height) == (draws[0] < 0.8)
    ratio = (_LONG, _SHORT) if across else (_SHORT, _LONG)
    # largest k with k·ratio inside the photograph, as a length of the long side
    most = min(width / ratio[0], height / ratio[1]) * _LONG
    least = min(most, max(_LEAST_LONG, min(_LONG, 0.6 * most)))
    long = least * (most / least) ** float(draws[1])
    box_size = (min(width, round(long * ratio[0] / _LONG)), min(height, round(long * ratio[1] / _LONG)))
    left = int((width - box_size[0] + 1) * float(draws[2]))
    top = int((height - box_size[1] + 1) * float(draws[3]))
    size = (min(ratio[0], box_size[0]), min(ratio[1], box_size[1]))
    return (left, top, left + box_size[0], top + box_size[1]), size
