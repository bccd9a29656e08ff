"""`turbomim.load`: the encoder of a run, of an export or of a file, as timm's model."""

import json
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.source import read_source
from turbomim.train.encoder.transform import Transform
from turbomim.train.export.timm import TIMM_NAMES, load_folder, timm_model
from turbomim.train.recipes.command_line import by_section


def load(source: str | PathLike[str], **settings: Any) -> Any:
    """Load a trained encoder as timm's model: every method's but ConvMAE's, which timm has not.

    Example:
        model = turbomim.load("runs/mine")
        tokens = model.forward_features(model.transform(Image.open("photo.jpg"))[None])

    Args:
        source: A run's path or `turbomim.Run`, of which the newest checkpoint is taken; the folder of an
            export for timm or transformers; or a file with a plain ViT, .safetensors or .pth.
        **settings: What a file does not tell of its encoder: `**{"model.heads": 6}`.

    Returns:
        A torch module on the CPU, in eval mode, with all that timm's models have: `forward_features(images)`
        takes images (B, 3, S, S) float32 and gives tokens (B, T, D) after the final norm, a Swin's as a map
        (B, rows, columns, D); `num_prefix_tokens`, `num_features` (D), `reset_classifier`.
        Its `transform` makes of a Pillow image the crop of evaluation, (3, S, S) float32.
        `turbomim.embed` takes it.  Heads that a file does not tell are assumed, with a warning.

    Raises:
        UserError: There is no run, no checkpoint, a file that cannot be read or is no plain ViT, or a method
            that timm has not.
    """
    path = Path(source)
    if _is_of_timm(path):
        if settings:
            raise UsageError(f"{next(iter(settings))}: the config.json of {path} tells it: leave it out")
        model = load_folder(path)
        size = model.pretrained_cfg["input_size"][-1]
    else:
        found = read_source(path, by_section(settings, "load"))
        if found.assumed:
            warnings.warn(found.assumed, stacklevel=2)
        method, size = found.config.model.method, found.config.data.size
        if method not in TIMM_NAMES:
            raise UserError(
                f"{path}: timm has no model of method {method}: turbomim.embed takes the run itself"
            )
        model = timm_model(found.pretrained(), found.config)
    model.transform = Transform(size)
    return model.eval()


def _is_of_timm(folder: Path) -> bool:
    """Whether a folder's config.json names a model of timm's."""
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and "architecture" in about
