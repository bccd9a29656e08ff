"""A folder for transformers' `from_pretrained`: the encoder as ViTModel; an MAE beside it, in mae/.

The files are written here; transformers is needed to check them, and to load them.  Its attention has a
matrix each for queries, keys and values.  The MAE is exact for any mask, which `noise` gives.

Shapes: B images, N patches, K kept, M masked, H W pixels, C channels, P values of a patch.
"""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from turbomim.pipeline.system.durable import json_bytes
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.train.encoder.crop import crop_share, own_crop
from turbomim.train.encoder.features import normalised
from turbomim.train.export.check import IMAGES, random_images, same, same_features
from turbomim.train.export.weights import Exported, encoder_weights, whole_model, write_weights
from turbomim.train.foreign.hf import to_vit, to_vit_mae
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

# before the lines that use OUTPUT, of what MODEL stands for
_CODE: Final = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, MODEL

model = MODEL.from_pretrained("PATH").eval()
processor = AutoImageProcessor.from_pretrained("PATH")
with torch.no_grad():
    """
# the folder below an export of an MAE that has the decoder, too
WHOLE: Final = "mae"
OUTPUT: Final = 'model(**processor(Image.open("photo.jpg"), return_tensors="pt"))'
CROP: Final = (
    "The processor takes the crop of evaluation. Where a resized side is 3, 7, 11, … pixels longer than the "
    "crop, transformers rounds the half of that down and turbomim up: its crop is one pixel off turbomim's."
)
_NOT_CHECKED: Final = (
    "transformers is not installed, so nothing was checked: pip install 'turbomim[hf]', and export again"
)
# PIL's numbers of the ways to resize
PIL_NUMBERS: Final = {"bilinear": 2, "bicubic": 3}


def write_hf(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write the encoder and, for an MAE, mae/ below, and compare outputs where transformers is installed.

    Raises UserError if transformers misses a tensor, has one left over, or gives other outputs.
    """
    width = config.model.width
    # ViTModel has a pooler; without these it draws a random one, and warns
    pooler = {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    write_folder(folder, to_vit(encoder_weights(model)) | pooler, vit_config(config), config)
    exported = [
        exported_as(
            "AutoModel",
            folder,
            partial(_check_encoder, folder, model, config),
            "`last_hidden_state` are the tokens after the final norm, the class token first. "
            f"`pooler_output` learned nothing: it is the tanh of the class token. {CROP}",
            f"tokens = {OUTPUT}.last_hidden_state\nfeature = tokens[:, 1:].mean(1)",
        )
    ]
    if config.model.method == "mae":
        mae = folder / WHOLE
        write_folder(mae, to_vit_mae(whole_model(model)), vit_mae_config(config), config)
        exported.append(
            exported_as(
                "ViTMAEForPreTraining",
                mae,
                partial(_check_mae, model, config),
                _note_of_mae(config),
                f"found = {OUTPUT}\npatches, masked = found.logits, found.mask",
            )
        )
    return exported


def exported_as(name: str, folder: Path, check: Callable[[Any, str], str], note: str, code: str) -> Exported:
    """What transformers loads from a folder as its class of a name; checked where it is installed.

    check: compares the model that it loaded, and is told whose it is; code: Python that uses OUTPUT.
    """
    checked = _NOT_CHECKED
    if importlib.util.find_spec("transformers"):
        import transformers

        theirs = _load(getattr(transformers, name), folder)
        checked = check(theirs, f"transformers {transformers.__version__}")
    return Exported(
        path=folder,
        load=f'transformers.{name}.from_pretrained("PATH")',
        checked=checked,
        note=note,
        code=_CODE.replace("MODEL", name) + code,
    )


def vit_config(config: Config) -> dict[str, Any]:
    """The config.json of the encoder."""
    model = config.model
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "image_size": config.data.size,
        "patch_size": model.patch,
        "num_channels": 3,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": 4 * model.width,
        "hidden_act": "gelu",
        "qkv_bias": True,
        # transformers' own is 1e-12
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }


