"""ConvMAE as its paper and code write it, in eager torch: what the visible-only form is measured against.

All pixels go through stages 1 and 2 as maps; masks, upsampled to their sizes, are multiplied at the depthwise
convolutions; stage 3 gets the visible tokens.  With several parts it is FastConvMAE: each part of the one
permutation keeps its own patches, and the convolutions of the parts are added up.  Loads the state dict of
`turbomim.train.models.convmae.ConvMAE`.  Source: arXiv:2205.03892 sec. 3.

Shapes: B batch, N patches, K kept, M masked, T tokens, D width, P values of a patch, C H W of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from turbomim.benchmarks.step.textbook_mae import Block, TextbookMAE
from turbomim.train.settings.config import Config


class ConvEmbed(nn.Module):
    """A convolution whose stride is its size, LayerNorm over channels, GELU."""

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, size)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A smaller map (B, C, H / size, W / size)."""
        return functional.gelu(over_channels(self.norm, self.proj(x_BCHW)))


class ConvMlp(nn.Module):
    """Two 1 x 1 convolutions with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, 4 * width, 1)
        self.fc2 = nn.Conv2d(4 * width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A map of the same shape."""
        out_BCHW: Tensor = self.fc2(functional.gelu(self.fc1(x_BCHW)))
        return out_BCHW


class ConvBlock(nn.Module):
    """Pre-norm block whose mixing is a depthwise 5 x 5 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = ConvMlp(width)

    def forward(self, x_BCHW: Tensor, parts: list[Tensor]) -> Tensor:
        """A map of the same shape; parts (B, 1, H, W) are 1 where a part of the patches is visible."""
        y_BCHW = self.conv1(over_channels(self.norm1, x_BCHW))
        if len(parts) == 1:
            y_BCHW = self.attn(parts[0] * y_BCHW)
        else:
            y_BCHW = torch.stack([part * self.attn(part * y_BCHW) for part in parts]).sum(0)
        x_BCHW = x_BCHW + self.conv2(y_BCHW)
        out_BCHW: Tensor = x_BCHW + self.mlp(over_channels(self.norm2, x_BCHW))
        return out_BCHW


def over_channels(norm: nn.Module, x_BCHW: Tensor) -> Tensor:
    """A map (B, C, H, W), normalised over C."""
    out_BCHW: Tensor = norm(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out_BCHW


class TextbookConvMAE(TextbookMAE):
    """Normalised images and noise in, masked-patch loss out."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        del self.cls_token, self.patch_embed, self.blocks
        model, patches = config.model, config.patches
        self.parts = 4 if model.complementary else 1
        width1, width2 = (int(width) for width in model.conv_widths.split(","))
        depth1, depth2 = (int(depth) for depth in model.conv_depths.split(","))
        self.patch_embed1 = ConvEmbed(4, 3, width1)
        self.patch_embed2 = ConvEmbed(2, width1, width2)
        self.patch_embed3 = ConvEmbed(2, width2, model.width)
        self.patch_embed4 = nn.Linear(model.width, model.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, model.width), requires_grad=False)
        self.blocks1 = nn.ModuleList(ConvBlock(width1) for _ in range(depth1))
        self.blocks2 = nn.ModuleList(ConvBlock(width2) for _ in range(depth2))
        self.blocks3 = nn.Sequential(*(Block(model.width, model.heads) for _ in range(model.depth)))
        self.stage1_output_decode = nn.Conv2d(width1, model.width, 4, 4)
        self.stage2_output_decode = nn.Conv2d(width2, model.width, 2, 2)
        width = model.decoder_width
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches, width), requires_grad=False)

    def convolve(self, images_BCHW: Tensor, parts_BN: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) before stage 3, and what stages 1 and 2 add after it."""
        side = images_BCHW.shape[-1] // self.patch
        masks = [part_BN.to(images_BCHW.dtype).view(-1, 1, side, side) for part_BN in parts_BN]
        x_BCHW = self.patch_embed1(images_BCHW)
        for block in self.blocks1:
            x_BCHW = block(x_BCHW, [upsampled(mask, 4) for mask in masks])
        finer_BDHW = self.stage1_output_decode(x_BCHW)
        x_BCHW = self.patch_embed2(x_BCHW)
        for block in self.blocks2:
            x_BCHW = block(x_BCHW, [upsampled(mask, 2) for mask in masks])
        finer_BDHW = finer_BDHW + self.stage2_output_decode(x_BCHW)
        tokens_BND = self.patch_embed4(self.patch_embed3(x_BCHW).flatten(2).transpose(1, 2))
        return tokens_BND + self.pos_embed, finer_BDHW.flatten(2).transpose(1, 2)

    def forward_encoder(self, images_BCHW: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent tokens (B, K, D), mask (B, N) with 1 = removed, and ids_restore (B, N), part by part."""
        ranks_BN = noise_BN.argsort(dim=1).argsort(dim=1)
        count = ranks_BN.shape[1]
        # of part k, the patch of rank k K comes first
        restores = [(ranks_BN - part * self.keep) % count for part in range(self.parts)]
        parts_BN = [restore_BN < self.keep for restore_BN in restores]
        tokens_BND, finer_BND = self.convolve(images_BCHW, parts_BN)
        ids_restore_BN = torch.cat(restores)
        ids_keep_BK1 = ids_restore_BN.argsort(dim=1)[:, : self.keep, None]
        tokens_BKD, finer_BKD = (
            every.repeat(self.parts, 1, 1).gather(1, ids_keep_BK1.expand(-1, -1, every.shape[2]))
            for every in (tokens_BND, finer_BND)
        )
        mask_BN = (~torch.cat(parts_BN)).to(tokens_BND.dtype)
        return self.norm(self.blocks3(tokens_BKD) + finer_BKD), mask_BN, ids_restore_BN

    def forward_decoder(self, latent_BTD: Tensor, ids_restore_BN: Tensor) -> Tensor:
        """Predicted patches (B, N, P)."""
        tokens_BTD = self.decoder_embed(latent_BTD)
        batch, seen, width = tokens_BTD.shape
        masked = self.mask_token.expand(batch, ids_restore_BN.shape[1] - seen, -1)
        every_BND = torch.cat([tokens_BTD, masked.to(tokens_BTD.dtype)], dim=1)
        every_BND = every_BND.gather(1, ids_restore_BN[..., None].expand(-1, -1, width))
        every_BND = self.decoder_blocks(every_BND + self.decoder_pos_embed)
        pred_BNP: Tensor = self.decoder_pred(self.decoder_norm(every_BND))
        return pred_BNP

    def forward_loss(self, target_BCHW: Tensor, pred_BNP: Tensor, mask_BN: Tensor) -> Tensor:
        """Mean over masked patches of all parts of the mean squared error, ()."""
        return super().forward_loss(target_BCHW.repeat(self.parts, 1, 1, 1), pred_BNP, mask_BN)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Tokens (B, N, D) of whole images, without the fusion, as the fine-tuned model has them."""
        every_BN = torch.ones(len(images_BCHW), self.pos_embed.shape[1], device=images_BCHW.device)
        tokens_BND, _ = self.convolve(images_BCHW, [every_BN])
        features_BND: Tensor = self.norm(self.blocks3(tokens_BND))
        return features_BND


def upsampled(mask_B1HW: Tensor, times: int) -> Tensor:
    """A mask of patches as one of cells, `times` a side of each patch."""
    return mask_B1HW.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
