"""`turbomim import`: a run that begins with the weights of another program's checkpoint.

The run folder gets config.yaml, import.json and ckpt/step-00000000: the weights, the moments of a new
optimizer, position 0 and no fingerprint, as no data was seen yet.  So everything that takes a run takes this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.train.settings.dictionary import by_section
from turbomim.train.settings.flags import parse_with_settings

if TYPE_CHECKING:
    from turbomim.train.foreign.hub import Fetched
    from turbomim.train.foreign.model import ForeignModel


@dataclass(frozen=True, kw_only=True)
class Import:
    """Begin a run with the weights of another program: turbomim import FILE --from PROGRAM --run.name NAME.

    Settings follow as in pretrain, --section.field VALUE; --run.name is needed.
    """

    file: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="FILE",
            help="Checkpoint: .pth or .pt as torch.save writes it, .safetensors, or the folder of an export; "
            "or a model of the Hugging Face Hub, hf://USER/NAME[@REVISION][/FILE].",
        ),
    ]
    from_: Annotated[
        Literal["mae", "mmselfsup", "mff", "simmim", "convmae", "lsmae", "hf"] | None,
        tyro.conf.arg(
            name="from",
            metavar="PROGRAM",
            help="Program that wrote it: mae, mmselfsup, mff, simmim, convmae, lsmae, hf; told by the "
            "names of its tensors if not given. mff is mmpretrain's, hf is transformers (a ViTMAE or a ViT), "
            "mae has timm's names, too.",
        ),
    ] = None
    recipe: Annotated[str, tyro.conf.arg(metavar="RECIPE")] = ""
    """Recipe that it fits; without one sizes are the tensors', heads those of the .json, or guessed."""


def import_command(argv: list[str]) -> None:
    """`turbomim import …`: begin the run and print what was taken.

    Raises UserError: a file that cannot be read or does not fit, a run folder that is taken.
    """
    options, settings = parse_with_settings(Import, argv, "turbomim import")
    of_hub = options.file.startswith("hf://")
    if not of_hub:
        check_local("file", options.file)
    if "run.name" not in settings:
        raise UsageError("import needs --run.name NAME, a name for the run that it begins")
    if settings.get("optim.steps") not in (None, "0"):
        raise UsageError(
            "--optim.steps are steps over shards, and an import has none: leave it out, then "
            "`turbomim pretrain --from runs/NAME --run.name OTHER --optim.steps N` trains that long"
        )
    # here, as in the functions below: they import torch, which --help need not wait for
    from turbomim.train.folder import rundir
    from turbomim.train.foreign.file import read_tensors, weights_file
    from turbomim.train.foreign.formats import formats_of
    from turbomim.train.foreign.hub import Fetched, fetch
    from turbomim.train.foreign.model import model_of
    from turbomim.train.foreign.settings import Asked

    if of_hub:
        fetched = fetch(options.file)
    else:
        given = Path(options.file)
        if (given / "config.yaml").is_file():
            remedy = f"`turbomim pretrain --from {given} --run.name NAME` begins with its weights"
            if rundir.is_finetuning(given):
                remedy = "it can be imported as its export for timm, without its head"
            raise UserError(f"{given} is a run: {remedy}")
        path = weights_file(given)
        fetched = Fetched(path=path, url=str(path.resolve()))
    theirs, notes = read_tensors(fetched.path)
    # mae is the first of those that fit, and what a file of no known program is refused as
    form: str = options.from_ or [*formats_of(theirs), "mae"][0]
    asked = Asked(file=fetched.path, form=form, flags=by_section(settings, "flags"), recipe=options.recipe)
    found = model_of(theirs, asked, "give the --recipe or settings it was made by")
    folder = begin_run(found, fetched, form)
    if not options.from_:
        notes = [f"--from {form}, by the names of its tensors", *notes]
    print(what_was_taken(options, found, form, notes, folder))


def begin_run(found: ForeignModel, fetched: Fetched, form: str) -> Path:
    """Write the run folder; the checkpoint first, so that a run with settings has its weights."""
    import torch

    from turbomim.train.folder import checkpoint, rundir
    from turbomim.train.loop.checkpoints import write_first_checkpoint
    from turbomim.train.optim.make import make_optimizer

    config, placed = found.settled.config, found.placed
    folder = rundir.run_folder(config)
    with rundir.lock_run(config):
        if (folder / "config.yaml").exists() or checkpoint.complete(folder / "ckpt"):
            raise UserError(f"{folder} holds a run already: give another --run.name")
        optimizer = make_optimizer(found.model, config.optim)
        write_first_checkpoint(folder / "ckpt", found.model, optimizer, config, fingerprint="")
        source = {
            "file": fetched.url,
            "sha256": file_sha256(fetched.path),
            "from": form,
            "taken": placed.taken,
            "fresh": placed.fresh,
            "dropped": placed.dropped,
        }
        write_json(folder / "import.json", source)
        rundir.write_settings(folder, config, torch.device("cpu"), 1)
    return folder


def what_was_taken(options: Import, found: ForeignModel, form: str, notes: list[str], folder: Path) -> str:
    """What was taken and assumed, and the command that goes on.

    notes: what was passed over in the file.
    """
    from turbomim.train.foreign.formats import grouped

    placed, method = found.placed, found.settled.config.model.method
    sizes = {**found.sizes["model"], **found.sizes["data"]}
    sizes_told = ", ".join(f"{key} {value}" for key, value in sizes.items())
    lines = [
        f"{folder}: step 0 with {len(placed.taken)} of {len(placed.weights)} tensors from {options.file} "
        f"({form}); unexpected 0, of another shape 0, missing {len(placed.fresh)}",
        f"  method {method}; from the tensors: {sizes_told or 'no sizes, all shapes fit'}",
        f"  not in the tensors: {found.settled.assumed}",
    ]
    if placed.fresh:
        lines.append(f"  the file has no decoder: initial values for {grouped(placed.fresh)}")
        # beside an encoder for transformers
        whole = Path(options.file) / "mae"
        if (whole / "model.safetensors").is_file():
            lines.append(f"  {whole} has one: turbomim import {whole} --run.name NAME")
    if placed.dropped:
        lines.append(f"  left out, as a run has no place for them: {grouped(placed.dropped)}")
    lines += [f"  {note}" for note in (*notes, *found.notes)]
    lines.append(
        f"  by a recipe: turbomim pretrain RECIPE --from {folder} --run.name NAME --data.path SHARDS"
    )
    lines.append(f"  go on: turbomim pretrain --config {folder}/config.yaml --data.path SHARDS")
    return "\n".join(lines)