def vit_mae_config(config: Config) -> dict[str, Any]:
    """The config.json of the whole MAE."""
    model = config.model
    return vit_config(config) | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": model.decoder_width,
        "decoder_num_hidden_layers": model.decoder_depth,
        "decoder_num_attention_heads": model.decoder_heads,
        "decoder_intermediate_size": 4 * model.decoder_width,
        "mask_ratio": model.mask_ratio,
        "norm_pix_loss": model.norm_pix,
    }


def processor_config(config: Config) -> dict[str, Any]:
    """The preprocessor_config.json: the encoder's own crop, short side resized and the centre taken.

    transformers has it under the name of its first model that took such a crop.
    """
    crop = own_crop(config)
    size = crop.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(size / crop.share)},
        "resample": PIL_NUMBERS[crop.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any], config: Config
) -> None:
    """Write what `from_pretrained` reads: weights, config.json and preprocessor_config.json."""
    folder.mkdir(exist_ok=True)
    write_weights(folder / "model.safetensors", weights)
    for name, content in (("config.json", about), ("preprocessor_config.json", processor_config(config))):
        (folder / name).write_bytes(json_bytes(content, indent=2))


def _note_of_mae(config: Config) -> str:
    """What is different when transformers trains it."""
    model = config.model
    parts = ["The decoder is there, too: `model(**inputs).logits` are the predicted patches."]
    if model.target != "raw":
        parts.append(f"Its loss is of pixels as they are; this run's target was {model.target}.")
    if model.mask_unit > 1 or model.mask != "random":
        parts.append("It draws masks patch by patch; this run masked larger units: give `noise` for those.")
    return " ".join(parts)


def _check_encoder(folder: Path, model: MAE, config: Config, theirs: Any, program: str) -> str:
    import transformers

    processors: Any = transformers.AutoImageProcessor
    processor = processors.from_pretrained(folder)

    def features(images_BHWC: Tensor) -> Tensor:
        # of the size that it resizes to, so that nothing is resized, and nothing but the centre is left
        inputs = processor(images=list(_framed(images_BHWC, config).numpy()), return_tensors="pt")
        tokens_BTD: Tensor = theirs(**inputs).last_hidden_state
        return tokens_BTD

    return same_features(model, config, features, program)


def _framed(images_BHWC: Tensor, config: Config) -> Tensor:
    """Images in a frame that the crop of evaluation takes away, so that they come out whole."""
    size = config.data.size
    frame = int(size / crop_share(size)) - size
    before = frame // 2
    return pad(images_BHWC, (0, 0, before, frame - before, before, frame - before))


@torch.no_grad()
def _check_mae(model: MAE, config: Config, theirs: Any, program: str) -> str:
    """Compare predictions of masked patches under masks that any run of this size may draw."""
    images_BHWC = random_images(config)
    order_BN = torch.rand(IMAGES, config.patches, generator=torch.Generator().manual_seed(1)).argsort(1)
    # it keeps int(N * (1 - ratio)) patches, whatever a mask unit is here
    keep = int(config.patches * (1 - config.model.mask_ratio))
    ids_keep_BK, ids_mask_BM = order_BN[:, :keep].contiguous(), order_BN[:, keep:].contiguous()
    visible_BKP, _ = model.patchify(images_BHWC, ids_keep_BK, ids_mask_BM)
    ours_BMP = model.forward_decoder(
        model.forward_encoder(visible_BKP, ids_keep_BK), ids_keep_BK, ids_mask_BM
    )
    # it sorts the noise: a patch's noise is its place in the order
    noise_BN = order_BN.argsort(1).float()
    logits_BNP = theirs(normalised(images_BHWC), noise=noise_BN).logits
    theirs_BMP = logits_BNP.gather(1, ids_mask_BM[..., None].expand(-1, -1, logits_BNP.shape[2]))
    return same(ours_BMP, theirs_BMP, f"{program}: predicted patches of {IMAGES} random images")


def _load(kind: Any, folder: Path) -> Any:
    """Load a model from a folder.  Raises UserError if a tensor is missing or left over."""
    import transformers
    from transformers import utils

    # not every version has its annotations
    logging: Any = utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder}: transformers {transformers.__version__} does not take it: {one_line(error, 300)}"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    wrong = {what: sorted(map(str, names)) for what, names in found.items() if names}
    if wrong:
        raise UserError(f"{folder}: transformers {transformers.__version__} does not take all of it: {wrong}")
    return model.eval()
