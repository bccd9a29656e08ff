"""`turbomim pretrain … --preset GPU`: the micro-batch of well-known models on well-known GPUs.

Every entry is expected, none is measured: the largest power of two, at most 512, whose predicted memory
(predicted_memory.py) fills at most 80 % of the GPU; the rest is for the buffers of the loader, DALI and the
libraries.
`turbomim tune step` measures what is fastest on the machine at hand.
"""

from dataclasses import dataclass, replace

from turbomim.pipeline.system.errors import UsageError, unknown_name
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.plan import largest_divisor

# what the predicted memory may fill of a GPU, and the largest micro-batch
SHARE, MOST = 0.8, 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU: its name in BF16_FLOPS, its memory in GiB, and the micro-batch of each model of MODELS."""

    name: str
    memory_gib: float
    micro_batches: dict[str, int]


# encoders with MAE's decoder of 8 blocks of 512, three quarters masked
MODELS = {
    "ViT-B/16": ModelConfig(),
    "ViT-L/16": ModelConfig(width=1024, depth=24, heads=16),
    "ViT-H/14": ModelConfig(width=1280, depth=32, heads=16, patch=14),
}
SIZE = 224
# settings of a model that change nothing of its memory, or make it a little smaller: its name, what it
# predicts, and where the removed patches lie
OF_NO_WEIGHT = ("encoder", "target", "radius", "norm_pix", "mask", "mask_unit")

PRESETS = {
    "a100-40g": Gpu(
        name="NVIDIA A100",
        memory_gib=39.4,
        micro_batches={"ViT-B/16": 512, "ViT-L/16": 256, "ViT-H/14": 128},
    ),
    "a100-80g": Gpu(
        name="NVIDIA A100",
        memory_gib=79.1,
        micro_batches={"ViT-B/16": 512, "ViT-L/16": 512, "ViT-H/14": 256},
    ),
    "h100": Gpu(
        name="NVIDIA H100 80GB HBM3",
        memory_gib=79.1,
        micro_batches={"ViT-B/16": 512, "ViT-L/16": 512, "ViT-H/14": 256},
    ),
    "h200": Gpu(
        name="NVIDIA H200",
        memory_gib=139.8,
        micro_batches={"ViT-B/16": 512, "ViT-L/16": 512, "ViT-H/14": 512},
    ),
}


def find_gpu(name: str) -> Gpu:
    """The GPU of a preset.  Raises UsageError with the nearest names for an unknown one."""
    if name not in PRESETS:
        near = [gpu for gpu in PRESETS if gpu.startswith(name)]
        # another GPU, however alike its name, is not the one that was meant
        if not near:
            raise UsageError(f"unknown preset {name!r}: known: {', '.join(PRESETS)}")
        raise unknown_name("unknown preset", name, PRESETS, near)
    return PRESETS[name]


def apply_preset(config: AnyConfig, name: str, ranks: int) -> AnyConfig:
    """The configuration with the preset's micro-batch, cut to divide a rank's samples.

    Global batch and learning rate stay; none of these models needs recomputation, which stays as it is.
    Raises UsageError as `preset_batch`.
    """
    micro_batch = largest_divisor(config.optim.global_batch // ranks, preset_batch(config, name))
    return replace(config, optim=replace(config.optim, micro_batch=micro_batch))


def preset_batch(config: Config, name: str) -> int:
    """The micro-batch of the preset for this model.

    Raises UsageError for an unknown preset or model, or where optim.micro_batch is set too.
    """
    gpu = find_gpu(name)
    if config.optim.micro_batch:
        raise UsageError(
            f"--preset {name} chooses optim.micro_batch, which is set to {config.optim.micro_batch}: "
            "give one of them"
        )
    known = model_name(config)
    if known is None:
        raise UsageError(
            f"--preset {name} knows {', '.join(MODELS)} at {SIZE} pixels with MAE's decoder and mask, not "
            "this one: `turbomim tune step` measures it, or give --optim.micro-batch"
        )
    return gpu.micro_batches[known]


def model_name(config: Config) -> str | None:
    """Which of MODELS this is, whatever it is called and predicts; None if it is another."""
    if config.data.size != SIZE:
        return None
    plain = ModelConfig()
    shape = replace(config.model, **{name: getattr(plain, name) for name in OF_NO_WEIGHT})
    return next((name for name, known in MODELS.items() if known == shape), None)
