"""The linear probe that papers report: what it reads of an encoder, its head, its training and its score.

The head is batch norm without affine and a linear layer, trained by LARS.  LARS scales a matrix's gradient by
0.001 x |weight| / |gradient|, then comes momentum, then the rate; vectors are left as they are.  Source:
arXiv:1708.03888 as MAE's probe has it; timm's Lars does the same, with 1e-8 beside the gradient's norm.
Shapes: B samples of a step, N samples, D width, K classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional

from turbomim.pipeline.loader import Loader
from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import INTERPOLATION
from turbomim.train.encoder.features import CLASS_TOKEN, MEAN, encode
from turbomim.train.evaluate.accuracy import count_hits, top_shares
from turbomim.train.loop.data import check_store, open_loader
from turbomim.train.machine.tuned_loader import default_speed
from turbomim.train.models.classifier import Classifier, Encoder
from turbomim.train.models.initial import ZEROS, initialise, normal
from turbomim.train.settings.config import Config
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.plan import largest_divisor
from turbomim.train.settings.schedule import lr_of_step, total_steps

# samples scored at once
CHUNK = 4096
# of LARS
MOMENTUM, TRUST = 0.9, 0.001

# (features (B, D) float32, labels (B,) int64), one item a step
Batches = Iterator[tuple[Tensor, Tensor]]

# blocks of SimMIM's ViT before the features that its published probe reads
SIMMIM_BLOCKS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTraining:
    """How the published head is trained: epochs, rates and samples of a step are in `optim`.

    samples: train samples, those of an epoch; seed: of weights, order and crops.
    """

    optim: OptimConfig
    samples: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return total_steps(self.optim.epochs, self.samples, self.optim.global_batch)


def published_optim(*, epochs: float, warmup_epochs: float, base_lr: float, batch: int) -> OptimConfig:
    """The published schedule: linear warm-up from 0, cosine to 0, the rate for 256 samples, no decay."""
    return OptimConfig(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        base_lr=base_lr,
        lr_batch=256,
        global_batch=batch,
        weight_decay=0.0,
    )


def fitting_batch(samples: int) -> int:
    """A power of two that makes eight steps or more of an epoch, where there are samples for them."""
    return int(2 ** max(1, (samples // 8).bit_length() - 1))


def published_encoder(model: Encoder, config: Config) -> tuple[Encoder, str]:
    """The encoder as its method's published probe reads it, and which of its features.

    The class token after the final norm; without one the mean of the patch tokens; for SimMIM's ViT that mean
    after the 8th block, before any norm.  Of a fine-tuning what its head reads.  Changes the model.
    """
    if isinstance(model, Classifier):
        return model, MEAN
    if config.model.method == "simmim":
        model.blocks = model.blocks[:SIMMIM_BLOCKS]
        model.norm = nn.Identity()  # type: ignore[assignment]
        return model, MEAN
    return model, CLASS_TOKEN if model.prefix else MEAN


def model_width(model: Encoder) -> int:
    """Values of a feature."""
    if isinstance(model, Classifier):
        return model.head.in_features
    norm = model.norm
    return norm.normalized_shape[0] if isinstance(norm, nn.LayerNorm) else int(model.cls_token.shape[-1])


def random_crops(
    config: Config, split: Split, training: HeadTraining, most: int, device: torch.device
) -> Loader:
    """Random resized crops (0.08 to 1) and flips of a split, micro-batches that divide a step's samples."""
    data = replace(config.data, crop="rrc", rrc_scale=0.08, interpolation=INTERPOLATION)
    check_store(data, split, "--train", device.type)
    run = replace(config.run, seed=training.seed)
    return open_loader(
        replace(config, data=data, run=run),
        split,
        BatchCut(
            global_batch=training.optim.global_batch,
            micro_batch=largest_divisor(training.optim.global_batch, most),
        ),
        default_speed(),
        device=device.type,
        notify=print,
    )


def encoded_batches(loader: Loader, model: Encoder, kind: str, batch: int) -> Batches:
    """A step's samples at a time, encoded as they come."""
    while True:
        parts: list[tuple[Tensor, Tensor]] = []
        while sum(len(labels_B) for _, labels_B in parts) < batch:
            item = next(loader)
            if bool((item.labels_B < 0).any()):
                raise UserError(
                    f"a sample from position {item.position} on has no label: make the split anew"
                )
            parts.append((encode(model, item.images_BHWC)[kind], item.labels_B))
        features_BD, labels_B = (torch.cat(some) for some in zip(*parts, strict=True))
        yield features_BD, labels_B


def make_head(width: int, classes: int, seed: int) -> nn.Sequential:
    """Batch norm (eps 1e-6) and a linear layer, weights normal with deviation 0.01."""
    linear = nn.Linear(width, classes)
    initialise(linear, {"weight": normal(0.01), "bias": ZEROS}, seed)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)


def make_lars(head: nn.Module) -> torch.optim.Optimizer:
    """LARS over a head's parameters, without weight decay."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "always_adapt": True}, {"params": vectors, "always_adapt": False}]
    # not every timm has its annotations
    make: Callable[..., torch.optim.Optimizer] = Lars
    return make(groups, momentum=MOMENTUM, weight_decay=0.0, trust_coeff=TRUST)


def train_head(
    head: nn.Module,
    batches: Batches,
    training: HeadTraining,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Take the training's steps of LARS on mean cross-entropy; progress: hears samples done, and all."""
    progress(0, training.steps * training.optim.global_batch)
    optimizer = make_lars(head)
    head.train()
    for step in range(training.steps):
        features_BD, labels_B = next(batches)
        loss = functional.cross_entropy(head(features_BD), labels_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = lr_of_step(step, training.samples, training.optim)
        optimizer.step()
        progress((step + 1) * training.optim.global_batch, training.steps * training.optim.global_batch)
    head.eval()


def batches_of(
    features_ND: Tensor, labels_N: Tensor, training: HeadTraining, device: torch.device
) -> Batches:
    """Batches of features in memory, each epoch in an order of its own, epochs behind one another."""
    start, batch = 0, training.optim.global_batch
    while True:
        _, ids = sample_ids(np.arange(start, start + batch), len(labels_N), training.seed)
        chosen = torch.from_numpy(ids)
        yield features_ND[chosen].to(device), labels_N[chosen].to(device)
        start += batch


@torch.no_grad()
def head_scores(
    head: nn.Module, features_ND: Tensor, labels_N: Tensor, device: torch.device
) -> dict[str, float]:
    """Shares of samples, as `top_shares` has them, by a head's scores."""
    first = five = classes = 0
    for start in range(0, len(labels_N), CHUNK):
        logits_BK = head(features_ND[start : start + CHUNK].to(device))
        classes = logits_BK.shape[1]
        hits = count_hits(logits_BK, labels_N[start : start + CHUNK].to(device))
        first, five = first + int(hits[0]), five + int(hits[1])
    return top_shares(first, five, len(labels_N), classes)
