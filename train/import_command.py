"""`turbomim import`: a run that begins with the weights of another program's checkpoint.

The run folder gets config.yaml, import.json and ckpt/step-00000000: the weights, the moments of a new
optimizer, position 0 and no fingerprint, as no data was seen yet.  So everything that takes a run takes this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from turbomim.pipeline.durable import write_json
from turbomim.pipeline.errors import UsageError, UserError
from turbomim.pipeline.shards import file_sha256
from turbomim.train import checkpoint, rundir
from turbomim.train.cli import flag_values
from turbomim.train.config import Config
from turbomim.train.config_dict import to_dict
from turbomim.train.foreign import FORMATS, Weights, formats_of, grouped, is_beit_or_swin
from turbomim.train.foreign_file import read_tensors
from turbomim.train.foreign_sizes import MAE_RECIPE, Values, check_plausible, settle, sizes, with_card
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.optim import make_optimizer, zero_moments
from turbomim.train.options import parse

# of tensors that do not fit
REMEDY = "give the --recipe or settings it was made by"


@dataclass(frozen=True, kw_only=True)
class Import:
    """Begin a run with the weights of another program: turbomim import FILE --from PROGRAM --run.name NAME.

    Settings follow as in pretrain, --section.field VALUE; --run.name is needed.
    """

    file: tyro.conf.Positional[Path]
    """Checkpoint: .pth or .pt as torch.save writes it, or .safetensors."""
    from_: Annotated[
        Literal["mae", "mmselfsup", "mff", "simmim", "convmae", "lsmae"], tyro.conf.arg(name="from")
    ]
    """Program that wrote it; mff is mmpretrain's."""
    recipe: str = ""
    """Recipe that it fits; without one the sizes are those of the tensors, and heads those of the export's
    .json, or guessed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A checkpoint's tensors in their places."""

    # every tensor of the model
    weights: dict[str, Tensor]
    # names of the file's that were taken
    taken: list[str]
    # names that keep their initial values: the decoder's, where the file has none of it
    fresh: list[str]
    # names of the file's that hold no weights
    dropped: list[str]


