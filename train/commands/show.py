"""`turbomim show`: pictures of what a run reconstructs, or with --targets of what a model must predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.flags import parse


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw reconstructions of a run's held-out photographs, or with --targets what a model must predict."""

    run: Annotated[
        Positional[Path | None], arg(metavar="[RUN]", help="Run folder, runs/NAME; none with --targets.")
    ] = None
    targets: Path | None = None
    """Image file whose raw, Gaussian and ideal targets are drawn instead, with their spectra."""
    data: str | None = None
    """Split to draw from; the run's held-out split, else its training split, if not given."""
    images: int | None = None
    """Photographs, one row each; 6 if not given."""
    out: Path | None = None
    """Picture to write; RUN/images/reconstruction-STEP.png, or IMAGE-targets.png here, if not given."""


def show_command(argv: list[str]) -> None:
    """`turbomim show …`.  Raises UserError."""
    options = parse(Show, argv, "turbomim show")
    if options.targets is not None:
        if (options.run, options.data, options.images) != (None, None, None):
            raise UsageError("--targets draws one photograph: leave the run, --data and --images out")
        from turbomim.train.pictures.targets import draw_targets

        print(draw_targets(options.targets, options.out))
        return
    if options.run is None:
        raise UsageError("show needs a run folder, runs/NAME, or --targets IMAGE: see turbomim show --help")
    from turbomim.train.pictures.reconstruction import draw_reconstructions

    images = 6 if options.images is None else options.images
    print(draw_reconstructions(options.run, data=options.data, images=images, out=options.out))
