"""`turbomim.export`: a run's newest weights for other programs."""

import posixpath
import re
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Final, Literal, get_args

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.api.arguments import whole
from turbomim.train.export import programs
from turbomim.train.export.model_card import NAME, UNKNOWN_LICENSE, card_content
from turbomim.train.export.push import check_push, push_folder
from turbomim.train.export.weights import Exported

Program = Literal["timm", "hf", "detectron2", "mmseg", "mae", "mmselfsup", "safetensors"]
_PROGRAMS: Final = get_args(Program)


def export(
    run: str | PathLike[str],
    to: Program,
    *,
    out: str | PathLike[str] | None = None,
    size: int = 0,
    license: str = UNKNOWN_LICENSE,
    push: str | None = None,
    public: bool = False,
) -> list[Exported]:
    """Write the newest whole checkpoint as another program loads it, in float32, and check that it does.

    Nothing is changed in the folder before everything is written and checked.

    Example:
        (encoder, *_) = turbomim.export("runs/mine", "timm")
        print(encoder.line, encoder.checked)

    Args:
        run: The path of a run or of a fine-tuning, which comes with its head; or a `turbomim.Run`.
        to: "timm", "hf" (transformers), "detectron2" (ViTDet) or "mmseg": the encoder, and "hf" an MAE's
            decoder, too; "mae" or "mmselfsup": encoder and decoder; "safetensors": the encoder of any method
            by the names that it has here.
        out: The folder; RUN/export for timm, RUN/export-PROGRAM for the others if None.
        size: Pixels a side of mmseg's crops: positions are resized to it; 0: the run's.
        license: Of the weights, as the Hugging Face Hub names it: "apache-2.0".
        push: USER/NAME of the Hugging Face Hub, which timm and transformers load from: made if it is not
            there.  The token is that of `hf auth login`, or HF_TOKEN.
        public: It is made for everybody to see; else private.  One of the other kind is refused.

    Returns:
        What was written, the encoder first: `path`, `line` (what loads it), `checked` (by which program, and
        how far its outputs are apart), `note` (what whoever loads it must know), `url` (of what was pushed).

    Raises:
        UserError: There is no run or no checkpoint, a method that the program has not, weights that it does
            not take or that give other outputs, somebody else's README.md in the folder, a full disk; or no
            token, no permission, no network.
    """
    if to not in _PROGRAMS:
        raise UsageError(f"to {to!r}: must be one of {', '.join(_PROGRAMS)}")
    size, place = whole("size", size), Path(run)
    folder = programs.usual_folder(place, to) if out is None else Path(out)
    if folder.suffix in (".safetensors", ".pth", ".pt") or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--out {folder}: must be a folder, files in it have names of their own")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UsageError(f"--license {license!r}: must be as the Hub has it, apache-2.0 for example")
    if public and not push:
        raise UsageError("--public is for --push: give --push USER/NAME")
    if push:
        check_push(push, to)
    trained = programs.load_trained(place)
    written = programs.export(trained, to, folder, license=license, size=size)
    if not push:
        return written
    pushed = [replace(exported, repository=push) for exported in written]
    # the cards in the folder go on to tell how the folder is loaded
    cards = {
        posixpath.join(exported.below, NAME): card_content(exported, trained, license) for exported in pushed
    }
    url = push_folder(folder, written[0].files, cards, push, public=public)
    return [replace(exported, url=url) for exported in pushed]
