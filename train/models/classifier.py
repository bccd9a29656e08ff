"""A pre-trained encoder with a head that tells classes apart: whole images, no masks, all layers trained.

As published for fine-tuning: mean of the patch tokens, a new LayerNorm, a linear layer.  The pre-trained
final norm is dropped; Swin keeps it, before the mean, and has no new one.

Shapes: B batch, C colours, H W pixels, N patches, P values of a patch, T tokens, D width, K classes.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from turbomim.train.models.drop_path import add_drop_path, draw_paths, forget_paths
from turbomim.train.models.initial import ZEROS, initialise, normal
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.models.simmim_swin import SimMIMSwin
from turbomim.train.models.vit import use_kernels
from turbomim.train.settings.config import Config
from turbomim.train.settings.finetune import FinetuneConfig


def patches_of(images_BCHW: Tensor, patch: int) -> Tensor:
    """Every patch of images, row by row, (B, N, P), its values in order of row, column and channel."""
    batch, _, height, width = images_BCHW.shape
    split = images_BCHW.reshape(batch, -1, height // patch, patch, width // patch, patch)
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class Classifier(nn.Module):
    """Normalised images and targets in, loss out.  The given encoder is changed: do not use it afterwards."""

    @torch.random.fork_rng(devices=[])
    def __init__(self, encoder: MAE, config: FinetuneConfig) -> None:
        super().__init__()
        settings = config.finetune
        self.encoder, self.seed = encoder, config.run.seed
        drop_decoder(encoder)
        is_swin = isinstance(encoder, SimMIMSwin)
        if isinstance(encoder, SimMIM) and not is_swin:
            encoder.unshare_positions()
        for name, param in encoder.named_parameters():
            # positions fixed in pre-training are trained too; whole images do not use SimMIM's mask token
            param.requires_grad_(name != "mask_token")
        norm = encoder.norm
        assert isinstance(norm, nn.LayerNorm)
        width = norm.normalized_shape[0]
        self.fc_norm: nn.Module = nn.Identity()
        if not is_swin:
            self.fc_norm = nn.LayerNorm(width, eps=norm.eps)
            encoder.norm = nn.Identity()  # type: ignore[assignment]
        self.head = nn.Linear(width, settings.classes)
        blocks = [module for module in encoder.modules() if hasattr(module, "drop_path1")]
        self.drop_paths = add_drop_path(blocks, settings.drop_path)
        # all linear layers, timm's too: faster products, the same weights
        use_kernels(self)
        # the head's values are cut beyond this: one deviation for SimMIM's ViT; for others 2.0, never reached
        cut = settings.head_std if config.model.method == "simmim" else 2.0
        head_draws = {"head.weight": normal(settings.head_std, cut), "head.bias": ZEROS}
        initialise(self, head_draws, config.run.seed)

    @property
    def prefix(self) -> int:
        """Class tokens before the patch tokens; the head reads none."""
        return self.encoder.prefix

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) of whole images (B, H, W, 3) uint8, before the head's norm."""
        return self.encoder.features(images_BHWC)

    def pooled(self, tokens_BTD: Tensor) -> Tensor:
        """What the linear layer reads (B, D): the mean of the patch tokens, normalised by the head's norm."""
        mean_BD: Tensor = self.fc_norm(tokens_BTD[:, self.prefix :].mean(1))
        return mean_BD

    def encoder_blocks(self) -> list[nn.Module]:
        """The encoder's blocks, in order."""
        return self.encoder.encoder_blocks()

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Scores (B, K) of the classes, of normalised images."""
        patches_BNP = patches_of(images_BCHW, self.encoder.patch)
        every_BN = torch.arange(patches_BNP.shape[1], device=images_BCHW.device).repeat(len(images_BCHW), 1)
        tokens_BTD = self.encoder.encode_whole(patches_BNP, every_BN)
        scores_BK: Tensor = self.head(self.pooled(tokens_BTD))
        return scores_BK

    def forward(self, images_BCHW: Tensor, targets_BK: Tensor, epochs_B: Tensor, ids_B: Tensor) -> Tensor:
        """Mean cross-entropy with soft targets, () float32.

        In training drop path leaves out branches, drawn for each sample; `logits` alone leaves out none.
        """
        if self.training:
            draw_paths(self.drop_paths, self.seed, epochs_B, ids_B)
        scores_BK = self.logits(images_BCHW)
        forget_paths(self.drop_paths)
        return functional.cross_entropy(scores_BK.float(), targets_BK)


def drop_decoder(encoder: MAE) -> None:
    """Remove what only pre-training needs, except SimMIM's mask token, which its encoder still reads."""
    own = [name for name, _ in (*encoder.named_children(), *encoder.named_parameters(recurse=False))]
    for name in own:
        kept = name == "mask_token" and isinstance(encoder, SimMIM)
        if not kept and f"{name}.".startswith(encoder.decoder_names):
            delattr(encoder, name)


# what features are read from: a pre-trained encoder, or one that was fine-tuned
Encoder = MAE | Classifier
AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


def fresh(model: AnyEncoder, config: Config) -> AnyEncoder:
    """A model of the same kind with initial weights, those of the settings' seed."""
    made: Any = make_model(config)
    if isinstance(model, Classifier):
        assert isinstance(config, FinetuneConfig), "a classifier has settings of its own"
        made = Classifier(made, config)
    alike: AnyEncoder = made
    return alike
