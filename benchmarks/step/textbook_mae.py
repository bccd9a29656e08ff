"""A masked autoencoder as a textbook writes it, in eager torch: what the training step is measured against.

Every patch is embedded by a convolution, shuffled, and the masked ones dropped; the decoder gets mask tokens,
un-shuffles, and predicts every patch; the loss is masked at the end.  Attention is torch's own fused one, the
best that eager torch has.  Loads the state dict of `turbomim.train.models.mae.MAE`.
Source: arXiv:2111.06377 sec. 3.

Shapes: B batch, N patches, K kept, M masked, T tokens, D width, P values of a patch, C H W of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.settings.optim import OptimConfig


class Attention(nn.Module):
    """Softmax attention of all tokens to all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Attended tokens (B, T, D)."""
        batch, tokens, width = x_BTD.shape
        qkv = self.qkv(x_BTD).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out_BTD: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out_BTD


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tokens (B, T, D)."""
        out_BTD: Tensor = self.fc2(functional.gelu(self.fc1(x_BTD)))
        return out_BTD


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tokens (B, T, D)."""
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        out_BTD: Tensor = x_BTD + self.mlp(self.norm2(x_BTD))
        return out_BTD


class PatchEmbed(nn.Module):
    """A convolution whose stride is its size."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        out_BND: Tensor = self.proj(images_BCHW).flatten(2).transpose(1, 2)
        return out_BND


class TextbookMAE(nn.Module):
    """Normalised images and noise in, masked-patch loss out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, patches = config.model, config.patches
        self.patch, self.keep, self.norm_pix = model.patch, config.keep, model.norm_pix
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, model.width), requires_grad=False)
        self.patch_embed = PatchEmbed(model.patch, model.width)
        self.blocks = nn.Sequential(*(Block(model.width, model.heads) for _ in range(model.depth)))
        self.norm = nn.LayerNorm(model.width, eps=1e-6)

        width = model.decoder_width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width), requires_grad=False)
        self.decoder_embed = nn.Linear(model.width, width)
        self.decoder_blocks = nn.Sequential(
            *(Block(width, model.decoder_heads) for _ in range(model.decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, 3 * model.patch**2)

    def forward_encoder(self, images_BCHW: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent tokens (B, 1 + K, D), mask (B, N) with 1 = removed, and ids_restore (B, N)."""
        tokens_BND = self.patch_embed(images_BCHW) + self.pos_embed[:, 1:]
        ids_shuffle_BN = noise_BN.argsort(dim=1)
        ids_restore_BN = ids_shuffle_BN.argsort(dim=1)
        ids_keep_BK = ids_shuffle_BN[:, : self.keep]
        tokens_BKD = tokens_BND.gather(1, ids_keep_BK[..., None].expand(-1, -1, tokens_BND.shape[2]))
        mask_BN = (ids_restore_BN >= self.keep).to(tokens_BND.dtype)
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens_BKD), -1, -1)
        tokens_BTD = self.blocks(torch.cat([cls_B1D, tokens_BKD], dim=1))
        return self.norm(tokens_BTD), mask_BN, ids_restore_BN

    def forward_decoder(self, latent_BTD: Tensor, ids_restore_BN: Tensor) -> Tensor:
        """Predicted patches (B, N, P)."""
        tokens_BTD = self.decoder_embed(latent_BTD)
        batch, seen, width = tokens_BTD.shape
        masked = self.mask_token.expand(batch, ids_restore_BN.shape[1] + 1 - seen, -1)
        every_BND = torch.cat([tokens_BTD[:, 1:], masked.to(tokens_BTD.dtype)], dim=1)
        every_BND = every_BND.gather(1, ids_restore_BN[..., None].expand(-1, -1, width))
        tokens_BTD = torch.cat([tokens_BTD[:, :1], every_BND], dim=1) + self.decoder_pos_embed
        tokens_BTD = self.decoder_norm(self.decoder_blocks(tokens_BTD))
        pred_BNP: Tensor = self.decoder_pred(tokens_BTD)[:, 1:]
        return pred_BNP

    def patchify(self, images_BCHW: Tensor) -> Tensor:
        """Patches (B, N, P), values in (row, column, channel) order."""
        batch, _, size, _ = images_BCHW.shape
        grid = size // self.patch
        cells = images_BCHW.reshape(batch, 3, grid, self.patch, grid, self.patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid * grid, -1)

    def forward_loss(self, target_BCHW: Tensor, pred_BNP: Tensor, mask_BN: Tensor) -> Tensor:
        """Mean over masked patches of the mean squared error, ()."""
        target_BNP = self.patchify(target_BCHW)
        if self.norm_pix:
            mean = target_BNP.mean(dim=-1, keepdim=True)
            variance = target_BNP.var(dim=-1, keepdim=True)
            target_BNP = (target_BNP - mean) / (variance + 1e-6).sqrt()
        error_BN = (pred_BNP - target_BNP).square().mean(dim=-1)
        return (error_BN * mask_BN).sum() / mask_BN.sum()

    def forward(self, images_BCHW: Tensor, noise_BN: Tensor, target_BCHW: Tensor | None = None) -> Tensor:
        """Loss of a batch of normalised images.

        The patches of least noise are kept, in its order.  target: images to predict instead, filtered.
        """
        latent_BTD, mask_BN, ids_restore_BN = self.forward_encoder(images_BCHW, noise_BN)
        pred_BNP = self.forward_decoder(latent_BTD, ids_restore_BN)
        return self.forward_loss(images_BCHW if target_BCHW is None else target_BCHW, pred_BNP, mask_BN)


def textbook_adamw(model: nn.Module, optim: OptimConfig, lr: float) -> torch.optim.AdamW:
    """AdamW as people make it: decay of matrices alone, one rate for all."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
    )


def normalised(images_BHWC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images (B, C, H, W) of uint8 (B, H, W, C), by ImageNet's mean and deviation."""
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = (
        torch.tensor(values, dtype=dtype, device=images_BHWC.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images_BCHW - mean) / std).contiguous()


def noise_of(ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
    """Noise (B, N) float32 whose argsort is [kept, masked]."""
    order_BN = torch.cat([ids_keep_BK, ids_mask_BM], dim=1)
    ranks_BN = torch.arange(order_BN.shape[1], dtype=torch.float32, device=order_BN.device)
    return torch.zeros_like(order_BN, dtype=torch.float32).scatter_(1, order_BN, ranks_BN.expand_as(order_BN))
