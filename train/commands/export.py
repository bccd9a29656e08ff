"""`turbomim export`: a run's newest weights for other programs."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import RunPath


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the newest whole checkpoint of a run as another program loads it, in float32, and check that."""

    run: RunPath
    to: Literal["timm", "hf", "detectron2", "mmseg", "mae", "mmselfsup", "safetensors"]
    """timm, hf (transformers), detectron2 (ViTDet), mmseg: the encoder, and hf an MAE's decoder, too; mae,
    mmselfsup: encoder and decoder; safetensors: the encoder of any method, by its own names."""
    out: Path | None = None
    """Folder; RUN/export for timm, else RUN/export-PROGRAM, if not given."""
    size: int = 0
    """Pixels a side of mmseg's crops: positions are resized to it; the run's if not given."""
    license: str = "other"
    """Licence of the weights, for the model card, as the Hugging Face Hub names it: apache-2.0, mit."""


def export_command(argv: list[str]) -> None:
    """`turbomim export …`.  Raises UserError."""
    options = parse(Export, argv, "turbomim export")
    # here: they import torch, which --help need not wait for
    from turbomim.train.export.programs import export, load_trained, usual_folder
    from turbomim.train.export.weights import loaded_from

    out = options.out or usual_folder(options.run, options.to)
    if out.suffix in (".safetensors", ".pth", ".pt") or (out.exists() and not out.is_dir()):
        raise UsageError(f"--out {out}: must be a folder, files in it have names of their own")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", options.license):
        raise UsageError(f"--license {options.license!r}: must be as the Hub has it, apache-2.0 for example")
    trained = load_trained(options.run)
    for exported in export(trained, options.to, out, license=options.license, size=options.size):
        print(f"{exported.path}: step {trained.step}; {exported.checked}")
        print(textwrap.indent(loaded_from(exported.load, exported.path), "    "))
        if exported.note:
            print(f"  {exported.note}")
