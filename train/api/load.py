"""`turbomim.load`: the encoder of a run, of an export or of a file, as timm's model."""

from os import PathLike
from pathlib import Path
from typing import Any

from turbomim.pipeline.decoding.centre_crops import CentreCrop
from turbomim.pipeline.system.durable import read_json
from turbomim.pipeline.system.errors import UsageError, UserError, to_warning
from turbomim.train.api.arguments import check_names
from turbomim.train.encoder.crop import own_crop
from turbomim.train.encoder.source import read_source
from turbomim.train.encoder.transform import Transform
from turbomim.train.export.programs import load_tuned
from turbomim.train.export.timm import TIMM_NAMES, load_folder, timm_model
from turbomim.train.export.tuned import timm_model as tuned_timm_model
from turbomim.train.folder import rundir
from turbomim.train.settings.config import AnyConfig


def load(source: str | PathLike[str], **settings: Any) -> Any:
    """Load a trained encoder as timm's model: every method's but ConvMAE's, which timm has not.

    Example:
        model = turbomim.load("runs/mine")
        tokens = model.forward_features(model.transform(Image.open("photo.jpg"))[None])

    Args:
        source: A run's path or `turbomim.Run`, of which the newest checkpoint is taken; a fine-tuning's, with
            its head; the folder of an export for timm, or of an encoder for transformers; or a file with a
            plain ViT, .safetensors or .pth.
        **settings: What a file does not tell of its encoder: `**{"model.heads": 6}`.

    Returns:
        A torch module on the CPU, in eval mode, with all that timm's models have: `forward_features(images)`
        takes images (B, 3, S, S) float32 and gives tokens (B, T, D) after the final norm, a Swin's as a map
        (B, rows, columns, D); `num_prefix_tokens`, `num_features` (D), `reset_classifier`.
        Its `transform` makes of a Pillow image the crop of evaluation, (3, S, S) float32.  A fine-tuning's
        `model(images)` gives logits (B, K); `pretrained_cfg["label_names"]` has the classes.
        `turbomim.embed` takes it.  Heads that a file does not tell are assumed, with a warning.

    Raises:
        UserError: There is no run, no checkpoint, a file that cannot be read or is no plain ViT, or a method
            that timm has not.
    """
    check_names(settings, load, "model.")
    path = Path(source)
    statistics: dict[str, tuple[float, ...]] = {}
    if _is_of_timm(path):
        if settings:
            raise UsageError(f"{next(iter(settings))}: the config.json of {path} tells it: leave it out")
        model = load_folder(path)
        images = model.pretrained_cfg
        statistics = {"mean": tuple(images["mean"]), "std": tuple(images["std"])}
        crop = CentreCrop(
            size=images["input_size"][-1], interpolation=images["interpolation"], share=images["crop_pct"]
        )
    elif (path / "config.yaml").exists() and rundir.is_finetuning(path):
        if settings:
            raise UsageError(f"{next(iter(settings))}: a fine-tuning has its own model: leave it out")
        tuned = load_tuned(path)
        _check_method(path, tuned.config)
        model, crop = tuned_timm_model(tuned.model, tuned.config, tuned.classes), own_crop(tuned.config)
    else:
        found = read_source(path, settings)
        if found.assumed:
            to_warning(found.assumed)
        _check_method(path, found.config)
        model, crop = timm_model(found.pretrained(), found.config), own_crop(found.config)
    model.transform = Transform(crop, **statistics)
    return model.eval()


def _check_method(path: Path, config: AnyConfig) -> None:
    """Raise UserError for a method that timm has not."""
    if config.model.method not in TIMM_NAMES:
        raise UserError(
            f"{path}: timm has no model of method {config.model.method}: turbomim.embed takes the run itself"
        )


def _is_of_timm(folder: Path) -> bool:
    """Whether a folder's config.json names a model of timm's."""
    return "architecture" in read_json(folder / "config.json")


def has_head(folder: Path) -> bool:
    """Whether a folder has a classifier for timm, as a fine-tuning's export is."""
    return _is_of_timm(folder) and bool(read_json(folder / "config.json").get("num_classes"))
