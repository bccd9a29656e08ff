"""The settings of a fine-tuning: what is published for the method, and what is asked for over it."""

from dataclasses import replace

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.crop import INTERPOLATION, crop_share
from turbomim.train.encoder.resize import at_size
from turbomim.train.encoder.source import Source
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.settings.config import RunConfig
from turbomim.train.settings.dictionary import Values, from_dict
from turbomim.train.settings.finetune import FinetuneConfig, published_finetune, tuned_size
from turbomim.train.settings.schedule import with_shares

# RUN/eval/NAME.json of the other evaluations
RESERVED = ("knn", "linear", "linear-published", "source")
# options that are short for a field of optim
SHORT = {"epochs": "epochs", "batch": "global_batch", "base_lr": "base_lr"}


def finetune_settings(asked: FinetuneAsked, source: Source, flags: Values) -> FinetuneConfig:
    """The settings of a fine-tuning.  Of a setting the last of these that names it counts:

    1. the encoder's own: data, model and step of its run,
    2. what is published for its method, and the size, crop and filter of the papers,
    3. --train, --test, --random,
    4. flags, --section.field VALUE,
    5. --epochs, --batch, --base-lr, each short for a field of optim.

    Raises UsageError for a flag that cannot be, and for a field that 4 and 5 both give.
    """
    if "recipe" in flags.get("run", {}):
        raise UsageError("run.recipe is no setting of a fine-tuning, which has what its method published")
    published = published_finetune(source.config.model)
    size = flags.get("data", {}).get("size", tuned_size(source.config))
    own = at_size(source.config, size)
    data = replace(
        own.data,
        path=str(asked.train),
        heldout=str(asked.test),
        crop="rrc",
        rrc_scale=0.08,
        interpolation=INTERPOLATION,
    )
    base = FinetuneConfig(
        data=data,
        model=own.model,
        optim=published.optim,
        step=replace(own.step, shard=False),
        run=RunConfig(name="finetune-random" if asked.random else "finetune", folder=str(source.folder)),
        finetune=replace(published.finetune, test_crop=crop_share(data.size), weights=source.weights),
    )
    optim = {**flags.get("optim", {}), **short_options(asked, flags)}
    if {"epochs", "steps"} <= optim.keys():
        raise UsageError("epochs and --optim.steps both say how long the run is: give one of them")
    if "epochs" in optim and "warmup_epochs" not in optim:
        share = published.optim.warmup_epochs / published.optim.epochs
        # what is no number is said of the epochs
        number = from_dict({"optim": {"warmup_epochs": 0, "epochs": optim["epochs"]}}, base, "flags")
        optim["warmup_epochs"] = share * number.optim.epochs
    config = from_dict({**flags, "optim": with_shares(optim, base.optim)}, base, "flags")
    if config.run.mirror:
        # as beside the disk's: PLACE/RUN/eval/NAME
        mirror = "/".join((config.run.mirror.rstrip("/"), *source.folder.resolve().parts[-2:]))
        config = replace(config, run=replace(config.run, mirror=mirror))
    if config.run.name in RESERVED:
        raise UsageError(
            f"--run.name {config.run.name}: RUN/eval/{config.run.name}.json is another evaluation's: "
            "give another name"
        )
    return config


def short_options(asked: FinetuneAsked, flags: Values) -> dict[str, float]:
    """What the options that are short for a field of optim say, by that field.

    `--batch 64` gives {"global_batch": 64}.  Raises UsageError if a flag gives the same field.
    """
    given = {}
    for name, key in SHORT.items():
        value = getattr(asked, name)
        if value is None:
            continue
        if key in flags.get("optim", {}):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is short for --optim.{key}: give one of the two")
        given[key] = value
    return given
