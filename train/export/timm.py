"""The encoder as timm has it: VisionTransformer, Beit, SwinTransformer or SwinTransformerV2."""

from pathlib import Path
from typing import Any, Final

import timm

from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.train.encoder.crop import INTERPOLATION, crop_share
from turbomim.train.encoder.features import normalised
from turbomim.train.export.check import same_features
from turbomim.train.export.weights import Exported, encoder_weights, write_weights
from turbomim.train.models.mae import MAE
from turbomim.train.models.simmim_swin import swin_arguments
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

# any model of the class will do: the arguments replace its sizes
TIMM_NAMES: Final[dict[str, str]] = {
    "mae": "vit_base_patch16_224",
    "mff": "vit_base_patch16_224",
    "simmim": "beit_base_patch16_224",
    "simmim-swin": "swin_base_patch4_window7_224",
    "simmim-swinv2": "swinv2_base_window8_256",
}
# absolute positions: tables of relative ones are resized by timm here, too
_OTHER_SIZE: Final = (
    " At another `img_size` timm itself resizes positions otherwise, with antialiasing; MAE, mmpretrain and "
    "turbomim do it without, so features differ a little there."
)


def timm_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments for timm.create_model that build this run's encoder, the model's name among them."""
    model, size = config.model, config.data.size
    # what timm.data.resolve_model_data_config reads: else it is that of timm's own weights
    images = {
        "input_size": (3, size, size),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "interpolation": INTERPOLATION,
        "crop_pct": crop_share(size),
    }
    arguments: dict[str, Any] = {"model_name": TIMM_NAMES[model.method], "pretrained_cfg_overlay": images}
    if model.method.startswith("simmim-swin"):
        return arguments | swin_arguments(config)
    arguments |= {
        "img_size": size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "num_classes": 0,
    }
    if model.method == "simmim":
        arguments |= {
            "init_values": 0.1,
            "use_abs_pos_emb": False,
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
            # all tokens: SimMIM's class token learns nothing, and pooling would move the norm behind it
            "global_pool": "",
        }
    return arguments


def create_call(config: Config) -> str:
    """The Python expression that loads an export, with PATH for its place."""
    arguments = timm_arguments(config)
    name = arguments.pop("model_name")
    listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"timm.create_model({name!r}, {listed}, checkpoint_path=PATH)"


def write_timm(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write encoder.safetensors, load it with timm, every name matched, and compare features.

    Raises UserError if timm does not take every tensor, or gives other features.
    """
    path = folder / "encoder.safetensors"
    write_weights(path, encoder_weights(model))
    encoder = load(path, config)
    program = f"timm {timm.__version__}"
    checked = same_features(
        model, config, lambda images_BHWC: encoder.forward_features(normalised(images_BHWC)), program
    )
    return [
        Exported(
            path=path,
            load=f"import timm\n\nencoder = {create_call(config)}.eval()",
            checked=checked,
            library="timm",
            note="`encoder.forward_features(images)` gives the tokens after the final norm; photographs "
            "become images by `timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))`."
            + _OTHER_SIZE
            * hasattr(model, "pos_embed"),
            facts={"load": create_call(config), "timm": timm_arguments(config)},
        )
    ]


def load(path: Path, config: Config) -> Any:
    """Timm's own model with an export's weights, every name matched.  Raises UserError."""
    try:
        return timm.create_model(**timm_arguments(config), checkpoint_path=str(path)).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: timm {timm.__version__} does not take it: {one_line(error, 300)}"
        ) from error
