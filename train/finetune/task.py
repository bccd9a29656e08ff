"""Fine-tuning as a task.  What differs from a pre-training, by the names of `Task` (train/loop/task.py):

- model: an encoder with a new head and without a decoder (classifier.py);
- optimizer: smaller rates for layers nearer to the image (layer_decay.py);
- batches: through RandAugment, in threads beside the steps (augment_ahead.py);
- inputs: images partly erased and mixed in pairs, and soft targets (augment.py);
- evaluate: loss and accuracies on the test split, where a pre-training has its held-out loss;
- finish: a result, where a pre-training has an export.

No features are scored and no pictures are made.  The loop, the log and the checkpoints are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.centre_crops import centre_crops
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import own_crop
from turbomim.train.encoder.features import NONE_LEFT, normalised
from turbomim.train.evaluate.accuracy import count_hits, top_shares
from turbomim.train.evaluate.results import left_out_words, sample_counts
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import AugmentAhead, Augmented
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.loop.session import RunFolder, Session
from turbomim.train.loop.step import autocast
from turbomim.train.loop.task import Task
from turbomim.train.machine.processor import cores
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.settings.precision import uses_bfloat16

# label of the scores in the result, by the weights that fine-tuning began with
SCORE_LABELS = {"trained": "fine-tuned", "initial": "the same from random weights"}


class Finetuning(Task):
    """What a run asks for when it trains a classifier on labels.

    source_facts: what the result says about the encoder; result_copies: files that get the result besides
    the run's own.
    """

    model: Classifier

    def __init__(
        self,
        session: Session[FinetuneConfig],
        folder: RunFolder,
        source_facts: Mapping[str, object],
        result_copies: Sequence[Path],
    ) -> None:
        self.session, self.folder = session, folder
        self.source_facts, self.result_copies = source_facts, result_copies
        self.config, self.world = session.config, session.world
        # weights of the seed: `Run` loads those of the folder's checkpoint, which a new run has too
        self.model = Classifier(make_model(self.config), self.config).to(self.world.device)
        bfloat16 = uses_bfloat16(self.config.step, self.world.device)
        self.optimizer = layered_optimizer(self.model, self.config, bfloat16=bfloat16, world=self.world)

    @property
    def test(self) -> Split:
        """What is scored."""
        assert self.session.heldout is not None, "`finetune` refuses a run without it"
        return self.session.heldout

    def batches(self, loader: Loader) -> AugmentAhead:
        """A loader's batches through RandAugment, beside the steps."""
        return AugmentAhead(
            loader,
            self.session.split,
            policy=self.config.finetune.rand_augment,
            seed=self.config.run.seed,
            device=self.world.device,
            threads=max(1, cores() // self.world.local_size),
            ahead=self.session.loader_speed.prefetch,
        )

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Augmented images and mixed targets, and what drop path is drawn from."""
        assert isinstance(batch, Augmented)
        images_BCHW, targets_BK = augmented_batch(batch, self.config.finetune, self.config.run.seed)
        return images_BCHW, targets_BK, batch.epochs_B, batch.ids_B

    def evaluate(self) -> Record:
        """Mean loss on the test split, and accuracies as `top_shares` has them.

        Central crops; every rank takes its part of the images.  Where the split cannot be read a line says so
        and nothing is returned: the run goes on, and `finish` tests again, of weights that are saved.
        """
        record, error = self._test()
        if error is not None:
            self.folder.log.note(f"not tested at this line: {error}")
        return record

    @torch.no_grad()
    def _test(self) -> tuple[Record, UserError | None]:
        """What `evaluate` returns; where that is empty, why, on the ranks that know it."""
        world, samples = self.world, self.test.manifest.samples
        # loss, first hits, hits among five, images
        sums_4 = torch.zeros(4, dtype=torch.float64, device=world.device)
        self.model.eval()
        error = world.run_on_all(lambda: self._add_scores(np.arange(world.rank, samples, world.size), sums_4))
        self.model.train()
        ranks = world.all_gather([*sums_4.tolist(), float(error is not None)])
        loss, first, five, scored, failed = (sum(each) for each in zip(*ranks, strict=True))
        if not scored and not failed:
            error = UserError(f"{self.test.place}: {NONE_LEFT}")
        if not scored or failed:
            return {}, error
        accuracies = top_shares(first, five, int(scored), self.config.finetune.classes)
        left_out = {"test_left_out": samples - scored} if scored < samples else {}
        named = {f"test_{name}": value for name, value in accuracies.items()}
        return {"test_loss": loss / scored, **named, **left_out}, None

    def _add_scores(self, ids_N: NDArray[np.int64], sums_4: Tensor) -> UserError | None:
        """Add losses, hits and number of some test images to their sums; return what ends it early."""
        try:
            crops = centre_crops(
                self.test,
                ids_N,
                own_crop(self.config),
                batch=self.session.plan.micro_batch,
                threads=max(1, cores() // self.world.local_size),
                left_out=lambda _, line: self.folder.log.note(f"test: {line}: left out of the scores"),
                journal=self.folder.journal,
            )
            for images, labels in crops:
                images_BCHW = normalised(torch.from_numpy(images).to(self.world.device))
                labels_B = torch.from_numpy(labels).to(self.world.device)
                with autocast(self.config.step, self.world.device):
                    logits_BK = self.model.logits(images_BCHW).float()
                loss = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
                hits = count_hits(logits_BK, labels_B)
                sums_4.add_(torch.stack([loss, *hits, torch.full_like(loss, len(labels_B))]))
        except UserError as error:
            return error
        return None

    def finish(self, step: int) -> None:
        """Write the result of the last weights; test them again if metrics.jsonl has no test of them.

        Raises UserError if the test split cannot be read: the weights are saved, and the same command tests
        them.
        """
        logged = self.world.broadcast_from_rank0(
            lambda: find_test_of_last_weights(
                read_metrics(self.folder.log.metrics), step, self.config.optim.max_skipped
            )
        )
        tested, error = (logged, None) if logged else self._test()
        self.world.any_rank_stops(error=error)
        if not self.world.main:
            return
        plan, test = self.session.plan, self.test
        # `top_shares` decides whether there is a top 5
        accuracies = {name: tested[f"test_{name}"] for name in ("top1", "top5") if f"test_{name}" in tested}
        samples, left_out = test.manifest.samples, int(tested.get("test_left_out", 0))
        counts = sample_counts("test", samples, samples - left_out)
        # by the names that a run's report shows
        scores = {name.replace("top", "top-"): value for name, value in accuracies.items()}
        result = {
            **self.source_facts,
            "size": self.config.data.size,
            "crop": self.config.finetune.test_crop,
            "interpolation": self.config.data.interpolation,
            "method": self.config.model.method,
            "train": self.config.data.path,
            "train_samples": plan.samples,
            "test": self.config.data.heldout,
            **counts,
            "steps": plan.steps,
            "epochs": self.config.optim.epochs,
            **accuracies,
            "test_loss": tested["test_loss"],
            "scores": {SCORE_LABELS[str(self.source_facts["weights"])]: scores},
            "settings": to_dict(self.config),
        }
        path = self.folder.path / "result.json"
        for file in (path, *self.result_copies):
            write_json(file, result)
        in_words = ", ".join(f"{name} {100 * value:.2f} %" for name, value in scores.items())
        of = f"{counts['test_samples']:,} test images{left_out_words(counts, 'test')}"
        self.folder.log.say(f"{in_words} of {of}; {path} has all of it")


def find_test_of_last_weights(records: list[Record], step: int, max_skipped: int) -> Record | None:
    """The log record that tested the weights which a run has after its last step, if there is one.

    After so many skipped steps in a row the loop rolls back to other weights, after it has tested.
    """
    for record in records:
        rolled_back = record.get("skipped_in_a_row", 0) >= max_skipped
        if record["step"] == step and not rolled_back and record.get("test_top1") is not None:
            return record
    return None
