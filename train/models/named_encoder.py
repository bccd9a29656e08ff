"""model.encoder = NAME, a timm encoder by its name, in settings that a user gives."""

from __future__ import annotations

from typing import Any


def with_encoder(values: object) -> Any:
    """Settings {section: {key: value}} with the sizes of the timm encoder that `model` names, if any.

    Sizes in the settings win.  What is no such settings is given back as it is.  Raises UsageError for a name
    that timm has not, or that is no plain ViT.
    """
    section = values.get("model") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(section, dict):
        return values
    encoder = section.get("encoder")
    if not isinstance(encoder, str) or not encoder or {"patch", "width", "depth", "heads"} <= section.keys():
        return values
    # timm takes seconds to import, and few settings need it
    from turbomim.train.models.timm_sizes import encoder_sizes

    return {**values, "model": {**encoder_sizes(encoder), **section}}
