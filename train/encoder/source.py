"""What an evaluation is of: a run, a fine-tuning of one, or a file with a plain ViT by timm's names.

A file goes the way that `turbomim import` goes: read as one that nobody vouches for, sizes from its shapes,
every tensor in its place or an error that names all that is not.  A `turbomim export` has a .json beside it,
which tells the heads that no tensor tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.train.encoder.features import load_finetuned, load_run
from turbomim.train.encoder.resize import at_size, resized
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.foreign.file import EXPORTED, read_tensors, weights_file
from turbomim.train.foreign.formats import formats_of
from turbomim.train.foreign.model import model_of
from turbomim.train.foreign.settings import NEED_RECIPE, Asked
from turbomim.train.models.classifier import Classifier, Encoder, fresh
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import Values, by_section


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """An encoder to evaluate."""

    path: Path
    config: Config
    model: Encoder
    # optimizer steps of the run; None of a file
    step: int | None
    # SHA-256 of the file that the weights are in, or what they are in words
    weights: str
    # whether training has not begun
    untrained: bool = False
    # what a file did not tell, in words
    assumed: str = ""

    @property
    def folder(self) -> Path:
        """Where evaluations of it are kept."""
        if self.step is not None:
            return self.path / "eval"
        # of an export's folder the folders' names: the file's is that of all exports
        within = [place.name for place in (self.path.parent.parent, self.path.parent) if place.name != ".."]
        name = "-".join(filter(None, within)) if self.path.name == EXPORTED else self.path.stem
        return Path("runs") / f"eval-{name or EXPORTED}"

    @property
    def facts(self) -> dict[str, object]:
        """What a result says about it."""
        trained = "fine-tuned" if isinstance(self.model, Classifier) else "trained"
        about = {"encoder": encoder_size(self.config), "weights": "initial" if self.untrained else trained}
        if self.step is None:
            return {"file": str(self.path), **({} if self.untrained else {"sha256": self.weights}), **about}
        optim = self.config.optim
        average = {"ema": optim.ema} if optim.ema and not self.untrained else {}
        seen = self.step * optim.global_batch
        return {"run": str(self.path), "step": self.step, "images_seen": seen, **about, **average}

    def initial(self) -> Source:
        """The same encoder with the weights that its training began with, those of its seed."""
        return replace(
            self,
            model=fresh(self.model, self.config),
            step=None if self.step is None else 0,
            weights=f"initial weights by Philox, seed {self.config.run.seed} at {self.config.data.size} px",
            untrained=True,
        )

    def pretrained(self) -> MAE:
        """The encoder of a pre-training.  Raises UserError for a fine-tuned one, whose final norm is gone."""
        if isinstance(self.model, Classifier):
            raise UserError(
                f"{self.path} is a fine-tuning, not a pre-training: give the run that it began from"
            )
        return self.model

    def at_size(self, size: int | None) -> Source:
        """The same encoder for images of another side, pixels; None: its own.  Raises UsageError."""
        wanted = at_size(self.config, size)
        return replace(self, config=wanted, model=resized(self.model, self.config, wanted))


def encoder_size(config: Config) -> str:
    """The encoder's size, in words."""
    model = config.model
    return f"{config.data.size} px, patch {model.patch}, {model.width}x{model.depth}, {model.heads} heads"


def load_source(path: Path, settings: Mapping[str, object], say: Callable[[str], None] = print) -> Source:
    """As `read_source`; says what a file did not tell."""
    source = read_source(path, settings)
    if source.assumed:
        say(source.assumed)
    return source


def read_source(path: Path, settings: Mapping[str, object]) -> Source:
    """A run folder's newest whole checkpoint, a pre-training's or a fine-tuning's, or a file's encoder.

    The folder of an export is the file in it.

    settings: of a file's encoder what its shapes do not tell, {"model.heads": 6} for example.
    Raises UserError: no run and no checkpoint, a file that cannot be read or is no plain ViT.
    """
    path, flags = weights_file(path), by_section(settings, "settings")
    # a pipe is refused as a file
    if path.exists() and not path.is_dir():
        return load_file(path, flags)
    if flags:
        section, values = next(iter(flags.items()))
        size = "--size is the side of the crops; " if "size" in flags.get("data", {}) else ""
        raise UsageError(
            f"--{section}.{next(iter(values))}: {size}a run has its own model; only a FILE takes it"
        )
    found: tuple[Config, Encoder, int] = (
        load_finetuned(path) if rundir.is_finetuning(path) else load_run(path)
    )
    config, model, step = found
    digest = checkpoint.weights_digest(path / "ckpt", step)
    return Source(path=path, config=config, model=model, step=step, weights=digest)


def load_file(path: Path, flags: Values) -> Source:
    """The encoder in a checkpoint by names of timm, MAE or transformers; a decoder or head is left out."""
    (tensors, notes), where = read_tensors(path), str(path)
    forms = formats_of(tensors)
    other = [form for form in forms if form not in ("mae", "lsmae", "hf")]
    if other:
        named = " --recipe NAME" * (other[0] in NEED_RECIPE)
        raise UserError(
            f"{where} has the names of {' or '.join(other)}, not of a plain ViT: give the run that it was "
            f"exported from; of another program's file `turbomim import {where} --from {other[0]}{named} "
            "--run.name NAME` makes a run"
        )
    asked = Asked(file=path, form="hf" if forms == ["hf"] else "mae", flags=flags)
    found = model_of(tensors, asked, "it must be a plain ViT by the names of timm or transformers")
    config, assumed = found.settled.config, [*notes, *found.notes]
    if "heads" in found.settled.guessed_heads:
        assumed.append(
            f"{where} does not tell its heads: {config.model.heads} are assumed, "
            f"{found.settled.guessed_heads['heads']}; --model.heads N says otherwise"
        )
    return Source(
        path=path,
        config=config,
        model=found.model,
        step=None,
        weights=file_sha256(path),
        assumed="\n".join(assumed),
    )
