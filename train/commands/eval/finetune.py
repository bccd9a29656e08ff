"""`turbomim eval finetune`: an encoder fine-tuned as published; settings as of pretrain, and a section."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.crop import INTERPOLATION, crop_share
from turbomim.train.encoder.resize import at_size
from turbomim.train.encoder.source import Source, load_source
from turbomim.train.evaluate.results import check_json
from turbomim.train.finetune.finetune import finetune
from turbomim.train.foreign.sizes import Values
from turbomim.train.settings.config import RunConfig
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.finetune import FinetuneConfig, FinetuneSettings, published, tuned_size
from turbomim.train.settings.flags import flag_values, parse, split_words

# RUN/eval/NAME.json of the other evaluations
RESERVED = ("knn", "linear", "linear-published", "source")
# options that are short for a field of optim
SHORT = {"epochs": "epochs", "batch": "global_batch", "base_lr": "base_lr"}


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train an encoder and a new head on labels by the published recipe of its method, and test it.

    Resumes by the same command.  Any setting of pretrain, and those of the section finetune, may follow as
    --section.field VALUE: --finetune.layer_decay 0.75, --step.compile false, --run.name other ….
    """

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME, whose newest whole checkpoint counts; or a FILE with a plain ViT, timm's or
    what `export --to timm|safetensors|mae` made of one."""
    train: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is learned from."""
    test: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is scored, all of it."""
    random: bool = False
    """Begin with the encoder's random initial weights instead: what its training must be better than.  The
    run's name is finetune-random then, if no other is given."""
    epochs: float | None = None
    """Passes over the train split, --optim.epochs; without --optim.warmup_epochs warm-up keeps its share."""
    batch: int | None = None
    """Samples of a step over all ranks, --optim.global_batch; the rate goes with it."""
    base_lr: float | None = None
    """Rate of 256 samples (SimMIM: 512), --optim.base_lr."""
    json: Path | None = None
    """File for the result, besides the run's own; RUN/eval/NAME.json if not given, and none of a FILE."""


def command(argv: list[str]) -> None:
    """`turbomim eval finetune …`.  Raises UserError."""
    own, settings = split_words(argv)
    options = parse(Finetune, own, "turbomim eval finetune")
    check_json(options.json)
    flags = flag_values(settings)
    of_file = {name: values for name, values in flags.items() if name == "model"}
    source = load_source(options.run, of_file)
    if options.random:
        source = source.initial()
    config = configure(options, source, {name: flags[name] for name in flags if name not in of_file})
    kept = None if source.step is None else source.folder / f"{config.run.name}.json"
    finetune(config, source, wanted=[path for path in (options.json or kept,) if path is not None])


def configure(options: Finetune, source: Source, flags: Values) -> FinetuneConfig:
    """The published settings of a source's method with the options and flags laid over them.

    Raises UsageError for a flag that cannot be or is given twice.
    """
    recipe = published(source.config.model)
    size = flags.get("data", {}).get("size", tuned_size(source.config))
    given = at_size(source.config, size)
    data = dataclasses.replace(
        given.data,
        path=str(options.train),
        heldout=str(options.test),
        crop="rrc",
        rrc_scale=0.08,
        interpolation=INTERPOLATION,
    )
    base = FinetuneConfig(
        data=data,
        model=given.model,
        optim=recipe.optim,
        step=dataclasses.replace(given.step, shard=False),
        run=RunConfig(name="finetune-random" if options.random else "finetune", folder=str(source.folder)),
        finetune=FinetuneSettings(
            layer_decay=recipe.layer_decay,
            drop_path=recipe.drop_path,
            head_std=recipe.head_std,
            test_crop=crop_share(data.size),
            weights=source.weights,
        ),
    )
    given_short = {name: getattr(options, name) for name in SHORT if getattr(options, name) is not None}
    for name in given_short:
        if SHORT[name] in flags.get("optim", {}):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is short for --optim.{SHORT[name]}: give one of the two")
    optim = {**flags.get("optim", {}), **{SHORT[name]: value for name, value in given_short.items()}}
    if "epochs" in optim and "warmup_epochs" not in optim:
        share = recipe.warmup_epochs / recipe.epochs
        # what is no number is said of the epochs
        number = from_dict({"optim": {"warmup_epochs": 0, "epochs": optim["epochs"]}}, base, "flags")
        optim["warmup_epochs"] = share * number.optim.epochs
    config = from_dict({**flags, **({"optim": optim} if optim else {})}, base, "flags")
    if config.run.name in RESERVED:
        raise UsageError(
            f"--run.name {config.run.name}: RUN/eval/{config.run.name}.json is another evaluation's: "
            "give another name"
        )
    return config
