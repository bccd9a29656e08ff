"""`turbomim export`: a run's newest weights for other programs."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from turbomim.train.settings.flags import arguments_of, parse


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the newest whole checkpoint of a run as another program loads it, in float32, and check that."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, runs/NAME, or a fine-tuning's, RUN/eval/finetune, which is exported with its head."""
    to: Annotated[
        Literal["timm", "hf", "detectron2", "mmseg", "mae", "mmselfsup", "safetensors"],
        tyro.conf.arg(
            help="timm, hf (transformers), detectron2 (ViTDet), mmseg: the encoder, and hf an MAE's decoder, "
            "too; mae, mmselfsup: encoder and decoder; safetensors: the encoder of any method, its own names."
        ),
    ]
    out: Path | None = None
    """Folder; RUN/export for timm, else RUN/export-PROGRAM, if not given."""
    size: int = 0
    """Pixels a side of mmseg's crops: positions are resized to it; the run's if not given."""
    license: str = "other"
    """Licence of the weights, for the model card, as the Hugging Face Hub names it: apache-2.0, mit."""
    push: Annotated[
        str,
        tyro.conf.arg(
            metavar="USER/NAME",
            help="Repository of the Hugging Face Hub to put the export for timm or hf into; made if it is "
            "not there. The token is that of `hf auth login`, or HF_TOKEN.",
        ),
    ] = ""
    public: bool = False
    """Let everybody see what is pushed; else the repository is private."""


def export_command(argv: list[str]) -> None:
    """`turbomim export …`.  Raises UserError."""
    options = parse(Export, argv, "turbomim export")
    # here: it imports torch, which --help need not wait for
    from turbomim.train.api.export import export

    written = export(**arguments_of(options))
    for exported in written:
        print(f"{exported.path}: step {exported.step}; {exported.checked}")
        print(textwrap.indent(exported.line, "    "))
        if exported.note:
            print(f"  {exported.note}")
    if options.push:
        print(f"pushed, {'for everybody' if options.public else 'private'}: {written[0].url}")
