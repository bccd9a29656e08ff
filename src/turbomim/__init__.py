"""turbomim: from JPEGs to a pre-trained vision encoder by masked image modelling.

As a library: every name in `__all__` is documented, and stays; all else may change.  Each is imported when it
is first used.

    import turbomim

    turbomim.shard("photographs", "shards/train")
    run = turbomim.pretrain("demo", data="shards/train", name="mine")

Bytes flow one way: shards -> sample stream -> batch (uint8) -> fused kernel -> model -> loss -> step
-> checkpoint.

Shape suffixes, everywhere: B batch, C channels, H W pixels, N patches (samples, in an index), K kept,
M masked (N - K), D encoder width, E decoder width, P values of a patch (p * p * 3), A heads, F hidden.
Mask polarity: 1 = removed, 0 = kept.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from turbomim.pipeline.batch import Batch
    from turbomim.pipeline.system.errors import UserError
    from turbomim.train.api.crops import centre_crops
    from turbomim.train.api.embed import Embedded, embed
    from turbomim.train.api.evaluate import evaluate
    from turbomim.train.api.export import export
    from turbomim.train.api.load import load
    from turbomim.train.api.loader import Loader
    from turbomim.train.api.patches import low_pass, masked_patches, random_masking
    from turbomim.train.api.predict import Predictions, predict
    from turbomim.train.api.pretrain import pretrain
    from turbomim.train.api.run import Run
    from turbomim.train.api.shard import shard
else:
    # a type checker knows the names above, and no others
    def __getattr__(name: str) -> Any:
        """A public name, imported now: most need torch, which takes seconds to import."""
        if name not in _MODULES:
            raise AttributeError(f"module 'turbomim' has no attribute {name!r}")
        found = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = found
        return found


__version__ = "0.1.0"

# each public name and the module that has it
_MODULES: Final = {
    "Batch": "turbomim.pipeline.batch",
    "Embedded": "turbomim.train.api.embed",
    "Loader": "turbomim.train.api.loader",
    "Predictions": "turbomim.train.api.predict",
    "Run": "turbomim.train.api.run",
    "UserError": "turbomim.pipeline.system.errors",
    "centre_crops": "turbomim.train.api.crops",
    "embed": "turbomim.train.api.embed",
    "evaluate": "turbomim.train.api.evaluate",
    "export": "turbomim.train.api.export",
    "load": "turbomim.train.api.load",
    "low_pass": "turbomim.train.api.patches",
    "masked_patches": "turbomim.train.api.patches",
    "predict": "turbomim.train.api.predict",
    "pretrain": "turbomim.train.api.pretrain",
    "random_masking": "turbomim.train.api.patches",
    "shard": "turbomim.train.api.shard",
}

__all__ = [
    "Batch",
    "Embedded",
    "Loader",
    "Predictions",
    "Run",
    "UserError",
    "__version__",
    "centre_crops",
    "embed",
    "evaluate",
    "export",
    "load",
    "low_pass",
    "masked_patches",
    "predict",
    "pretrain",
    "random_masking",
    "shard",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
