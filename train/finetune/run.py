"""The run of a fine-tuning: a classifier, augmented images, a test, a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import normalised
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import AugmentAhead, Augmented
from turbomim.train.finetune.classifier import Classifier
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.loop.resolved import Resolved
from turbomim.train.loop.run import Run
from turbomim.train.loop.step import autocast
from turbomim.train.machine.processor import cores
from turbomim.train.models.methods import make_model
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.world.distributed import World

# what the scores are of, by the weights that fine-tuning began with
SCORED = {"trained": "fine-tuned", "initial": "the same from random weights"}


class FinetuneRun(Run[FinetuneConfig]):
    """One process of one fine-tuning.

    facts: what the result says about the encoder; wanted: files that get it besides the run's own.
    """

    model: Classifier

    def __init__(
        self,
        resolved: Resolved[FinetuneConfig],
        train: Split,
        test: Split,
        world: World,
        console: Console,
        facts: Mapping[str, object],
        wanted: Sequence[Path],
    ) -> None:
        super().__init__(resolved, train, world, console)
        self.test, self.facts, self.wanted = test, facts, wanted

    def make_model(self) -> Classifier:
        """The classifier; a checkpoint has its weights."""
        return Classifier(make_model(self.config), self.config).to(self.world.device)

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

    def measured(self) -> Record:
        """Loss and accuracies on the test split."""
        return scores_on(self.model, self.test, self.config, self.plan.micro_batch, self.world, self.journal)

    def finished(self) -> None:
        """Write the last test's result; test again where its log was removed."""
        kept = self.world.broadcast_from_rank0(lambda: tested(read_metrics(self.log.metrics)))
        last = kept[-1] if kept else self.measured()
        if not self.world.main:
            return
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
            "test_samples": self.test.manifest.samples,
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
            CentreCrop(
                size=config.data.size,
                interpolation=config.data.interpolation,
                share=config.finetune.test_crop,
            ),
            batch=batch,
            threads=max(1, cores() // world.local_size),
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
    world.run_on_all(add)
    model.train()
    every = world.all_gather(sums.tolist())
    loss, first, five = (sum(rank[i] for rank in every) / test.manifest.samples for i in range(3))
    found = {"test_loss": loss, "test_top1": first}
    return {**found, "test_top5": five} if config.finetune.classes > 5 else found
