"""Settings of a fine-tuning: a run's, and a section `finetune`; the published ones by method and size."""

from dataclasses import dataclass, field, replace

from turbomim.pipeline.system.errors import UsageError, need
from turbomim.train.settings.config import Config
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """What fine-tuning has and pre-training has not."""

    # rate of a layer over that of the next one
    layer_decay: float = 0.65
    # share of the residual branches of the last block that are dropped, rising from 0 in the first
    drop_path: float = 0.1
    # parameter of the beta distribution that shares of mixed images are drawn from; 0 = none are mixed
    mixup: float = 0.8
    # the same of images with a rectangle of another one; with both, each micro-batch has one or the other
    cutmix: float = 1.0
    # share of the target that goes to all classes alike
    smoothing: float = 0.1
    # timm's policy of changes to an image; empty = none
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    # share of the images of which a rectangle becomes noise
    erase: float = 0.25
    # standard deviation of the head's initial weights
    head_std: float = 2e-5
    # side of a test crop over the short side that it is cut from
    test_crop: float = 0.875
    # outputs of the head; 0 = classes of the train split
    classes: int = 0
    # SHA-256 of the pre-trained weights' file, or which initial ones: others are another run
    weights: str = ""

    def __post_init__(self) -> None:
        need(0 < self.layer_decay <= 1, "finetune.layer_decay", self.layer_decay, "above 0 and at most 1")
        need(0 <= self.drop_path < 1, "finetune.drop_path", self.drop_path, "0 to below 1")
        need(self.mixup >= 0, "finetune.mixup", self.mixup, "0 (off) or more")
        need(self.cutmix >= 0, "finetune.cutmix", self.cutmix, "0 (off) or more")
        need(0 <= self.smoothing < 1, "finetune.smoothing", self.smoothing, "0 to below 1")
        legal = "empty (off) or a policy of timm's like rand-m9-mstd0.5-inc1"
        ok = not self.rand_augment or self.rand_augment.startswith("rand-m")
        need(ok, "finetune.rand_augment", repr(self.rand_augment), legal)
        need(0 <= self.erase <= 1, "finetune.erase", self.erase, "0 to 1")
        need(self.head_std > 0, "finetune.head_std", self.head_std, "above 0")
        need(0 < self.test_crop <= 1, "finetune.test_crop", self.test_crop, "above 0 and at most 1")
        need(self.classes >= 0, "finetune.classes", self.classes, "0 (those of the train split) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(Config):
    """Everything that decides a fine-tuning; data.path are the train shards, data.heldout the test shards."""

    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)

    def __post_init__(self) -> None:
        # a class with slots has no super() of its own
        Config.__post_init__(self)
        step, run = self.step, self.run
        need(not step.shard, "step.shard", "true", "false: fine-tuning keeps all weights on every rank")
        need(run.picture_every == 0, "run.picture_every", run.picture_every, "0: nothing is reconstructed")
        every = self.eval.every_epochs
        sizes = self.data.sizes
        need(not sizes, "data.sizes", repr(sizes), "empty: a fine-tuning has images of data.size alone")
        need(every == 0, "eval.every_epochs", every, "0: a fine-tuning is tested, every run.eval_every steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published fine-tuning: its optimizer and schedule, and what it has of `FinetuneSettings`."""

    optim: OptimConfig
    finetune: FinetuneSettings


# FINETUNE.md of facebookresearch/mae; weight decay is 0.05 in all of them
MAE_B = Published(
    optim=OptimConfig(
        epochs=100,
        warmup_epochs=5,
        base_lr=5e-4,
        global_batch=1024,
        min_lr=1e-6,
        beta2=0.999,
        decay_tokens=False,
    ),
    finetune=FinetuneSettings(layer_decay=0.65, drop_path=0.1, head_std=2e-5),
)
MAE_L = Published(
    optim=replace(MAE_B.optim, epochs=50, base_lr=1e-3),
    finetune=replace(MAE_B.finetune, layer_decay=0.75, drop_path=0.2),
)
MAE_H = replace(MAE_L, finetune=replace(MAE_L.finetune, drop_path=0.3))
# mmselfsup's vit-base-p16_ft-8xb128-coslr-100e_in1k, of PixMIM and MFF: 2e-3 at 1024, warm-up from 1e-4 of it
PIXMIM = replace(MAE_B, optim=replace(MAE_B.optim, warmup_start=1e-4, warmup="mmengine"))
# Alpha-VL/ConvMAE's FINETUNE.md
CONVMAE = MAE_B
# microsoft/SimMIM's configs and config.py: all rates for 512 samples, warm-up and end at 2.5e-7 of them
SIMMIM = Published(
    optim=replace(
        MAE_B.optim,
        warmup_epochs=20,
        base_lr=1.25e-3,
        lr_batch=512,
        global_batch=2048,
        warmup_start=2e-4,
        clip_grad=5.0,
    ),
    finetune=MAE_B.finetune,
)
# Swin's head is drawn as its other layers; 0.8 is that of 800 epochs of pre-training (100 epochs: 0.9)
SIMMIM_SWIN_B = replace(SIMMIM, finetune=replace(SIMMIM.finetune, layer_decay=0.8, head_std=0.02))
SIMMIM_SWIN_L = replace(
    SIMMIM_SWIN_B, finetune=replace(SIMMIM_SWIN_B.finetune, layer_decay=0.7, drop_path=0.2)
)
# microsoft/Swin-Transformer's configs/simmim
SIMMIM_SWINV2_B = replace(SIMMIM_SWIN_B, finetune=replace(SIMMIM_SWIN_B.finetune, layer_decay=0.75))


def published_finetune(model: ModelConfig) -> Published:
    """The published fine-tuning of a method; of a size that has none, that of the nearest below or ViT-B's.

    PixMIM and MFF have none above ViT-B: MAE's is taken.
    """
    if model.method == "simmim":
        return SIMMIM
    if model.method == "simmim-swinv2":
        return SIMMIM_SWINV2_B
    if model.method == "simmim-swin":
        return SIMMIM_SWIN_L if model.width >= 192 else SIMMIM_SWIN_B
    if model.method == "convmae":
        return CONVMAE
    if model.width >= 1280:
        return MAE_H
    if model.width >= 1024:
        return MAE_L
    return PIXMIM if model.method == "mff" or model.target != "raw" else MAE_B


def tuned_size(config: Config) -> int:
    """Side of the images that an encoder is fine-tuned on as published: its own, but for SimMIM's Swins.

    They are trained on 192 pixels and tuned on 224.  Source: microsoft/SimMIM and microsoft/Swin-Transformer.
    """
    model, size = config.model, config.data.size
    # windows of 6 become 7, of 12 become 14; others may not fit
    published = (model.patch, len(model.depths), model.window % 6) == (4, 4, 0)
    return 224 if model.method.startswith("simmim-swin") and size == 192 and published else size


def check_micro_batch(config: FinetuneConfig, micro_batch: int) -> None:
    """Raise UsageError if images cannot be mixed in pairs."""
    if (config.finetune.mixup or config.finetune.cutmix) and micro_batch % 2:
        raise UsageError(
            f"a micro-batch of {micro_batch} images cannot be mixed in pairs: give an even "
            "--optim.micro_batch, or --finetune.mixup 0 --finetune.cutmix 0"
        )
