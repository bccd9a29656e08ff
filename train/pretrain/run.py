"""The run of a pre-training: a masked model, its held-out loss, scores and pictures on the way, an export."""

from __future__ import annotations

from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.tars.split import Split
from turbomim.train.evaluate.online import OnlineEval, Splits
from turbomim.train.export.programs import export_at_end
from turbomim.train.export.weights import Trained
from turbomim.train.folder.log import Record
from turbomim.train.loop.optim import make_optimizer
from turbomim.train.loop.resolved import Resolved
from turbomim.train.loop.run import Run
from turbomim.train.loop.step import masked_inputs
from turbomim.train.machine.peak import rank_peak
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.models.sharding import shard, whole_weights
from turbomim.train.pictures.reconstruction import FixedPictures
from turbomim.train.pretrain.heldout import heldout_loss
from turbomim.train.settings.config import Config
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World


class PretrainRun(Run[Config]):
    """One process of one pre-training."""

    model: MAE
    # on the main rank, where pictures are asked for
    pictures: FixedPictures | None = None

    def __init__(
        self,
        resolved: Resolved[Config],
        split: Split,
        heldout: Split | None,
        labelled: Splits | None,
        world: World,
        console: Console,
        profile: range,
    ) -> None:
        self.heldout, self.labelled = heldout, labelled
        super().__init__(resolved, split, world, console, profile)

    @property
    def sharded(self) -> bool:
        """Whether each rank has a part of the weights."""
        return self.config.step.shard and self.world.size > 1

    def make_model(self) -> MAE:
        """The masked model, its weights split over the ranks where that is asked for."""
        model, world, step = make_model(self.config).to(self.world.device), self.world, self.config.step
        if self.sharded:
            # a CPU's layer norm takes no bfloat16 weights with float32 values
            bfloat16 = world.device.type == "cuda" and uses_bfloat16(step, world.device)
            shard(model, world, step, bfloat16=bfloat16)
        return model

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW as the settings say."""
        return make_optimizer(self.model, self.config.optim)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Images, and what their masks are drawn from."""
        return masked_inputs(batch)

    def peak(self, *, bfloat16: bool) -> float | None:
        """That of the rank's device."""
        return rank_peak(self.world, bfloat16=bfloat16)

    def logged(self) -> dict[str, Tensor]:
        """What the method logs."""
        return self.model.logged()

    def begin(self, kept: list[Record]) -> None:
        """Scores that earlier processes logged are not made again."""
        note, journal = self.log.note, self.journal
        self.online = OnlineEval(self.config, self.labelled, self.world, kept, note, journal)

    def before_steps(self) -> None:
        """Say what trained features must be better than, and choose the photographs that are drawn."""
        if baselines := self.online.begin():
            self.log.say(baselines)
        if self.config.run.picture_every:
            split = self.heldout or self.split
            make = partial(FixedPictures, self.config, split, self.folder, self.journal)
            self.pictures = self.world.run_on_all(lambda: make() if self.world.main else None)

    def scores(self, epoch: float, *, end: bool) -> dict[str, float]:
        """Neighbours and the linear probe of the encoder's features."""
        return self.online.scores(self._whole_model, epoch, end=end)

    def draw(self) -> None:
        """The same photographs behind the same masks, by the weights of this step."""
        model = self._whole_model()

        def picture() -> None:
            if self.pictures is not None:
                self.log.picture(self.step, self.pictures.draw(model, self.step))

        self.world.run_on_all(picture)

    def measured(self) -> Record:
        """The held-out loss, None without a split for it."""
        if self.heldout is None:
            return {"heldout_loss": None}
        batch, note = self.plan.micro_batch, self.log.note
        loader, journal = self.resolved.loader, self.journal
        loss = heldout_loss(self.model, self.heldout, self.config, loader, batch, self.world, note, journal)
        return {"heldout_loss": loss}

    def finished(self) -> None:
        """Export the encoder."""
        model = self._whole_model()
        if self.world.main:
            trained = Trained(run=self.folder, config=self.config, model=model, step=self.step)
            self.log.say(export_at_end(trained))

    def _whole_model(self) -> MAE:
        """The model, or a copy of it put together from all ranks; every rank comes here."""
        if not self.sharded:
            return self.model
        model = make_model(self.config, initial=False).to(self.world.device)
        model.load_state_dict(whole_weights(self.model))
        return model
