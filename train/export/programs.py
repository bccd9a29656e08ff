"""A run's weights as other programs load them: written beside their place, checked, then put there."""

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from turbomim.pipeline.system.durable import make_folder, write_error
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.features import load_finetuned, load_run
from turbomim.train.export import model_card
from turbomim.train.export.dense import write_detectron2, write_mmseg
from turbomim.train.export.hf import WHOLE, write_hf
from turbomim.train.export.own import write_own, write_whole
from turbomim.train.export.timm import TIMM_NAMES, write_timm
from turbomim.train.export.tuned import tuned_writer
from turbomim.train.export.weights import Exported, Trained, Tuned, whole_model
from turbomim.train.folder import rundir
from turbomim.train.folder.class_names import read_class_names
from turbomim.train.models.classifier import AnyEncoder, fresh
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config

Write = Callable[[MAE, Config, Path], list[Exported]]


class Program(NamedTuple):
    """Something that loads exports."""

    # methods that it has a model of; none: it asks for no model
    methods: tuple[str, ...]
    write: Write
    # `library_name` of model cards
    library: str = "turbomim"


# encoders that are a plain ViT
PLAIN = ("mae", "mff")
PROGRAMS: Final[dict[str, Program]] = {
    "timm": Program(tuple(TIMM_NAMES), write_timm, "timm"),
    "hf": Program(PLAIN, write_hf, "transformers"),
    "detectron2": Program(PLAIN, write_detectron2, "detectron2"),
    "mmseg": Program(PLAIN, write_mmseg, "mmseg"),
    "mae": Program(("mae",), partial(write_whole, "mae")),
    "mmselfsup": Program(PLAIN, partial(write_whole, "mmselfsup")),
    "safetensors": Program((), write_own),
}


def export(
    trained: Trained | Tuned,
    to: str,
    folder: Path,
    *,
    license: str = model_card.UNKNOWN_LICENSE,
    size: int = 0,
) -> list[Exported]:
    """Write weights for a program, have it load them, and put them with their model cards into a folder.

    Nothing is changed there before everything is written and checked.  license: as the Hugging Face Hub names
    it; size: pixels a side that positions are resized to, for mmseg, 0 = the run's.
    Raises UserError: a method that the program has not, weights that it does not take or that give other
    outputs, a README.md of somebody else's.
    """
    if size < 0:
        raise UsageError(f"--size {size}: must be above 0")
    if size and to != "mmseg":
        raise UsageError(f"--size {size} is for --to mmseg alone: leave it out for --to {to}")
    write = _writer(trained, to, size)
    _check_cards(folder, to)
    averaged = trained.config.optim.averaged
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    temporary = folder / ".tmp-export"
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(folder)
    make_folder(temporary)
    try:
        written = [
            dataclasses.replace(
                exported,
                step=trained.step,
                note=" ".join(filter(None, (exported.note, averaged and f"The weights are {averaged}."))),
                library=PROGRAMS[to].library,
                below="" if exported.path == temporary else exported.path.name,
            )
            for exported in write(temporary)
        ]
        for exported in written:
            beside = exported.path if exported.path.is_dir() else exported.path.parent
            (beside / model_card.NAME).write_bytes(model_card.card_content(exported, trained, license))
        paths = [path for path in temporary.rglob("*") if path.is_file()]
        files = tuple(path.relative_to(temporary).as_posix() for path in paths)
        for file in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).replace(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # none that has something in it
        with suppress(OSError):
            for place in made:
                place.rmdir()
        if isinstance(error, OSError):
            raise write_error(folder, error) from error
        raise
    shutil.rmtree(temporary, ignore_errors=True)
    return [
        dataclasses.replace(exported, path=folder / exported.path.relative_to(temporary), files=files)
        for exported in written
    ]


def export_at_end(trained: Trained) -> str:
    """Export a run's encoder when it ends, for timm where timm has it; what came of it, in a line.

    A run that is through does not fail by it.
    """
    to = "timm" if trained.config.model.method in PROGRAMS["timm"].methods else "safetensors"
    try:
        (exported,) = export(trained, to, trained.run / "export")
    except UserError as error:
        return f"the encoder is not exported: {error}; the weights are in {trained.run / 'ckpt'}"
    how = "" if to == "timm" else " (timm has no such model)"
    return f"the encoder is in {exported.path}: {exported.line}{how}; {exported.checked}"


def _writer(trained: Trained | Tuned, to: str, size: int) -> Callable[[Path], list[Exported]]:
    """What writes a run, or a fine-tuning with its head, for a program into a folder."""
    if isinstance(trained, Tuned):
        write_tuned = tuned_writer(trained.config, to)
        return partial(write_tuned, on_host(trained.model, trained.config), trained.config, trained.classes)
    check_method(trained.config, to)
    write: Write = partial(write_mmseg, size=size) if size else PROGRAMS[to].write
    return partial(write, on_host(trained.model, trained.config), trained.config)


def load_trained(run: Path) -> Trained | Tuned:
    """What is exported of a run's, or a fine-tuning's, folder: its newest checkpoint.  Raises UserError."""
    if rundir.is_finetuning(run):
        return load_tuned(run)
    plain, encoder, step = load_run(run)
    return Trained(run=run, config=plain, model=encoder, step=step)


def load_tuned(run: Path) -> Tuned:
    """A fine-tuning's newest checkpoint, with the names of its classes.  Raises UserError."""
    config, model, step = load_finetuned(run)
    classes = read_class_names(run, config)
    return Tuned(run=run, config=config, model=model.eval(), step=step, classes=classes)


def usual_folder(run: Path, to: str) -> Path:
    """Where a run's export for a program is if nothing else is asked for: that for timm as at a run's end."""
    return run / ("export" if to == "timm" else f"export-{to}")


def on_host(model: AnyEncoder, config: Config) -> AnyEncoder:
    """The model, or a copy of it in host memory: outputs are compared there, in float32."""
    if next(model.parameters()).device.type == "cpu":
        return model
    copy = fresh(model, config)
    copy.load_state_dict(whole_model(model))
    return copy


def check_method(config: Config, to: str) -> None:
    """Raise UserError if a program has no model of a run's method, and name those that have."""
    method, methods = config.model.method, PROGRAMS[to].methods
    if methods and method not in methods:
        fitting = [name for name, p in PROGRAMS.items() if not p.methods or method in p.methods]
        raise UserError(f"{to} has no model of method {method}: give --to {'|'.join(fitting)}")


def _check_cards(folder: Path, to: str) -> None:
    """Raise UserError if a README.md that would be written is there, and is no card of ours."""
    for path in (folder / model_card.NAME, *[folder / WHOLE / model_card.NAME] * (to == "hf")):
        if path.exists() and not model_card.is_ours(path):
            raise UserError(f"{path} is no model card of ours and would be overwritten: give another --out")
