"""A fine-tuning with its head and the names of its classes, as timm and transformers load it.

Logits are read back and compared before it counts.  timm's own classes have this head: the mean of the patch
tokens, a norm, a linear layer (a Swin's: its final norm, the mean, the layer).  transformers has it in BEiT
alone, which is a plain ViT where it has positions and no layer scale.

Shapes: B images, K classes.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import normalised
from turbomim.train.export import hf
from turbomim.train.export.check import IMAGES, random_images, same
from turbomim.train.export.timm import PHOTO, TIMM_NAMES, filled, folder_config, write_folder
from turbomim.train.export.weights import Exported, whole_model
from turbomim.train.foreign.beit import to_beit
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.simmim_swin import SimMIMSwin
from turbomim.train.settings.finetune import FinetuneConfig

_IN_TIMM: Final = f"""\
probabilities = model({PHOTO}).softmax(1)[0]
print(model.pretrained_cfg["label_names"][int(probabilities.argmax())], float(probabilities.max()))"""
_IN_HF: Final = f"""\
logits = {hf.OUTPUT}.logits
print(model.config.id2label[int(logits.argmax())], float(logits.softmax(1).max()))"""

# a classifier, its settings, its classes' names and a folder
WriteTuned = Callable[[Classifier, FinetuneConfig, tuple[str, ...], Path], list[Exported]]


def classifier_weights(model: Classifier) -> dict[str, Tensor]:
    """Every tensor that tells classes, in host memory, the encoder's without `encoder.`."""
    whole = {name.removeprefix("encoder."): tensor for name, tensor in whole_model(model).items()}
    whole.pop("mask_token", None)
    return whole


def timm_config(config: FinetuneConfig, classes: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of a folder that timm loads with its head."""
    about = folder_config(config)
    arguments = {**about["model_args"], "num_classes": len(classes)}
    method = config.model.method
    if not method.startswith("simmim-swin"):
        arguments["global_pool"] = "avg"
    if method == "simmim":
        arguments |= {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": False}
    images = {
        **about["pretrained_cfg"],
        "num_classes": len(classes),
        "label_names": list(classes),
        "crop_pct": config.finetune.test_crop,
        "interpolation": config.data.interpolation,
    }
    return {**about, "num_classes": len(classes), "pretrained_cfg": images, "model_args": arguments}


def timm_weights(model: Classifier) -> dict[str, Tensor]:
    """A classifier's tensors by timm's names."""
    head = "head.fc." if isinstance(model.encoder, SimMIMSwin) else "head."
    named = {re.sub(r"^head\.", head, name): tensor for name, tensor in classifier_weights(model).items()}
    # each block's own, as fine-tuning has them
    return {re.sub(r"^rel_pos_bias\.(\d+)\.", r"blocks.\1.attn.", name): t for name, t in named.items()}


def timm_model(model: Classifier, config: FinetuneConfig, classes: tuple[str, ...]) -> Any:
    """Timm's own model with this one's weights and head, in host memory."""
    return filled(timm_weights(model), timm_config(config, classes))


def write_timm(
    model: Classifier, config: FinetuneConfig, classes: tuple[str, ...], folder: Path
) -> list[Exported]:
    """Write config.json and model.safetensors, load them with timm, every name matched, compare logits."""
    return write_folder(
        folder,
        timm_weights(model),
        timm_config(config, classes),
        partial(same_logits, model, config),
        f"`model(images)` gives the logits of {len(classes):,} classes, whose names are in "
        "`model.pretrained_cfg['label_names']`; `model.forward_features(images)` the tokens.",
        _IN_TIMM,
    )


def hf_config(config: FinetuneConfig, classes: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of transformers' BEiT with this head."""
    simmim = config.model.method == "simmim"
    about = hf.vit_config(config)
    del about["qkv_bias"]
    return about | {
        "architectures": ["BeitForImageClassification"],
        "model_type": "beit",
        "use_mean_pooling": True,
        "use_mask_token": False,
        "use_absolute_position_embeddings": not simmim,
        "use_relative_position_bias": simmim,
        "use_shared_relative_position_bias": False,
        # 0.0: there is none
        "layer_scale_init_value": 0.1 if simmim else 0.0,
        "drop_path_rate": 0.0,
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def write_hf(
    model: Classifier, config: FinetuneConfig, classes: tuple[str, ...], folder: Path
) -> list[Exported]:
    """Write a folder for transformers, and compare logits where it is installed."""
    hf.write_folder(folder, to_beit(classifier_weights(model)), hf_config(config, classes), config)
    return [
        hf.exported_as(
            "AutoModelForImageClassification",
            folder,
            lambda theirs, program: same_logits(model, config, lambda pixels: theirs(pixels).logits, program),
            "It is a BeitForImageClassification: the ViT of transformers has its head on the class "
            "token, this one reads the mean of the patch tokens. `model.config.id2label` has the names. "
            f"{hf.CROP}",
            _IN_HF,
        )
    ]


@torch.no_grad()
def same_logits(
    model: Classifier, config: FinetuneConfig, theirs: Callable[[Tensor], Tensor], program: str
) -> str:
    """Compare a program's logits (B, K) of random images with these; say how far they are apart.

    theirs: of pixels (B, C, H, W), normalised.  Raises UserError if it is more than rounding.
    """
    pixels_BCHW = normalised(random_images(config))
    return same(
        model.logits(pixels_BCHW), theirs(pixels_BCHW), f"{program}: logits of {IMAGES} random images"
    )


# by program: the methods whose head it has, and what writes it
TUNED: Final[dict[str, tuple[tuple[str, ...], WriteTuned]]] = {
    "timm": (tuple(TIMM_NAMES), write_timm),
    "hf": (("mae", "mff", "simmim"), write_hf),
}


def tuned_writer(config: FinetuneConfig, to: str) -> WriteTuned:
    """What writes a fine-tuning for a program.  Raises UserError, naming what can, where nothing does."""
    method = config.model.method
    fitting = [name for name, (methods, _) in TUNED.items() if method in methods]
    if to not in TUNED:
        instead = f"give --to {'|'.join(fitting)} for it with its head, or" if fitting else "give"
        raise UserError(f"--to {to} is for pre-trainings: {instead} the run that this fine-tuning began from")
    if to not in fitting:
        instead = (
            f"give --to {'|'.join(fitting)}" if fitting else "turbomim predict and embed take it as it is"
        )
        raise UserError(f"{to} has no model of method {method} with a head: {instead}")
    return TUNED[to][1]