def command(argv: list[str]) -> None:
    """`turbomim import …`.  Raises UserError."""
    own, settings = split(argv)
    options = parse(Import, own, "turbomim import")
    print(import_run(options, flag_values(settings)))


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the settings among them, --section.field VALUE or …=VALUE."""
    own: list[str] = []
    settings: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag.startswith("--") and "." in flag:
            settings += [word, *islice(words, 0 if equals else 1)]
        else:
            own.append(word)
    return own, settings


def import_run(options: Import, flags: Values) -> str:
    """Begin the run and report what was taken.

    Raises UserError: a file that cannot be read or does not fit, a run folder that is taken.
    """
    if "name" not in flags.get("run", {}):
        raise UsageError("import needs --run.name NAME, a name for the run that it begins")
    where, form = str(options.file), FORMATS[options.from_]
    theirs = read_tensors(options.file)
    check_format(theirs, options.from_, where)
    try:
        weights = form.ours(theirs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    found = sizes(weights)
    check_plausible(found, weights, where)
    known = with_card(options.file, found, flags)
    config, told = settle(found, weights, options.from_, options.recipe, known, where)
    if known != flags:
        told += f"; heads as {options.file.with_suffix('.json')} has them"
    model = make_model(config)
    fitted = fit(weights, model, form.dropped, where)
    model.load_state_dict(fitted.weights)
    folder = begin(config, model, options, fitted)
    return report(options, config, fitted, {**found["model"], **found["data"]}, told, folder)


def check_format(theirs: Weights, form: str, where: str) -> None:
    """Raise UserError if the names are not those of the format, and name the ones that fit."""
    fitting = formats_of(theirs)
    if form in fitting:
        return
    if is_beit_or_swin(theirs):
        raise UserError(
            f"{where} is a SimMIM encoder, or another Beit or Swin by timm's names: eval takes plain ViTs, "
            "import takes SimMIM's own checkpoints; give the run that it was exported from"
        )
    if fitting:
        raise UserError(f"{where} is not of --from {form}: its names are those of {' or '.join(fitting)}")
    raise UserError(
        f"{where} is of no known program ({', '.join(FORMATS)}): {next(iter(theirs))!r} is its first tensor"
    )


def fit(weights: Weights, model: MAE, dropped: str, where: str, remedy: str = REMEDY) -> Fit:
    """Put tensors of our names in the places of a model's, none left over and none missing.

    Of a file without any tensor of the decoder, what only pre-training needs may be missing, and stays as the
    model has it.  Raises UserError that names all that does not fit.
    """
    ours = model.state_dict()
    left_out = [name for name in weights if name not in ours and re.fullmatch(dropped, name)]
    taken = [name for name in ours if name in weights]
    fresh = {name for name in ours if name.startswith(model.decoder_names)} - weights.keys()
    if any(name.startswith("decoder") for name in taken):
        fresh = set()
    shaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(ours[name].shape)}"
        for name in taken
        if weights[name].shape != ours[name].shape
        or weights[name].is_floating_point() != ours[name].is_floating_point()
    ]
    problems = {
        "missing": ours.keys() - weights.keys() - fresh,
        "unexpected": weights.keys() - ours.keys() - set(left_out),
        "of another shape": shaped,
    }
    said = [f"{what}: {grouped(names)}" for what, names in problems.items() if names]
    if said:
        raise UserError(f"{where} does not fit; {'; '.join(said)}; {remedy}")
    placed = {name: weights[name].to(ours[name].dtype, copy=True).contiguous() for name in taken}
    bad = [name for name, tensor in placed.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise UserError(f"{where}: numbers that are not finite in {grouped(bad)}: do not use it")
    return Fit(
        weights={name: placed.get(name, tensor) for name, tensor in ours.items()},
        taken=taken,
        fresh=sorted(fresh),
        dropped=left_out,
    )


def begin(config: Config, model: MAE, options: Import, fitted: Fit) -> Path:
    """Write the run folder; the checkpoint first, so that a run with settings has its weights."""
    folder = rundir.run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    with rundir.locked(folder):
        if (folder / "config.yaml").exists() or checkpoint.complete(folder / "ckpt"):
            raise UserError(f"{folder} holds a run already: give another --run.name")
        optimizer = make_optimizer(model, config.optim)
        zero_moments(optimizer)
        state = checkpoint.State(
            step=0, position=0, fingerprint="", config=to_dict(config), versions=rundir.versions()
        )
        checkpoint.write(folder / "ckpt", checkpoint.capture(model, optimizer, state), config.run.keep)
        source = {
            "file": str(options.file.resolve()),
            "sha256": file_sha256(options.file),
            "from": options.from_,
            "taken": fitted.taken,
            "fresh": fitted.fresh,
            "dropped": fitted.dropped,
        }
        write_json(folder / "import.json", source)
        rundir.describe(folder, config, torch.device("cpu"), 1)
    return folder


def report(
    options: Import, config: Config, fitted: Fit, found: dict[str, int], told: str, folder: Path
) -> str:
    """What was taken and assumed, and the command that goes on."""
    sizes_told = ", ".join(f"{key} {value}" for key, value in found.items())
    lines = [
        f"{folder}: step 0 with {len(fitted.taken)} of {len(fitted.weights)} tensors from {options.file} "
        f"({options.from_}); unexpected 0, of another shape 0, missing {len(fitted.fresh)}",
        f"  method {config.model.method}; from the tensors: {sizes_told or 'no sizes, all shapes fit'}",
        f"  not in the tensors: {told}",
    ]
    if fitted.fresh:
        lines.append(f"  the file has no decoder: initial values for {grouped(fitted.fresh)}")
    if fitted.dropped:
        lines.append(f"  left out, as they are no weights: {grouped(fitted.dropped)}")
    lines.append(
        f"  go on: turbomim pretrain {options.recipe or MAE_RECIPE} --config {folder}/config.yaml "
        "--data.path SHARDS"
    )
    return "\n".join(lines)
