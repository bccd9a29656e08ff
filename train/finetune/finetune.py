"""Fine-tuning on labels: the loop, checkpoints and log of pre-training, with a classifier and its inputs.

It starts from a checkpoint of step 0, as a run made by `turbomim import` does: here the pre-trained encoder
with a new head.  So it resumes, stops and rolls back as a pre-training.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.resize import resized
from turbomim.train.encoder.source import Source
from turbomim.train.evaluate.splits import check_labelled, say_same
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.finetune.rand_augment import recording_rand_augment
from turbomim.train.finetune.task import Finetuning
from turbomim.train.folder.class_names import write_class_names
from turbomim.train.loop.checkpoints import write_first_checkpoint
from turbomim.train.loop.run import Outcome, Run
from turbomim.train.loop.session import RunFolder, Session, open_session, take_folder
from turbomim.train.models.classifier import Classifier
from turbomim.train.settings.finetune import FinetuneConfig, check_micro_batch
from turbomim.train.terminal.streams import print_plain


def finetune(
    config: FinetuneConfig,
    source: Source,
    *,
    console: Console | None = None,
    result_copies: list[Path] | None = None,
) -> Outcome:
    """Run or resume a fine-tuning of a source's encoder, which is changed: do not use it afterwards.

    result_copies: files that get the result besides the run's own.  Raises UserError for anything a user or
    a file caused.
    """
    with open_session(config, console, flags=("--train", "--test")) as session:
        world, train, test = session.world, session.split, session.heldout
        # rank 0 alone prints; settings come out the same on every rank
        world.broadcast_from_rank0(lambda: check_labels(train, test, partial(print_plain, session.console)))
        config = world.run_replicated(lambda: complete_settings(session))
        session = dataclasses.replace(session, config=config)
        # a trial on every rank: a policy that its timm does not know ends it here, before there is a run
        world.run_on_all(lambda: recording_rand_augment(config.finetune.rand_augment, config.data.size))
        with take_folder(session) as folder:
            if world.main:
                write_class_names(folder.path, train.manifest.classes)
            if folder.checkpoint is None:
                first = world.broadcast_from_rank0(lambda: write_initial_classifier(session, folder, source))
                folder = dataclasses.replace(folder, checkpoint=first)
            return Run(session, folder, Finetuning(session, folder, source.facts, result_copies or [])).go()


def check_labels(train: Split, test: Split | None, say: Callable[[str], None]) -> None:
    """Raise UserError for fewer than two classes or splits of other classes; say if both are one split."""
    if test is None:
        raise UserError("data.heldout is empty: give the split that is scored, --test FOLDER")
    check_labelled(train, test)
    if len(train.manifest.classes) < 2:
        raise UserError(
            f"{train.folder} has {len(train.manifest.classes)} classes: make the split from a folder with a "
            "folder of images a class, or from a list with labels"
        )
    say_same(train, test, say)


def complete_settings(session: Session[FinetuneConfig]) -> FinetuneConfig:
    """The settings with what data and plan decide: the head's outputs, and the micro-batch.

    The micro-batch becomes a setting: a resume on other ranks mixes the same images, or is refused.
    Raises UserError: fewer outputs than classes, a micro-batch that cannot be mixed.
    """
    config = with_classes(session.config, len(session.split.manifest.classes))
    check_micro_batch(config, session.plan.micro_batch)
    optim = dataclasses.replace(config.optim, micro_batch=session.plan.micro_batch)
    return dataclasses.replace(config, optim=optim)


def with_classes(config: FinetuneConfig, classes: int) -> FinetuneConfig:
    """The settings with 0 outputs replaced by the split's classes; UserError for fewer than these."""
    settings = config.finetune
    if settings.classes and settings.classes < classes:
        raise UserError(f"finetune.classes = {settings.classes}: the train split has {classes} classes")
    settings = dataclasses.replace(settings, classes=settings.classes or classes)
    return dataclasses.replace(config, finetune=settings)


def write_initial_classifier(session: Session[FinetuneConfig], folder: RunFolder, source: Source) -> Path:
    """Write the checkpoint that a fine-tuning begins with: the source's encoder and a new head."""
    config = session.config
    model = Classifier(resized(source.pretrained(), source.config, config), config)
    fingerprint = session.split.manifest.fingerprint
    return write_first_checkpoint(
        folder.path / "ckpt", model, layered_optimizer(model, config), config, fingerprint
    )
