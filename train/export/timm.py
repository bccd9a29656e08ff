"""The encoder as timm has it: VisionTransformer, Beit, SwinTransformer or SwinTransformerV2."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import Tensor

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.train.encoder.crop import INTERPOLATION, crop_share
from turbomim.train.encoder.features import normalised
from turbomim.train.export.check import same_features
from turbomim.train.export.weights import Exported, encoder_weights, facts, write_weights
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
# what timm says of the weights that it has itself for such a model: these are others
_NOT_THEIRS: Final = dict.fromkeys(
    ("url", "hf_hub_id", "source", "tag", "license", "description", "origin_url", "paper_name", "paper_ids")
)
CREATE: Final = 'timm.create_model("local-dir:PATH", pretrained=True)'
# before the lines that use PHOTO
_CODE: Final = f"""\
import timm
import torch
from PIL import Image

model = {CREATE}.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    """
PHOTO: Final = 'transform(Image.open("photo.jpg").convert("RGB"))[None]'
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


def folder_config(config: Config) -> dict[str, Any]:
    """The config.json of a folder or repository that timm loads: its arguments, and what no tensor tells."""
    arguments = timm_arguments(config)
    return {
        "architecture": arguments.pop("model_name"),
        "num_classes": 0,
        "pretrained_cfg": {
            "num_classes": 0,
            **arguments.pop("pretrained_cfg_overlay"),
            # as in timm's own: its images have one size, and a new head takes the place of this layer
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc" if config.model.method.startswith("simmim-swin") else "head",
        },
        "model_args": arguments,
        **facts(config),
    }


def write_timm(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write config.json and model.safetensors, load them with timm, every name matched, compare features.

    Raises UserError if timm does not take every tensor, or gives other features.
    """

    def check(theirs: Any, program: str) -> str:
        return same_features(
            model, config, lambda images_BHWC: theirs.forward_features(normalised(images_BHWC)), program
        )

    swin = config.model.method.startswith("simmim-swin")
    mean = ".mean((1, 2))" if swin else "[:, model.num_prefix_tokens :].mean(1)"
    return write_folder(
        folder,
        encoder_weights(model),
        folder_config(config),
        check,
        "`model.forward_features(images)` gives the tokens after the final norm. "
        "Without `pretrained=True` timm draws random weights, and does not say so."
        + _OTHER_SIZE
        * hasattr(model, "pos_embed"),
        f"tokens = model.forward_features({PHOTO})\nfeature = tokens{mean}",
    )


def timm_model(model: MAE, config: Config) -> Any:
    """Timm's own model with this one's weights, in host memory."""
    return filled(encoder_weights(model), folder_config(config))


@torch.random.fork_rng(devices=[])
def filled(weights: Mapping[str, Tensor], about: dict[str, Any]) -> Any:
    """Timm's own model of a config.json, with weights by its names."""
    made = timm.create_model(
        about["architecture"],
        pretrained_cfg_overlay=_NOT_THEIRS | about["pretrained_cfg"],
        **about["model_args"],
    )
    made.load_state_dict(weights)
    return made


def write_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    about: dict[str, Any],
    check: Callable[[Any, str], str],
    note: str,
    code: str,
) -> list[Exported]:
    """Write what timm loads, config.json and model.safetensors, and load it.  Raises UserError.

    check: compares the model that it loaded, and is told whose it is; code: Python that uses PHOTO.
    """
    write_weights(folder / "model.safetensors", weights)
    write_json(folder / "config.json", about)
    checked = check(load_folder(folder), f"timm {timm.__version__}")
    return [Exported(path=folder, load=CREATE, checked=checked, note=note, code=_CODE + code)]


@torch.random.fork_rng(devices=[])
def load_folder(folder: Path) -> Any:
    """Timm's own model of an export's folder, every name matched.  Raises UserError."""
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError, KeyError, OSError, AttributeError) as error:
        raise UserError(
            f"{folder}: timm {timm.__version__} does not take it: {one_line(error, 300)}"
        ) from error
