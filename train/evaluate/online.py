"""What the encoder's features are worth while it trains: neighbours and the linear probe, every few epochs.

Both learn from and are scored on a few thousand labelled samples, always the same ones, beside random weights
and raw pixels, which are scored once a run.  Training draws and counts the same with and without it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.crop import eval_crops
from turbomim.train.encoder.features import MEAN, PIXELS, Features, every_feature, extract
from turbomim.train.evaluate.knn import NEIGHBOURS, knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.splits import check_labelled, choose_ids
from turbomim.train.folder.log import Record
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config
from turbomim.train.trackers.scalars import OF_EVAL
from turbomim.train.world.distributed import World

BATCH = 64
ENCODER = f"encoder: {MEAN}"
KNN, PROBE = f"{OF_EVAL}knn_top1", f"{OF_EVAL}probe_top1"
# what is added to the names of the scores that a trained encoder must be better than
RANDOM, RAW = "_random", "_pixels"

Splits = tuple[Split, Split]


def labelled_splits(config: Config, split: Split, heldout: Split | None, world: World) -> Splits | None:
    """The splits that `eval` learns from and is scored on, on the main rank; None where nothing is scored.

    Every rank calls it.  Raises UserError: no such split, no labels, other classes, too few samples.
    """
    wanted = config.eval
    if not wanted.every_epochs:
        return None
    opened: list[Splits] = []

    def check() -> None:
        train = open_split(wanted.train) if wanted.train else split
        test = open_split(wanted.test) if wanted.test else heldout
        if test is None:
            raise UserError(
                f"eval.every_epochs = {wanted.every_epochs:g}: there is no split to score; give one that has "
                "the classes of the training split, --eval.test SHARDS or --data.heldout SHARDS"
            )
        for setting, each in (("eval.train", train), ("eval.test", test)):
            if not each.manifest.labelled:
                raise UserError(
                    f"eval.every_epochs = {wanted.every_epochs:g}: {each.place} has no classes to tell "
                    f"apart; give shards of a folder of images a class, or of a list with labels, "
                    f"--{setting} SHARDS"
                )
        check_labelled(train, test, ("knn",))
        opened.append((train, test))

    world.broadcast_from_rank0(check)
    return opened[0] if opened else None


class OnlineEval:
    """Scores of one run.  The main rank does the work while the others wait: a few thousand samples."""

    def __init__(
        self,
        config: Config,
        splits: Splits | None,
        world: World,
        kept: Sequence[Record],
        note: Callable[[str], None],
        journal: Journal | None = None,
    ) -> None:
        """kept: log records up to here, which hold what is not scored again."""
        self._journal = journal
        self._config, self._splits, self._world, self._note = config, splits, world, note
        scored = [record for record in kept if record.get(KNN) is not None]
        self._epoch = max((record["epoch"] for record in scored), default=0.0)
        last = scored[-1] if scored else {}
        self._baselines = {key: value for key, value in last.items() if key.endswith((RANDOM, RAW))}

    def begin(self) -> str:
        """Score the baselines unless an earlier process of the run did; what they are, in words.

        Every rank comes here.
        """
        return self._world.broadcast_from_rank0(self._begin) if self._config.eval.every_epochs else ""

    def scores(self, whole_model: Callable[[], MAE], epoch: float, *, end: bool) -> dict[str, float]:
        """Scores of the model and of the baselines by name, where they are due; every rank comes here."""
        every = self._config.eval.every_epochs
        if not every:
            return {}

        def due() -> bool:
            # a share of an epoch is no exact number
            return end or math.floor(epoch / every + 1e-9) > math.floor(self._epoch / every + 1e-9)

        if not self._world.broadcast_from_rank0(due):
            return {}
        self._epoch = epoch
        model = whole_model()
        return self._world.broadcast_from_rank0(lambda: self._score(model, {ENCODER: ""}) | self._baselines)

    def _begin(self) -> str:
        if not self._baselines:
            self._baselines = self._score(make_model(self._config), {ENCODER: RANDOM, PIXELS: RAW})
        shown = {name: f"{100 * value:.1f} %" for name, value in self._baselines.items()}
        lines = [
            f"{what} {shown[name + RAW]} of raw pixels and {shown[name + RANDOM]} of random weights"
            for name, what in ((KNN, f"{NEIGHBOURS} neighbours"), (PROBE, "linear probe"))
            if name + RAW in shown
        ]
        return (
            f"features are scored every {self._config.eval.every_epochs:g} epochs; to be better than: "
            f"{', '.join(lines)}.  Expect neighbours a few points above the better of the two, and the probe "
            "further above: MAE's neighbours are low by nature, see docs/learning.md"
        )

    def _score(self, model: MAE, endings: dict[str, str]) -> dict[str, float]:
        """Top-1 shares of some features, their names ending as told."""
        assert self._splits is not None, "the main rank has the splits"
        training = model.training
        train, test = (self._features(split, model) for split in self._splits)
        model.train(training)
        scores = {}
        for feature, ending in endings.items():
            learned = train.by_name[feature], train.labels_N
            scored = test.by_name[feature], test.labels_N
            scores[KNN + ending] = knn(*learned, *scored).majority
            if self._config.eval.probe:
                scores[PROBE + ending] = fit_linear_probe(*learned).accuracy(*scored)
        return scores

    def _features(self, split: Split, model: MAE) -> Features:
        """Features of the chosen samples of a split; one that cannot be decoded is left out and named."""
        crops = eval_crops(
            split,
            choose_ids(split, self._config.eval.samples),
            size=self._config.data.size,
            batch=BATCH,
            journal=self._journal,
            left_out=lambda _, line: self._note(f"eval: {line}: left out of the scores"),
        )
        encoders = {"encoder": model.to(self._world.device).eval()}
        return extract(crops, partial(every_feature, encoders), self._world.device)
