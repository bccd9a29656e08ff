"""`turbomim export`: a run's newest weights as a file for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from turbomim.pipeline.errors import UsageError
from turbomim.train.export import WRAPPERS, check_method, create_call, write_encoder, write_full
from turbomim.train.features import load_run
from turbomim.train.options import parse


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the newest whole checkpoint of a run as another program names it, in float32."""

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME."""
    to: Literal["timm", "mae", "mmselfsup"]
    """timm: the encoder; mae, mmselfsup: the encoder and the decoder."""
    out: Path | None = None
    """File; RUN/export/encoder.safetensors for timm, else RUN/export/PROGRAM.pth, if not given."""


def command(argv: list[str]) -> None:
    """`turbomim export …`.  Raises UserError."""
    options = parse(Export, argv, "turbomim export")
    endings = (".safetensors",) if options.to == "timm" else (".pth", ".pt")
    name = "encoder.safetensors" if options.to == "timm" else f"{options.to}.pth"
    out = options.out or options.run / "export" / name
    if out.suffix not in endings or out.is_dir():
        raise UsageError(f"--out {out}: must be a file whose name ends in {' or '.join(endings)}")
    config, model, step = load_run(options.run)
    check_method(config, options.to)
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.to == "timm":
        write_encoder(model, config, out)
        how = create_call(config, out)
    else:
        how = f"{write_full(model, options.to, out)} tensors, torch.load(FILE)[{WRAPPERS[options.to]!r}]"
    print(f"{out}: step {step}; {how}")
