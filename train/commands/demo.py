"""`turbomim demo`: its flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from turbomim.train.settings.flags import parse, python_bools


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Cut photographs, shard them, pre-train PixMIM on them, draw what it learned, export the encoder."""

    folder: Path = Path("runs/demo")
    """Where everything goes; a second call resumes, or says that it is done."""
    epochs: float | None = None
    """Passes over the photographs; the recipe's if not given."""
    compile: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Compile the training step (on a CPU this needs a C++ compiler)."""


def demo_command(argv: list[str]) -> None:
    """`turbomim demo …`.  Raises UserError."""
    options = parse(Demo, python_bools(argv), "turbomim demo")
    from turbomim.train.demo.demo import demo

    demo(options.folder, epochs=options.epochs, compile_step=options.compile, console=Console())
