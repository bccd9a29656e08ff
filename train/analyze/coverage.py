"""`turbomim analyze coverage`: what the crops of training keep of photographs, and of objects in them.

Geometry alone, of the very windows that training cuts and the very masks that it draws: no pixel is decoded.
An object's share is by area, of its outline or box.  The mirrored border of src counts as nothing.
Source: arXiv:2303.02416, which gives such shares for its random and its simple resized crop.

Suffixes: B samples, K units kept, G units a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from turbomim.kernels.masking import random_masking
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.crop_windows import crop_windows, stored_sides
from turbomim.pipeline.making.photographs import key_characters
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.keys import split_key
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.store import Interpolation, Store
from turbomim.train.analyze.annotations import Annotations, photographs_of, read_annotations
from turbomim.train.analyze.objects import Objects, area, cell_areas
from turbomim.train.analyze.options import Coverage, check_unit, kept_units
from turbomim.train.analyze.result import TextTable, prepare_folder, settings_of, write_analysis
from turbomim.train.evaluate.splits import choose_ids
from turbomim.train.pictures.plot import COLOURS, label_axes, new_figure
from turbomim.train.settings.flags import check_least, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# of the histograms over shares from 0 to 1
BINS = 20
# areas in shares of the image that are more than rounding
LEAST_AREA = 1e-12
# heights and widths of an annotation file and a split are of the same photograph within this
ASPECT = 0.02

PANELS = {
    "image": "of the image's area, in the crop",
    "object": "of an object's area, in the crop",
    "visible": "of an object's area, in visible patches",
}


def analyze_coverage_command(argv: list[str]) -> None:
    """`turbomim analyze coverage --data SHARDS [--boxes COCO.json]`.  Raises UserError."""
    options = parse(Coverage, argv, "turbomim analyze coverage")
    check_least(samples=(options.samples, 0), epochs=(options.epochs, 1))
    check_seed("--seed", options.seed)
    units = units_a_side(options)
    split = open_split(options.data)
    store = Store.of(split.manifest.made)
    filtering = store.resampling or "bicubic"
    crops = {word: crop_of(word, options.size, filtering) for word in options.crops.split(",")}
    for crop in crops.values():
        crop.check_store(store)
    ids_B = choose_ids(split, options.samples)
    annotations = read_annotations(options.boxes) if options.boxes else None
    objects = match_objects(split, ids_B, annotations) if annotations else {}
    sides_B2 = stored_sides(split, ids_B)
    check_sides(split, dict(zip(ids_B.tolist(), sides_B2.tolist(), strict=True)), objects)
    out = prepare_folder(options.out, "coverage")
    shares = {word: shares_of(crop, ids_B, sides_B2, objects, units, options) for word, crop in crops.items()}
    results = {
        word: {name: summarise_shares(values) for name, values in found.items()}
        for word, found in shares.items()
    }
    for word, found in shares.items():
        if objects:
            results[word]["hidden"] = {"share": float(np.mean(found["visible"] <= LEAST_AREA))}
    count = sum(len(found.outlines) for found in objects.values())
    left_out = {why: number for why, number in annotations.left_out.items() if number} if annotations else {}
    for why, number in left_out.items():
        print(f"annotations left out of {options.boxes}: {number:,} {why}")
    title = f"{len(ids_B)} images of {options.data}, {options.epochs} crops of each, {count} objects"
    settings = settings_of(
        options,
        samples=len(ids_B),
        annotated=len(objects),
        objects=count,
        left_out=left_out,
        fingerprint=split.manifest.fingerprint,
    )
    write_analysis(
        out,
        "coverage",
        settings=settings,
        results=results,
        table=table_of_means(results, f"{title}: mean share kept, %"),
        draw=lambda: draw_shares(shares, options),
    )


def crop_of(word: str, size: int, interpolation: Interpolation) -> Crop:
    """The crop of a word like rrc:0.2 or src.  Raises UsageError."""
    name, _, text = word.partition(":")
    try:
        scale = float(text or 0.2)
    except ValueError:
        scale = 0.0
    if name not in ("rrc", "src") or (name == "src" and text) or not 0 < scale <= 1:
        raise UsageError(f"--crops {word!r}: must be src, or rrc:SCALE with a scale above 0 and at most 1")
    kind: CropKind = "src" if name == "src" else "rrc"
    return Crop(kind=kind, size=size, scale=scale, interpolation=interpolation)


def units_a_side(options: Coverage) -> int:
    """Mask units a side of a crop.  Raises UsageError if they do not tile it, or the ratio leaves none."""
    check_unit("--mask-unit", options.mask_unit, options.size, "crop")
    units = options.size // options.mask_unit
    if not 0 < kept_units(options.size, options.mask_unit, options.mask_ratio) < units**2:
        raise UsageError(
            f"--mask-ratio {options.mask_ratio}: must keep 1 to {units**2 - 1} of {units**2} units"
        )
    return units


def match_objects(split: Split, ids_B: NDArray[np.int64], annotations: Annotations) -> dict[int, Objects]:
    """Objects by sample id, of the samples whose photographs are annotated.

    Raises UserError if none is, or if none of them has an object.
    """
    members = {sample: split.locate(sample).rsplit(":", 2)[1] for sample in ids_B.tolist()}
    rule = Members.of(split.manifest.made).keys
    keys = {
        sample: key_characters(split_key(member, rule)[0].replace("/", "_"))
        for sample, member in members.items()
    }
    names, annotated = photographs_of(keys.values(), annotations.by_name), annotations.by_name
    found = {sample: annotated[names[key]] for sample, key in keys.items() if key in names}
    if not found:
        first, last = next(iter(annotated), "no image"), next(reversed(members.values()))
        raise UserError(
            f"--boxes: none of {len(ids_B)} samples of {split.place} (the last is {last}) is one of its "
            f"{len(annotated)} images (the first is {first}): give the file of these photographs"
        )
    if not any(objects.outlines for objects in found.values()):
        raise UserError(
            f"--boxes: none of the {len(found)} samples of {split.place} that it lists has an object: give "
            "the file of these photographs, with its annotations"
        )
    return found


def check_sides(split: Split, sides: Mapping[int, list[int]], objects: Mapping[int, Objects]) -> None:
    """Raise UserError if an image was annotated at another shape: turned, or cut."""
    for sample, found in objects.items():
        height, width = sides[sample]
        ratio = (height / width) / (found.sides[0] / found.sides[1])
        # a resize rounds sides
        if abs(ratio - 1) > ASPECT + 1 / min(height, width):
            raise UserError(
                f"--boxes: {split.locate(sample)} has {width} x {height} pixels, and the file says "
                f"{found.sides[1]:g} x {found.sides[0]:g}: give the file of these photographs"
            )


def shares_of(
    crop: Crop,
    ids_B: NDArray[np.int64],
    sides_B2: NDArray[np.int64],
    objects: Mapping[int, Objects],
    units: int,
    options: Coverage,
) -> dict[str, NDArray[np.float64]]:
    """Shares from 0 to 1 by kind (see PANELS), one an image, or an object, and epoch."""
    kinds = PANELS if objects else ("image",)
    shares: dict[str, list[float]] = {kind: [] for kind in kinds}
    keep = kept_units(options.size, options.mask_unit, options.mask_ratio)
    for epoch in range(options.epochs):
        turn = Turn(position=0, epochs_B=np.full_like(ids_B, epoch), ids_B=ids_B)
        windows_B22, flips_B = crop_windows(crop, options.seed, turn, sides_B2)
        shares["image"] += np.diff(windows_B22.clip(0, 1), axis=1).prod((1, 2)).tolist()
        if not objects:
            continue
        epochs_B, samples_B = (torch.from_numpy(numbers_B) for numbers_B in (turn.epochs_B, ids_B))
        keep_BK, _ = random_masking(options.seed, epochs_B, samples_B, units**2, keep)
        for place, sample in enumerate(ids_B.tolist()):
            kept_GG = np.zeros(units**2)
            kept_GG[keep_BK[place].numpy()] = 1
            kept_GG = kept_GG.reshape(units, units)[:, :: -1 if flips_B[place] else 1]
            for outlines in objects[sample].outlines if sample in objects else ():
                whole = sum(map(area, outlines))
                inside_GG = areas_in(windows_B22[place], units, outlines)
                shares["object"].append(inside_GG.sum() / whole)
                shares["visible"].append((inside_GG * kept_GG).sum() / whole)
    return {name: np.array(values) for name, values in shares.items()}


def areas_in(
    window_22: NDArray[np.float64], units: int, outlines: Iterable[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Area of an object in each mask unit of a window, (G, G), before a flip."""
    (top, left), (bottom, right) = window_22
    rows, columns = np.linspace(top, bottom, units + 1), np.linspace(left, right, units + 1)
    areas: NDArray[np.float64] = np.sum([cell_areas(part, rows, columns) for part in outlines], axis=0)
    return areas


