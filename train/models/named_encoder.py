"""model.encoder = NAME, a timm encoder by its name, in settings that a user gives."""

from typing import Any

from turbomim.train.settings.config import AnyConfig
from turbomim.train.settings.dictionary import from_dict


def lay_over(base: AnyConfig, values: object, where: str) -> AnyConfig:
    """`base` with the settings {section: {key: value}} of a user laid over it, `where` names who gave them.

    model.encoder brings the sizes of that timm encoder, over which sizes in the settings win:
    {"model": {"encoder": "vit_tiny_patch16_224", "depth": 6}} gives width 192, 3 heads and depth 6.
    Raises UsageError: an unknown key, a value that cannot be, an encoder that timm has not or that is no
    plain ViT.
    """
    return from_dict(_with_encoder(values), base, where)


def _with_encoder(values: object) -> Any:
    """Settings with the sizes of the encoder that `model` names, if any; what is no settings as it is."""
    section = values.get("model") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(section, dict):
        return values
    encoder = section.get("encoder")
    if not isinstance(encoder, str) or not encoder or {"patch", "width", "depth", "heads"} <= section.keys():
        return values
    # timm takes seconds to import, and few settings need it
    from turbomim.train.models.timm_sizes import encoder_sizes

    return {**values, "model": {**encoder_sizes(encoder), **section}}
