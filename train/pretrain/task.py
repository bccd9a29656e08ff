"""Pre-training as a task: a masked model, its held-out loss, scores and pictures on the way, an export."""

from torch import Tensor

from turbomim.pipeline.batch import Batch
from turbomim.train.evaluate.online import OnlineEval, Splits
from turbomim.train.export.programs import export_at_end
from turbomim.train.export.weights import Trained
from turbomim.train.folder.log import Record
from turbomim.train.loop.session import RunFolder, Session
from turbomim.train.loop.step import masked_inputs
from turbomim.train.loop.task import Task
from turbomim.train.machine.matmul_rate import rank_peak
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.models.sharding import shard, whole_weights
from turbomim.train.optim.make import make_optimizer
from turbomim.train.pictures.reconstruction import FixedPictures
from turbomim.train.pretrain.heldout import heldout_loss
from turbomim.train.pretrain.smaller import shrunk
from turbomim.train.settings.config import Config
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.settings.sizes import stage_of


class Pretraining(Task):
    """A masked model is trained on photographs alone.

    labelled: the splits that features are scored on, on the main rank, where scores are asked for.
    """

    model: MAE
    # on the main rank, where pictures are asked for
    pictures: FixedPictures | None = None

    def __init__(self, session: Session[Config], folder: RunFolder, labelled: Splits | None) -> None:
        self.session, self.folder, self.labelled = session, folder, labelled
        self.config, self.world = session.config, session.world
        self.stages = self.config.data.stages(session.plan.steps)
        # whether each rank has a part of the weights
        self.sharded = self.config.step.shard and self.world.size > 1
        bfloat16 = uses_bfloat16(self.config.step, self.world.device)
        self.model = make_model(self.config).to(self.world.device)
        if self.sharded:
            # a CPU's layer norm takes no bfloat16 weights with float32 values
            on_gpu = self.world.device.type == "cuda"
            shard(self.model, self.world, self.config.step, bfloat16=bfloat16 and on_gpu)
        self.optimizer = make_optimizer(self.model, self.config.optim, bfloat16=bfloat16, world=self.world)
        self.peak_flops = rank_peak(self.world, bfloat16=bfloat16)

    def before_steps(self, logged: list[Record]) -> None:
        """Say what trained features must be better than, and choose the photographs that are drawn."""
        log, journal = self.folder.log, self.folder.journal
        self.online = OnlineEval(self.config, self.labelled, self.world, logged, log.note, journal)
        if baselines := self.online.begin():
            log.say(baselines)
        if self.config.run.picture_every:
            self.pictures = self.world.run_on_all(self._choose_pictures)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Images, shrunk while smaller ones come first, and what their masks are drawn from."""
        images_BHWC, *of_masks = masked_inputs(batch)
        data = self.config.data
        size = stage_of(batch.position // self.session.plan.global_batch, self.stages).size
        if size < data.size:
            images_BHWC = shrunk(images_BHWC, size, data.interpolation)
        return images_BHWC, *of_masks

    def evaluate(self) -> Record:
        """The held-out loss, None without a split for it."""
        if self.session.heldout is None:
            return {"heldout_loss": None}
        return {"heldout_loss": heldout_loss(self.model, self.session.heldout, self.session, self.folder)}

    def score_features(self, epoch: float, *, end: bool) -> dict[str, float]:
        """Neighbours and the linear probe of the encoder's features, every `eval.every_epochs`."""
        return self.online.scores(self._whole_model, epoch, end=end)

    def model_numbers(self) -> dict[str, Tensor]:
        """What the method logs."""
        return self.model.logged()

    def draw(self, step: int) -> None:
        """The same photographs behind the same masks, by the weights of this step."""
        model = self._whole_model()

        def picture() -> None:
            if self.pictures is not None:
                self.folder.log.picture(step, self.pictures.draw(model, step))

        self.world.run_on_all(picture)

    def finish(self, step: int) -> None:
        """Export the encoder."""
        model = self._whole_model()
        if self.world.main:
            trained = Trained(run=self.folder.path, config=self.config, model=model, step=step)
            self.folder.log.say(export_at_end(trained))

    def _choose_pictures(self) -> FixedPictures | None:
        split = self.session.heldout or self.session.split
        if not self.world.main:
            return None
        return FixedPictures(self.config, split, self.folder.path, self.folder.journal)

    def _whole_model(self) -> MAE:
        """The model, or a copy of it put together from all ranks; every rank comes here."""
        if not self.sharded:
            return self.model
        model = make_model(self.config, initial=False).to(self.world.device)
        model.load_state_dict(whole_weights(self.model))
        return model
