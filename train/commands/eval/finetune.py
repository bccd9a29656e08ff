"""`turbomim eval finetune`: an encoder fine-tuned as published; settings as of pretrain, and a section."""

from dataclasses import replace

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.commands.eval.options import Finetune
from turbomim.train.encoder.crop import INTERPOLATION, crop_share
from turbomim.train.encoder.resize import at_size
from turbomim.train.encoder.source import Source, load_source
from turbomim.train.evaluate.results import check_json
from turbomim.train.finetune.finetune import finetune
from turbomim.train.settings.config import RunConfig
from turbomim.train.settings.dictionary import Values, from_dict
from turbomim.train.settings.finetune import FinetuneConfig, published_finetune, tuned_size
from turbomim.train.settings.flags import parse_with_settings

# RUN/eval/NAME.json of the other evaluations
RESERVED = ("knn", "linear", "linear-published", "source")
# options that are short for a field of optim
SHORT = {"epochs": "epochs", "batch": "global_batch", "base_lr": "base_lr"}


def eval_finetune_command(argv: list[str]) -> None:
    """`turbomim eval finetune …`.  Raises UserError."""
    options, flags = parse_with_settings(Finetune, argv, "turbomim eval finetune")
    check_json(options.json)
    source = load_source(options.run, {name: values for name, values in flags.items() if name == "model"})
    source.pretrained()
    if options.random:
        source = source.initial()
    config = finetune_settings(
        options, source, {name: values for name, values in flags.items() if name != "model"}
    )
    kept = None if source.step is None else source.folder / f"{config.run.name}.json"
    finetune(config, source, result_copies=[path for path in (options.json or kept,) if path is not None])


def finetune_settings(options: Finetune, source: Source, flags: Values) -> FinetuneConfig:
    """The settings of a fine-tuning.  Of a setting the last of these that names it counts:

    1. the encoder's own: data, model and step of its run,
    2. what is published for its method, and the size, crop and filter of the papers,
    3. --train, --test, --random,
    4. flags, --section.field VALUE,
    5. --epochs, --batch, --base-lr, each short for a field of optim.

    Raises UsageError for a flag that cannot be, and for a field that 4 and 5 both give.
    """
    published = published_finetune(source.config.model)
    size = flags.get("data", {}).get("size", tuned_size(source.config))
    own = at_size(source.config, size)
    data = replace(
        own.data,
        path=str(options.train),
        heldout=str(options.test),
        crop="rrc",
        rrc_scale=0.08,
        interpolation=INTERPOLATION,
    )
    base = FinetuneConfig(
        data=data,
        model=own.model,
        optim=published.optim,
        step=replace(own.step, shard=False),
        run=RunConfig(name="finetune-random" if options.random else "finetune", folder=str(source.folder)),
        finetune=replace(published.finetune, test_crop=crop_share(data.size), weights=source.weights),
    )
    optim = {**flags.get("optim", {}), **short_options(options, flags)}
    if "epochs" in optim and "warmup_epochs" not in optim:
        share = published.optim.warmup_epochs / published.optim.epochs
        # what is no number is said of the epochs
        number = from_dict({"optim": {"warmup_epochs": 0, "epochs": optim["epochs"]}}, base, "flags")
        optim["warmup_epochs"] = share * number.optim.epochs
    config = from_dict({**flags, **({"optim": optim} if optim else {})}, base, "flags")
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


def short_options(options: Finetune, flags: Values) -> dict[str, float]:
    """What the options that are short for a field of optim say, by that field.

    `--batch 64` gives {"global_batch": 64}.  Raises UsageError if a flag gives the same field.
    """
    given = {}
    for name, key in SHORT.items():
        value = getattr(options, name)
        if value is None:
            continue
        if key in flags.get("optim", {}):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is short for --optim.{key}: give one of the two")
        given[key] = value
    return given
