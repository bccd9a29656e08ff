"""Fine-tuning on labels: the loop, checkpoints and log of pre-training, with a classifier and its inputs.

It is `Run` with another model, optimizer, inputs and measure.  It begins as an import does, from a checkpoint
at step 0, here of the pre-trained encoder and a new head; so it resumes, stops and rolls back as a
pre-training.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.centre_crops import centre_crops
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import normalised
from turbomim.train.encoder.resize import resized
from turbomim.train.encoder.source import Source
from turbomim.train.evaluate.splits import check_classes, say_same
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import AugmentAhead, Augmented
from turbomim.train.finetune.classifier import Classifier
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.finetune.rand_augment import noting_rand_augment
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.folder.resume import prepare
from turbomim.train.folder.sinks import check_sinks
from turbomim.train.loop.data import describe, open_data
from turbomim.train.loop.optim import zero_moments
from turbomim.train.loop.resolved import Resolved, resolve
from turbomim.train.loop.run import Outcome, Run
from turbomim.train.loop.step import autocast
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.processor import cores
from turbomim.train.machine.tuned_loader import machine_name, read_tuned
from turbomim.train.machine.versions import versions
from turbomim.train.models.methods import make_model
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.finetune import FinetuneConfig, check_micro_batch
from turbomim.train.world.distributed import World, start

# what the scores are of, by the weights that fine-tuning began with
SCORED = {"trained": "fine-tuned", "initial": "the same from random weights"}


class FinetuneRun(Run[FinetuneConfig]):
    """One process of one fine-tuning."""

    model: Classifier
    # what the result says about the encoder, and files that get it besides the run's own
    facts: dict[str, object]
    wanted: list[Path]

    def make_model(self) -> Classifier:
        """The classifier; a checkpoint has its weights."""
        return Classifier(make_model(self.config), self.config)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW with layer-wise rates."""
        return layered_optimizer(self.model, self.config)

    def batches(self, loader: Loader) -> AugmentAhead:
        """A loader's batches through RandAugment, beside the steps."""
        return AugmentAhead(
            loader,
            self.split,
            policy=self.config.finetune.rand_augment,
            seed=self.config.run.seed,
            device=self.world.device,
            threads=max(1, cores() // self.world.local_size),
            ahead=self.resolved.loader.prefetch,
        )

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Augmented images and mixed targets, and what drop path is drawn from."""
        assert isinstance(batch, Augmented)
        images_BCHW, targets_BK = augmented_batch(batch, self.config.finetune, self.config.run.seed)
        return images_BCHW, targets_BK, batch.epochs_B, batch.ids_B

    def logged(self) -> dict[str, Tensor]:
        """Nothing: a classifier has no values of its own for the log."""
        return {}

    def peak(self, *, bfloat16: bool) -> float | None:
        """None: the FLOPs that are known are those of pre-training."""
        return None

    def measured(self) -> Record:
        """Loss and accuracies on the test split."""
        assert self.heldout is not None
        return scores_on(
            self.model, self.heldout, self.config, self.plan.micro_batch, self.world, self.journal
        )

    def finished(self) -> None:
        """Write the last test's result; test again where its log was removed."""
        kept = self.world.from_main(lambda: tested(read_metrics(self.log.metrics)))
        last = kept[-1] if kept else self.measured()
        if not self.world.main:
            return
        assert self.heldout is not None
        shares = {"top-1": last["test_top1"]}
        if self.config.finetune.classes > 5:
            shares["top-5"] = last["test_top5"]
        result = {
            **self.facts,
            "size": self.config.data.size,
            "crop": self.config.finetune.test_crop,
            "interpolation": self.config.data.interpolation,
            "method": self.config.model.method,
            "train": self.config.data.path,
            "train_samples": self.plan.samples,
            "test": self.config.data.heldout,
            "test_samples": self.heldout.manifest.samples,
            "steps": self.plan.steps,
            "epochs": self.config.optim.epochs,
            **{name.replace("-", ""): share for name, share in shares.items()},
            "test_loss": last["test_loss"],
            "scores": {SCORED[str(self.facts["weights"])]: shares},
            "settings": to_dict(self.config),
        }
        for path in (self.folder / "result.json", *self.wanted):
            write_json(path, result)
        said = ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares.items())
        self.log.say(
            f"{said} of {result['test_samples']:,} test images; {self.folder / 'result.json'} has all of it"
        )


def tested(records: list[Record]) -> list[Record]:
    """The log records that have a test's result."""
    return [record for record in records if record.get("test_top1") is not None]


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
    with start(config.step.device, config.step.rank_timeout) as world:
        check_compiler(config.step, world.device.type)
        world.from_main(lambda: check_sinks(config.run))
        train = open_data(config.data.path, "--train", config.data, world)
        test = open_data(config.data.heldout, "--test", config.data, world)
        world.from_main(lambda: check_labels(train, test))
        # a policy that timm does not know ends it here, before there is a run
        world.together(lambda: noting_rand_augment(config.finetune.rand_augment, config.data.size))
        tuned_loader = world.together(lambda: read_tuned(machine_name(world.device)))
        resolved = world.alike(
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
        about = describe(resolved.config.data, train, resolved.loader, tuned_loader, world)
        with contextlib.ExitStack() as held:
            on_gpu = resolved.loader.decodes_on(world.device.type)
            splits = [train, test]
            found, said = world.from_main(lambda: begin(resolved.config, source, splits, held, on_gpu=on_gpu))
            run = FinetuneRun(resolved, train, test, world, console)
            run.facts, run.wanted = source.facts, wanted or []
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
    check_classes(train, test)
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
    found, said = prepare(config, splits, held, on_gpu=on_gpu)
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


@torch.no_grad()
def scores_on(
    model: Classifier, test: Split, config: FinetuneConfig, batch: int, world: World, journal: Journal
) -> Record:
    """Mean loss, and the shares of all test images whose class is the first, or among the first five.

    A head of five outputs or fewer has no share of the first five, which are all.
    Central crops; every rank takes its share of the images, and every rank calls it.
    """
    mine = np.arange(world.rank, test.manifest.samples, world.size)
    best_of = min(5, config.finetune.classes)
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)

    def add() -> None:
        crops = centre_crops(
            test,
            mine,
            size=config.data.size,
            interpolation=config.data.interpolation,
            batch=batch,
            threads=max(1, cores() // world.local_size),
            share=config.finetune.test_crop,
            journal=journal,
        )
        for images, labels in crops:
            images_BCHW = normalised(torch.from_numpy(images).to(world.device))
            labels_B = torch.from_numpy(labels).to(world.device)
            with autocast(config.step, world.device):
                logits_BK = model.logits(images_BCHW).float()
            hits_B5 = logits_BK.topk(best_of).indices == labels_B[:, None]
            loss = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
            sums.add_(torch.stack([loss, hits_B5[:, 0].sum(), hits_B5.sum()]))

    model.eval()
    world.together(add)
    model.train()
    every = world.gather(sums.tolist())
    loss, first, five = (sum(rank[i] for rank in every) / test.manifest.samples for i in range(3))
    found = {"test_loss": loss, "test_top1": first}
    return {**found, "test_top5": five} if config.finetune.classes > 5 else found
