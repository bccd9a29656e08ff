"""Fine-tuning on labels: the loop, checkpoints and log of pre-training, with a classifier and its inputs.

It begins as an import does, from a checkpoint at step 0, here of the pre-trained encoder and a new head; so
it resumes, stops and rolls back as a pre-training.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from rich.console import Console

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.resize import resized
from turbomim.train.encoder.source import Source
from turbomim.train.evaluate.splits import check_labelled, say_same
from turbomim.train.finetune.classifier import Classifier
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.finetune.rand_augment import noting_rand_augment
from turbomim.train.finetune.run import FinetuneRun
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.sinks import check_sinks
from turbomim.train.folder.take import take_folder
from turbomim.train.loop.data import about_data, open_data
from turbomim.train.loop.optim import zero_moments
from turbomim.train.loop.resolved import Resolved, resolve
from turbomim.train.loop.run import Outcome
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.tuned_loader import machine_name, read_tuned
from turbomim.train.machine.versions import versions
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.finetune import FinetuneConfig, check_micro_batch
from turbomim.train.world.distributed import join_ranks


def finetune(
    config: FinetuneConfig,
    source: Source,
    *,
    console: Console | None = None,
    wanted: list[Path] | None = None,
) -> Outcome:
    """Run or resume a fine-tuning of a source's encoder, which this takes over.

    wanted: files that get the result besides the run's own.  Raises UserError for anything a user or a file
    caused.
    """
    console = console or Console()
    with join_ranks(config.step.device, config.step.rank_timeout) as world:
        check_compiler(config.step, world.device.type)
        world.broadcast_from_rank0(lambda: check_sinks(config.run))
        train = open_data(config.data.path, "--train", config.data, world)
        test = open_data(config.data.heldout, "--test", config.data, world)
        world.broadcast_from_rank0(lambda: check_labels(train, test))
        # every rank trains with what rank 0 was given
        config = world.broadcast_from_rank0(lambda: config)
        tuned_loader = world.run_on_all(lambda: read_tuned(machine_name(world.device)))
        resolved = world.run_replicated(
            lambda: keep_micro_batch(
                resolve(
                    with_classes(config, len(train.manifest.classes)),
                    train.manifest.samples,
                    ranks=world.size,
                    local_ranks=world.local_size,
                    tuned_loader=tuned_loader,
                )
            )
        )
        # a policy that timm does not know ends it here, before there is a run
        world.run_on_all(lambda: noting_rand_augment(config.finetune.rand_augment, config.data.size))
        about = about_data(resolved.config.data, train, resolved.loader, tuned_loader, world)
        with contextlib.ExitStack() as held:
            on_gpu = resolved.loader.decodes_on(world.device.type)
            splits = [train, test]
            found, said = world.broadcast_from_rank0(
                lambda: begin(resolved.config, source, splits, held, on_gpu=on_gpu)
            )
            run = FinetuneRun(resolved, train, test, world, console, source.facts, wanted or [])
            return run.go(found, said, [about])


def keep_micro_batch(resolved: Resolved[FinetuneConfig]) -> Resolved[FinetuneConfig]:
    """The run with its micro-batch among the settings that it keeps, whatever the ranks.

    Images are mixed within a micro-batch.  Raises UsageError for one that cannot be mixed.
    """
    micro_batch = resolved.plan.micro_batch
    check_micro_batch(resolved.config, micro_batch)
    optim = dataclasses.replace(resolved.config.optim, micro_batch=micro_batch)
    return dataclasses.replace(resolved, config=dataclasses.replace(resolved.config, optim=optim))


def with_classes(config: FinetuneConfig, classes: int) -> FinetuneConfig:
    """The settings with the head's outputs, which must not be fewer than the classes."""
    settings = config.finetune
    if settings.classes and settings.classes < classes:
        raise UserError(f"finetune.classes = {settings.classes}: the train split has {classes} classes")
    settings = dataclasses.replace(settings, classes=settings.classes or classes)
    return dataclasses.replace(config, finetune=settings)


def check_labels(train: Split, test: Split) -> None:
    """Raise UserError if there are fewer than two classes, or the splits' differ; say if they are one."""
    check_labelled(train, test)
    if len(train.manifest.classes) < 2:
        raise UserError(
            f"{train.path} has {len(train.manifest.classes)} classes: make the split from a folder with a "
            "folder of images a class"
        )
    say_same(train, test)


def begin(
    config: FinetuneConfig, source: Source, splits: list[Split], held: contextlib.ExitStack, *, on_gpu: bool
) -> tuple[str, list[str]]:
    """Lock and check the run folder; its newest checkpoint, at first one with the encoder and a new head."""
    found, said = take_folder(config, splits, held, on_gpu=on_gpu)
    if found is None:
        model = Classifier(resized(source.model, source.config, config), config)
        optimizer = layered_optimizer(model, config)
        zero_moments(optimizer)
        state = checkpoint.State(
            step=0,
            position=0,
            fingerprint=splits[0].manifest.fingerprint,
            config=to_dict(config),
            versions=versions(),
        )
        snapshot = checkpoint.capture(model, optimizer, state)
        found = str(checkpoint.write(rundir.run_folder(config) / "ckpt", snapshot, config.run.keep))
    return found, said
