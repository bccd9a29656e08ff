"""What recipes of several families share: published schedules, and sizes of encoders."""

from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

# with the decoder that PixMIM's author gave it
VIT_S16 = ModelConfig(width=384, depth=12, heads=6, decoder_width=384, decoder_depth=8, decoder_heads=12)
VIT_L16 = ModelConfig(width=1024, depth=24, heads=16)
VIT_H14 = ModelConfig(patch=14, width=1280, depth=32, heads=16)


def published_run(name: str, *, seed: int = 0) -> RunConfig:
    """How often a run on ImageNet logs and saves."""
    return RunConfig(name=name, seed=seed, log_every=20, save_every=1000)


def mae_800e(name: str, model: ModelConfig, data: DataConfig) -> Config:
    """The schedule of the MAE repository's PRETRAIN.md, the same for every size; long_seq_mae keeps it."""
    return Config(
        data=data,
        model=model,
        optim=OptimConfig(epochs=800, warmup_epochs=40),
        run=published_run(name),
    )


def pixmim(name: str, epochs: int, model: ModelConfig, *, bicubic: bool = False) -> Config:
    """The schedule of mmselfsup's PixMIM, which mmpretrain's MFF has too.

    Tokens are spared from decay; warm-up starts above zero, and its last step has the full rate.
    """
    return Config(
        data=DataConfig(crop="src", interpolation="bicubic" if bicubic else "bilinear"),
        model=model,
        optim=OptimConfig(
            epochs=epochs,
            warmup_epochs=40,
            warmup_start=1e-4 if epochs == 300 else 1e-9,
            warmup="mmengine",
            decay_tokens=False,
        ),
        run=published_run(name, seed=2),
    )
