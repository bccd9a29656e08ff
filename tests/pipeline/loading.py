"""A Loader of flat settings, which is how tests change one at a time."""

from dataclasses import fields
from typing import Any

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.tars.split import Split

# flat names that the groups do not have
NAMES = {"crop": "kind", "max_bad_share": "max_share", "max_bad_row": "max_row"}


def make_loader(split: Split, **settings: Any) -> Loader:
    """Give each setting to the group that has it, and what belongs to none to the Loader itself."""
    left = {NAMES.get(name, name): value for name, value in settings.items()}

    def of(group: Any) -> dict[str, Any]:
        return {field.name: left.pop(field.name) for field in fields(group) if field.name in left}

    crop, cut, speed = Crop(**of(Crop)), BatchCut(**of(BatchCut)), LoaderSpeed(**of(LoaderSpeed))
    stream, limits = SampleStream(**of(SampleStream), cut=cut), BadSampleLimits(**of(BadSampleLimits))
    return Loader(split, crop, stream, speed, limits, **left)