def summarise_shares(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, quartiles and histogram over [0, 1] of shares; rounding beyond is cut off."""
    values = values.clip(0, 1)
    quarter, median, three = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        "mean": float(values.mean()),
        "quartiles": [float(quarter), float(median), float(three)],
        "histogram": np.histogram(values, BINS, (0, 1))[0].tolist(),
    }


def table_of_means(results: dict[str, dict[str, Any]], title: str) -> TextTable:
    """The mean shares, a row a crop."""
    kinds = list(next(iter(results.values())))
    names = {"image": "image", "object": "object", "visible": "object, visible", "hidden": "objects hidden"}
    return TextTable(
        title=title,
        columns=["crop", *(names[kind] for kind in kinds)],
        rows=[
            [word, *(f"{100 * found[kind].get('mean', found[kind].get('share')):.1f}" for kind in kinds)]
            for word, found in results.items()
        ],
    )


def draw_shares(shares: dict[str, dict[str, NDArray[np.float64]]], options: Coverage) -> Figure:
    """A panel a kind of share, with a histogram a crop."""
    kinds = list(next(iter(shares.values())))
    figure = new_figure(6.5, 1.2 + 2.2 * len(kinds))
    panels = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
    for panel, kind in zip(panels, kinds, strict=True):
        for number, (word, found) in enumerate(shares.items()):
            colour, mean = COLOURS[number % len(COLOURS)], found[kind].mean()
            counts, edges = np.histogram(found[kind].clip(0, 1), BINS, (0, 1))
            panel.stairs(
                counts / counts.sum(), edges, color=colour, linewidth=1.6, label=f"{word}: mean {mean:.2f}"
            )
            panel.axvline(mean, color=colour, linestyle=":", linewidth=1.2)
        text = f"share {PANELS[kind]}"
        if kind == "visible":
            text += f" ({options.mask_ratio:g} masked, units of {options.mask_unit} px)"
        panel.set_xlim(0, 1)
        panel.legend(fontsize=8, frameon=False, loc="best")
        label_axes(panel, text, "share of crops" if kind == "image" else "share of objects")
    return figure
