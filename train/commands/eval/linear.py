"""`turbomim eval linear`: the solved probe, or with --recipe published the one that papers report.

The published probe trains its head on random crops, which makes features anew in every epoch.  Here features
are made once, of central crops, and kept in a file, unless --augment asks for the published way.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.plural import counted
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.commands.eval.knn import Scores, check_json, keep, measure, name_of
from turbomim.train.encoder.crop import INTERPOLATION, crop_facts
from turbomim.train.encoder.features import encode
from turbomim.train.encoder.source import Source, load_source, say_assumed
from turbomim.train.evaluate.kept_features import kept_features
from turbomim.train.evaluate.linear_head import (
    Batches,
    cached_batches,
    head_scores,
    make_head,
    published_optim,
    train_head,
)
from turbomim.train.evaluate.splits import check_classes, choose_ids, say_same
from turbomim.train.foreign.sizes import Values
from turbomim.train.loop.data import check_store, open_loader
from turbomim.train.machine.tuned_loader import default_settings
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config, OptimConfig
from turbomim.train.settings.flags import flag_values, parse, split_words
from turbomim.train.settings.linear import Head, Linear, check_solved, fitting_batch, settle_head
from turbomim.train.settings.plan import largest_divisor
from turbomim.train.settings.schedule import lr_of_step, total_steps
from turbomim.train.world.distributed import World, choose_device

# blocks of SimMIM's ViT before the features that its published probe reads
SIMMIM_BLOCKS = 8
CLASS_TOKEN, MEAN = "class token", "mean of patch tokens"
# scores by their names in results
NAMES = {"top1": "published probe, top-1", "top5": "published probe, top-5"}


def command(argv: list[str]) -> None:
    """`turbomim eval linear …`.  Raises UserError."""
    own, settings = split_words(argv)
    options = parse(Linear, own, "turbomim eval linear")
    check_json(options.json)
    if options.recipe == "solved":
        check_solved(options)
        measure("linear", options, flag_values(settings))
        return
    result = published(options, flag_values(settings))
    lines = [
        f"{name_of(result)}: {counted(result['steps'], 'step')} of {result['head_batch']:,} "
        f"{'random' if options.augment else 'central'} crops, {counted(result['test_samples'], 'test image')}"
    ]
    for name, scores in result["scores"].items():
        shares = [f"{what.split(', ')[1]} {100 * share:.2f} %" for what, share in scores.items()]
        lines.append(f"{name}: {', '.join(shares)}")
    if line := keep(result, "linear-published", options.json):
        lines.append(line)
    Console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def published(options: Linear, flags: Values) -> dict[str, Any]:
    """Train the published head on the train split and score the test split.

    Beside the trained encoder the same one with random weights, but for --augment, which encodes every epoch.
    Raises UserError: no run, no labels, settings that cannot be.
    """
    head = settle_head(options)
    optim = published_optim(
        epochs=head.epochs, warmup_epochs=head.warmup_epochs, base_lr=head.base_lr, batch=head.batch
    )
    source = load_source(options.run, flags)
    say_assumed(source)
    train, test = open_split(options.train), open_split(options.test)
    check_classes(train, test)
    say_same(train, test)
    if options.augment and options.samples:
        raise UsageError("--augment takes all train samples: leave --samples out")
    ids_N = choose_ids(train, options.samples or 0)
    if head.batch > len(ids_N):
        raise UsageError(
            f"--head-batch {head.batch}: more than the {len(ids_N):,} train samples: "
            f"give --head-batch {fitting_batch(len(ids_N))}"
        )
    steps = total_steps(head.epochs, len(ids_N), head.batch)
    sources = {"trained": source}
    if not options.augment:
        sources["random weights"] = source.initial()
    sources = {name: each.at_size(options.size) for name, each in sources.items()}
    kind = ""
    scores: Scores = {}
    for name, each in sources.items():
        kind, found = probed(each, train, ids_N, test, steps, optim, options, head)
        scores[f"{name}: {kind}"] = {NAMES[key]: share for key, share in found.items()}
    return {
        **source.facts,
        "recipe": "published",
        **crop_facts(sources["trained"].config.data.size),
        "feature": kind,
        "augment": options.augment,
        "train": str(options.train),
        "train_samples": len(ids_N),
        "test": str(options.test),
        "test_samples": test.manifest.samples,
        "epochs": head.epochs,
        "warmup_epochs": head.warmup_epochs,
        "lr": optim.lr,
        "head_batch": head.batch,
        "steps": steps,
        "seed": head.seed,
        "scores": scores,
    }


def probed(
    source: Source,
    train: Split,
    ids_N: NDArray[np.int64],
    test: Split,
    steps: int,
    optim: OptimConfig,
    options: Linear,
    settings: Head,
) -> tuple[str, dict[str, float]]:
    """Which feature of an encoder was read, and the accuracies of a head that was trained on it."""
    device = choose_device(options.device, 0)
    model, kind = published_encoder(source.model, source.config)
    model.to(device).eval()
    made = partial(kept_features, source, kind, options.batch, device, model)
    head = make_head(model_width(model), len(train.manifest.classes), settings.seed).to(device)

    def fit(batches: Batches) -> None:
        train_head(head, batches, steps, lambda step: lr_of_step(step, len(ids_N), optim))

    if options.augment:
        with random_crops(source.config, train, settings, options.batch, device) as loader:
            fit(encoded_batches(loader, model, kind, settings.batch))
    else:
        fit(cached_batches(*made(train, ids_N), settings.batch, settings.seed, device))
    return kind, head_scores(head, *made(test, np.arange(test.manifest.samples)), device)


def published_encoder(model: MAE, config: Config) -> tuple[MAE, str]:
    """The encoder as its method's published probe reads it, and which of its features.

    The class token after the final norm; without one the mean of the patch tokens; for SimMIM's ViT that mean
    after the 8th block, before any norm.  Changes the model.
    """
    if config.model.method == "simmim":
        model.blocks = model.blocks[:SIMMIM_BLOCKS]
        model.norm = nn.Identity()  # type: ignore[assignment]
        return model, MEAN
    return model, CLASS_TOKEN if model.prefix else MEAN


def model_width(model: MAE) -> int:
    """Values of a feature."""
    norm = model.norm
    return norm.normalized_shape[0] if isinstance(norm, nn.LayerNorm) else int(model.cls_token.shape[-1])


def random_crops(config: Config, split: Split, head: Head, most: int, device: torch.device) -> Loader:
    """Random resized crops (0.08 to 1) and flips of a split, micro-batches that divide a step's samples."""
    data = dataclasses.replace(config.data, crop="rrc", rrc_scale=0.08, interpolation=INTERPOLATION)
    check_store(data, split, "--train", device.type)
    run = dataclasses.replace(config.run, seed=head.seed)
    return open_loader(
        dataclasses.replace(config, data=data, run=run),
        split,
        default_settings(),
        World(rank=0, size=1, device=device),
        global_batch=head.batch,
        micro_batch=largest_divisor(head.batch, most),
        notify=print,
    )


def encoded_batches(loader: Loader, model: MAE, kind: str, batch: int) -> Batches:
    """A step's samples at a time, encoded as they come."""
    while True:
        parts: list[tuple[Tensor, Tensor]] = []
        while sum(len(labels_B) for _, labels_B in parts) < batch:
            item = next(loader)
            if bool((item.labels_B < 0).any()):
                raise UserError(
                    f"a sample from position {item.position} on has no label: make the split anew"
                )
            parts.append((encode(model, item.images_BHWC)[kind], item.labels_B))
        features_BD, labels_B = (torch.cat(some) for some in zip(*parts, strict=True))
        yield features_BD, labels_B
