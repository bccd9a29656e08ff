"""The options of `turbomim tune`; a file that imports no torch, so that --help need not wait for it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from turbomim.pipeline.decoding.crop import CropKind
from turbomim.pipeline.tars.store import Interpolation
from turbomim.train.settings.config import Device


@dataclass(frozen=True, kw_only=True)
class TuneLoader:
    """Measure which loader settings are fastest here, and keep them for this machine.

    `turbomim pretrain` uses them wherever a setting is automatic.
    """

    data: str
    """Split to read, of the kind that will be trained on."""
    recipe: str = "pixmim-vit-b16-300e"
    """Recipe whose size, crop and batch are measured (turbomim recipes)."""
    size: int | None = None
    """Side of the training image, pixels; the recipe's if not given."""
    crop: CropKind | None = None
    """Crop; the recipe's if not given."""
    interpolation: Interpolation | None = None
    """Filter of the resize; the recipe's if not given."""
    micro_batch: int | None = None
    """Samples a batch; the recipe's, but at most 256, if not given."""
    seconds: float = 60.0
    """About how long the measuring takes in all."""
    device: Device = "auto"
    """Device that the batches are for."""


@dataclass(frozen=True, kw_only=True)
class TuneStep:
    """Measure which micro-batch, compile mode and recomputation make the recipe's step fastest here.

    They are kept for this machine, model and size: `turbomim pretrain` uses them where optim.micro_batch is
    0.  Global batch and learning rate stay as they are.  Settings follow as in pretrain, --section.field
    VALUE.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """Recipe whose step is measured (turbomim recipes)."""
    data: str | None = None
    """Split whose first batch is used, again and again; data.path if not given."""
    config: str | None = None
    """YAML file with settings over the recipe's."""
    ranks: int = 1
    """Ranks that will share the global batch."""
    images: int | None = None
    """Images of a measured step; a rank's share of the global batch if not given."""
    seconds: float = 5.0
    """Time of a measurement once it is compiled."""
