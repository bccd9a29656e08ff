"""Which photograph does a crop come from?  The demo's held-out crops are asked, and the nearest one answers.

No class is needed: a crop's label is the photograph that it was cut from, near-twins of one thing or place
counted as one.  Suffixes: N crops, D values of a feature.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.tars.split import open_split
from turbomim.train.demo.photos import sources
from turbomim.train.encoder.features import PIXELS, every_feature, extract, load_run, trained_and_random
from turbomim.train.evaluate.knn import knn
from turbomim.train.machine.processor import cores
from turbomim.train.world.distributed import choose_device

BATCH = 64
MEASURE = "nearest crop"
# rows of the table: features by name, as people read them
ROWS = {
    "trained: mean of patch tokens": "trained encoder",
    "random weights: mean of patch tokens": "random weights",
    PIXELS: "raw pixels",
    "chance": "chance",
}


def which_photograph(run: Path, heldout: Path) -> dict[str, Any] | None:
    """Ask the crops of `heldout`, shards of `cut_photos`, by a run's newest checkpoint; None if too few.

    The result is kept as RUN/eval/source.json: run, step, scores {feature: {measure: share}}, and what was
    asked.  Beside the trained encoder stand the same one with random weights, raw pixels, and chance.
    """
    config, model, step = load_run(run)
    split = open_split(heldout)
    crops = centre_crops(
        split,
        np.arange(split.manifest.samples),
        CentreCrop(size=config.data.size, interpolation=config.data.interpolation),
        batch=BATCH,
        threads=cores(),
    )
    device = choose_device("auto", 0)
    encoders = {name: each.to(device).eval() for name, each in trained_and_random(model, config).items()}
    found = extract(crops, partial(every_feature, encoders), device)
    group_of = {source.name: source.group for source in sources()}
    groups = [group_of.get(name, name) for name in split.manifest.classes]
    labels_N = torch.tensor([groups.index(group) for group in groups])[found.labels_N]
    one, two = split_in_halves(labels_N)
    photographs = len(set(labels_N[one].tolist()))
    if photographs < 2:
        return None
    result = {
        "run": str(run),
        "step": step,
        "question": "which photograph does this crop come from?",
        "photographs": photographs,
        "crops": len(one) + len(two),
        "scores": {
            name: {MEASURE: share_recognised(values_ND, labels_N)}
            for name, values_ND in found.by_name.items()
        }
        | {"chance": {MEASURE: share_by_chance(labels_N)}},
    }
    write_json(run / "eval" / "source.json", result)
    return result


def split_in_halves(labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Places of every photograph's crops, by turns in one half and the other; a single crop is in neither."""
    places = [(labels_N == label).nonzero().flatten() for label in sorted(set(labels_N.tolist()))]
    pairs = [(each[::2], each[1::2]) for each in places if len(each) > 1]
    none = labels_N.new_empty(0)
    return torch.cat([none, *(one for one, _ in pairs)]), torch.cat([none, *(two for _, two in pairs)])


def share_recognised(values_ND: Tensor, labels_N: Tensor) -> float:
    """Share of crops whose nearest one in the other half is of the same photograph."""
    one, two = split_in_halves(labels_N)
    right = 0.0
    for gallery, asked in ((one, two), (two, one)):
        parts = values_ND[gallery], labels_N[gallery], values_ND[asked], labels_N[asked]
        right += len(asked) * knn(*parts, neighbours=1).majority
    return right / (len(one) + len(two))


def share_by_chance(labels_N: Tensor) -> float:
    """Share of right answers if any crop of the other half were as near as any other."""
    one, two = (labels_N[half] for half in split_in_halves(labels_N))
    return (one[:, None] == two).double().mean().item()


def table_of_shares(result: dict[str, Any]) -> str:
    """The scores in %, one line each, between what was asked and how to read them."""
    head = (
        f"{result['question']}  {result['crops']} held-out crops of {result['photographs']} photographs, "
        "the nearest other crop answers:"
    )
    rows = [f"  {label:<16}{100 * result['scores'][name][MEASURE]:5.1f} %" for name, label in ROWS.items()]
    tail = (
        f"  one crop is {100 / result['crops']:.1f} %; random weights keep colours and texture, "
        "which crops of one photograph share"
    )
    return "\n".join([head, *rows, tail])
