"""Settings that a user gives, and what follows from them: the sizes of model.encoder = NAME, a timm ViT."""

from typing import Any

from turbomim.train.settings.config import AnyConfig
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.schedule import with_shares


def lay_over(base: AnyConfig, values: object, where: str) -> AnyConfig:
    """`base` with the settings {section: {key: value}} of a user laid over it, `where` names who gave them.

    model.encoder brings the sizes of that timm encoder, over which sizes in the settings win:
    {"model": {"encoder": "vit_tiny_patch16_224", "depth": 6}} gives width 192, 3 heads and depth 6.
    Fewer epochs shorten warm-up, drop and decay, where these are not named, as `with_shares` says.
    Raises UsageError: an unknown key, a value that cannot be, an encoder that timm has not or that is no
    plain ViT.
    """
    values = _with_encoder(values)
    if isinstance(values, dict) and isinstance(optim := values.get("optim"), dict):
        values = {**values, "optim": with_shares(optim, base.optim)}
    return from_dict(values, base, where)


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
