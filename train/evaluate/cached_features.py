"""Frozen features of central crops, made once and kept in a file beside the run.

Its name is a digest of all that decides them: weights, model, which feature, data, how many samples, crop.
Shapes: N samples, D width.
"""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor

from turbomim.pipeline.system.durable import make_folder
from turbomim.pipeline.system.safetensors_file import write_safetensors
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import crop_facts, eval_crops
from turbomim.train.encoder.features import encode, extract
from turbomim.train.encoder.source import Source
from turbomim.train.terminal.progress import image_bar

# another one, and features are made anew
FORMAT = "turbomim-features-3"


def cached_features(
    source: Source,
    kind: str,
    split: Split,
    ids_N: NDArray[np.int64],
    *,
    batch: int,
    device: torch.device,
    console: Console,
) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) of central crops of samples, from their file, or made and kept.

    kind: which of the features; source: its model is on the device; console: where a bar is drawn.  Where an
    image is left out nothing is kept: the split may be mended.
    """
    config, model = source.config, source.model
    facts = {
        "format": FORMAT,
        "weights": source.weights,
        "model": dataclasses.asdict(config.model),
        "feature": kind,
        "data": split.manifest.fingerprint,
        "samples": len(ids_N),
        **crop_facts(config.data.size),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = source.folder / f"features-{key}.safetensors"
    cached = read_features(path, len(ids_N))
    if cached is not None:
        return cached
    crops = eval_crops(split, ids_N, size=config.data.size, batch=batch)

    def feature(images_BHWC: Tensor) -> dict[str, Tensor]:
        return {kind: encode(model, images_BHWC)[kind]}

    with image_bar(console, lines=False) as bar:
        made = extract(crops, feature, device, partial(bar.show, total=len(ids_N)))
    if len(made.labels_N) == len(ids_N):
        write_features(path, made.by_name[kind], made.labels_N)
    return made.by_name[kind], made.labels_N


def read_features(path: Path, count: int) -> tuple[Tensor, Tensor] | None:
    """What `write_features` wrote; None where there is nothing, or a file that is damaged, which says so."""
    if not path.exists():
        return None
    try:
        # not every safetensors has its annotations
        opened: Any = safe_open
        with opened(path, "pt") as file:
            features_ND, labels_N = file.get_tensor("features"), file.get_tensor("labels")
            whole = (file.metadata() or {}).get("sha256") == features_digest(features_ND, labels_N)
        if whole and len(features_ND) == len(labels_N) == count:
            return features_ND, labels_N
    except (SafetensorError, OSError, ValueError, KeyError):
        pass
    print(f"{path} is damaged: its features are made again")
    return None


def features_digest(features_ND: Tensor, labels_N: Tensor) -> str:
    """SHA-256 of the bytes of features and labels, and of what they are."""
    found = hashlib.sha256()
    for tensor in (features_ND, labels_N):
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def write_features(path: Path, features_ND: Tensor, labels_N: Tensor) -> None:
    """Write features and labels as a whole or not at all.  Raises UserError if they cannot be written."""
    make_folder(path.parent)
    tensors = {"features": features_ND.contiguous(), "labels": labels_N}
    write_safetensors(path, tensors, {"sha256": features_digest(features_ND, labels_N)})
