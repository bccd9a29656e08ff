"""`turbomim show`: pictures of what a run reconstructs, or with --targets of what a model must predict."""

from dataclasses import dataclass
from pathlib import Path

from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import RunPath


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw reconstructions of a run's held-out photographs."""

    run: RunPath
    data: str | None = None
    """Split to draw from; the run's held-out split, else its training split, if not given."""
    images: int = 6
    """Photographs, one row each."""
    out: Path | None = None
    """Picture to write; RUN/images/reconstruction-STEP.png if not given."""


def show_command(argv: list[str]) -> None:
    """`turbomim show …`.  Raises UserError."""
    if any(word.partition("=")[0] == "--targets" for word in argv):
        from turbomim.train.pictures.targets import show_targets_command

        show_targets_command(argv)
        return
    options = parse(Show, argv, "turbomim show")
    from turbomim.train.pictures.reconstruction import draw_reconstructions

    print(draw_reconstructions(options.run, data=options.data, images=options.images, out=options.out))
