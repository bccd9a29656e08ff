"""A linear layer on frozen features: the solved probe, or the one that papers report, put together.

The published probe trains its head on random crops, which makes features anew in every epoch.  Here features
are made once, of central crops, and kept in a file, unless --augment asks for the published way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import crop_facts
from turbomim.train.encoder.source import Source
from turbomim.train.evaluate.cached_features import cached_features
from turbomim.train.evaluate.published_probe import (
    HeadTraining,
    batches_of,
    encoded_batches,
    fitting_batch,
    head_scores,
    make_head,
    model_width,
    published_encoder,
    published_optim,
    random_crops,
    train_head,
)
from turbomim.train.evaluate.results import Scores, sample_counts
from turbomim.train.evaluate.scores import score_frozen
from turbomim.train.evaluate.scoring import LinearScoring
from turbomim.train.evaluate.splits import choose_ids, open_labelled
from turbomim.train.settings.flags import check_least
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.terminal.progress import image_bar
from turbomim.train.world.distributed import choose_device

# scores by their names in results
NAMES = {"top1": "published probe, top-1", "top5": "published probe, top-5"}


def score_linear(
    source: Source, options: LinearScoring, console: Console, say: Callable[[str], None]
) -> dict[str, Any]:
    """Score a frozen encoder by a linear layer.  Raises UserError as the two ways do."""
    if options.recipe == "published":
        return score_published_probe(source, options, console, say)
    check_solved(options)
    return score_frozen(source, "linear", options, console, say)


def score_published_probe(
    source: Source, options: LinearScoring, console: Console, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train the published head on the train split and score the test split.

    Beside the trained encoder the same one with random weights, but for --augment, which encodes every epoch.
    Raises UserError: no run, no labels, settings that cannot be.
    """
    optim = head_optim(options)
    train, test = open_labelled(options.train, options.test, say=say)
    if options.augment and options.samples:
        raise UsageError("--augment takes all train samples: leave --samples out")
    ids_N = choose_ids(train, options.samples or 0)
    if optim.global_batch > len(ids_N):
        raise UsageError(
            f"--head-batch {optim.global_batch}: more than the {len(ids_N):,} train samples: "
            f"give --head-batch {fitting_batch(len(ids_N))}"
        )
    training = HeadTraining(optim=optim, samples=len(ids_N), seed=options.seed or 0)
    sources = {"trained": source}
    if not options.augment:
        sources["random weights"] = source.initial()
    sources = {name: each.at_size(options.size) for name, each in sources.items()}
    kind, learned, scored = "", 0, 0
    scores: Scores = {}
    for name, each in sources.items():
        kind, shares, learned, scored = train_and_score(each, train, ids_N, test, training, options, console)
        scores[f"{name}: {kind}"] = {NAMES[key]: share for key, share in shares.items()}
    return {
        **source.facts,
        "recipe": "published",
        **crop_facts(sources["trained"].config.data.size),
        "feature": kind,
        "augment": options.augment,
        "train": str(options.train),
        **sample_counts("train", len(ids_N), learned),
        "test": str(options.test),
        **sample_counts("test", test.manifest.samples, scored),
        "epochs": optim.epochs,
        "warmup_epochs": optim.warmup_epochs,
        "lr": optim.lr,
        "head_batch": optim.global_batch,
        "steps": training.steps,
        "seed": training.seed,
        "scores": scores,
    }


def train_and_score(
    source: Source,
    train: Split,
    ids_N: NDArray[np.int64],
    test: Split,
    training: HeadTraining,
    options: LinearScoring,
    console: Console,
) -> tuple[str, dict[str, float], int, int]:
    """Which feature of an encoder was read, and the accuracies of a head that was trained on it.

    And the samples that were learned from and scored.
    """
    device = choose_device(options.device, 0)
    model, kind = published_encoder(source.model, source.config)
    model.to(device).eval()
    features = partial(cached_features, source, kind, batch=options.batch, device=device, console=console)
    head = make_head(model_width(model), len(train.manifest.classes), training.seed).to(device)
    if options.augment:
        learned = len(ids_N)
        with (
            random_crops(source.config, train, training, options.batch, device) as loader,
            image_bar(console, lines=False) as bar,
        ):
            batches = encoded_batches(loader, model, kind, training.optim.global_batch)
            train_head(head, batches, training, bar.show)
    else:
        made = features(train, ids_N)
        learned = len(made[1])
        train_head(head, batches_of(*made, training, device), training)
    found = features(test, np.arange(test.manifest.samples))
    return kind, head_scores(head, *found, device), learned, len(found[1])


def check_solved(options: LinearScoring) -> None:
    """Raise UsageError for options that the solved probe has nothing of."""
    for name in ("augment", "epochs", "warmup_epochs", "base_lr", "head_batch", "seed"):
        value = getattr(options, name)
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is of --recipe published: give both, or leave it out")


def head_optim(options: LinearScoring) -> OptimConfig:
    """The published head's schedule, as given and else as published; warm-up keeps its share of the epochs.

    Raises UsageError for options that cannot be.
    """
    epochs = 90.0 if options.epochs is None else options.epochs
    warmup_epochs = epochs / 9 if options.warmup_epochs is None else options.warmup_epochs
    base_lr = 0.1 if options.base_lr is None else options.base_lr
    batch = 16_384 if options.head_batch is None else options.head_batch
    check_least(batch=(options.batch, 1), head_batch=(batch, 2), samples=(options.samples or 0, 0))
    check_seed("--seed", options.seed or 0)
    for flag, number in (("--epochs", epochs), ("--base-lr", base_lr)):
        if not 0 < number < math.inf:
            raise UsageError(f"{flag} {number:g}: must be above 0")
    if not 0 <= warmup_epochs <= epochs:
        raise UsageError(f"--warmup-epochs {warmup_epochs:g}: must be 0 to --epochs, which is {epochs:g}")
    return published_optim(epochs=epochs, warmup_epochs=warmup_epochs, base_lr=base_lr, batch=batch)
