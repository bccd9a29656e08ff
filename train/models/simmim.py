"""SimMIM: every token goes through the encoder, masked ones as one learnt token; a linear head; L1 on pixels.

Exact but shorter than the published form: only visible patches are embedded, since a masked one's embedding
is replaced anyway.  Its divisor, the number of masked pixels plus 1e-5, is here that number.  The encoder is
timm's Beit with a shared bias of relative positions, and its names.
Source: arXiv:2111.09886 and microsoft/SimMIM.

Shapes: B batch, N patches, K kept, M masked, T tokens with the class token, L tokens of the head, D encoder
width, A heads, P values of a patch, V values that the head makes of a token.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.beit import Block, RelativePositionBias
from torch import Tensor, nn

from turbomim.kernels.linear import linear
from turbomim.kernels.masked_loss import masked_l1
from turbomim.kernels.masked_patches import targets_of_whole_images
from turbomim.train.models.drop_path import DropPath, add_drop_path, draw_paths, forget_paths
from turbomim.train.models.initial import ZEROS, Draw, convolution_draws, linear_draws, normal
from turbomim.train.models.mae import MAE
from turbomim.train.models.vit import LAYER_NORM, block_flops
from turbomim.train.models.window_target import window_normalised
from turbomim.train.settings.config import Config


class SimMIM(MAE):
    """Images in, masked-patch loss out; the encoder a ViT."""

    decoder_names = ("mask_token", "decoder.")
    # parts of the names that the published code decays and means to spare
    published_slips: tuple[str, ...] = ("mask_token", "relative_position_bias_table")
    # patches a side that one token of the encoder's output stands for
    merged = 1

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, named as in timm's Beit; no absolute positions."""
        model = config.model
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.width))
        self.patch_embed = PatchEmbed(config.data.size, model.patch, 3, model.width)
        self.rel_pos_bias: nn.Module = RelativePositionBias((self.grid, self.grid), model.heads)
        # timm's annotation asks for a class; its code calls whatever it gets
        norm: Any = LAYER_NORM
        self.blocks = nn.ModuleList(
            Block(model.width, model.heads, qkv_bias=True, init_values=0.1, norm_layer=norm)
            for _ in range(model.depth)
        )
        self.norm = LAYER_NORM(model.width)
        self.paths: list[DropPath] = add_drop_path(self.blocks, model.drop_path)

    def make_decoder(self, config: Config) -> None:
        """Add the mask token and the head, whose output channels are (colour, row, column) of its pixels."""
        self.norm_window = config.model.norm_window
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.model.width))
        pixels = self.merged * self.patch
        # a convolution in a sequence for the published name and shape
        self.decoder = nn.Sequential(nn.Conv2d(self.norm.normalized_shape[0], 3 * pixels**2, kernel_size=1))

    def initial_weights(self) -> dict[str, Draw]:
        """The published ones; norms, biases of positions and layer scales are constants of timm's."""
        cut_off = normal(0.02, cut=0.02)
        draws = {
            **linear_draws(self.blocks, lambda _: cut_off, prefix="blocks"),
            **dict.fromkeys(("cls_token", "mask_token", "patch_embed.proj.weight"), cut_off),
            "patch_embed.proj.bias": ZEROS,
        }
        for number in range(len(self.blocks)):
            std = 0.02 / math.sqrt(2 * (number + 1))
            for layer in ("attn.proj", "mlp.fc2"):
                draws[f"blocks.{number}.{layer}.weight"] = normal(std, cut=std)
        return draws | convolution_draws("decoder.0", self.decoder[0])

    def forward(
        self,
        images_BHWC: Tensor,
        epochs_B: Tensor,
        ids_B: Tensor,
        ids_keep_BK: Tensor | None = None,
        ids_mask_BM: Tensor | None = None,
    ) -> Tensor:
        """As MAE's; in training with the branches left out that the samples drew."""
        if self.training:
            draw_paths(self.paths, self.seed, epochs_B, ids_B)
        loss = super().forward(images_BHWC, epochs_B, ids_B, ids_keep_BK, ids_mask_BM)
        forget_paths(self.paths)
        return loss

    def patchify(
        self, images_BHWC: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As MAE's; with norm_window the targets (B, M, P) are cut from an image normalised by windows."""
        if not self.norm_window:
            return super().patchify(images_BHWC, ids_keep_BK, ids_mask_BM)
        # none of these targets is wanted, and the kernel wants one
        visible_BKP, target_B1P = super().patchify(images_BHWC, ids_keep_BK, ids_mask_BM[:, :1].contiguous())
        whole_BNP, _ = targets_of_whole_images(images_BHWC, self.target_pixels)
        whole_BNP = window_normalised(whole_BNP, self.grid, self.patch, self.norm_window)
        return visible_BKP, of_patches(whole_BNP, ids_mask_BM).to(target_B1P.dtype)

    def every_token(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Patch tokens (B, N, D) in order: embeddings where patches are visible, else the mask token."""
        seen_BKD: Tensor = self.patch_embed.norm(self.embed_patches(visible_BKP))
        tokens_BND = self.mask_token.to(seen_BKD.dtype).expand(len(seen_BKD), self.patches, -1)
        return tokens_BND.scatter(1, ids_keep_BK[..., None].expand_as(seen_BKD), seen_BKD)

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, 1 + N, D) of every patch, class token first, after the final norm."""
        tokens_BND = self.every_token(visible_BKP, ids_keep_BK)
        cls_B1D = self.cls_token.to(tokens_BND.dtype).expand(len(tokens_BND), -1, -1)
        tokens_BTD = torch.cat([cls_B1D, tokens_BND], dim=1)
        shared = self.rel_pos_bias
        if isinstance(shared, nn.ModuleList):
            biases_ATT = [bias() for bias in shared]
        else:
            biases_ATT = [shared()] * len(self.blocks)
        for block, bias_ATT in zip(self.blocks, biases_ATT, strict=True):
            tokens_BTD = self._through(block, tokens_BTD, bias_ATT)
        latent_BTD: Tensor = self.norm(tokens_BTD)
        return latent_BTD

    def encode_whole(self, patches_BNP: Tensor, every_BN: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) of whole images as the trained encoder gives them, nothing masked.

        The published linear probe of the ViT reads the mean patch token after the 8th block instead.
        """
        return self.forward_encoder(patches_BNP, every_BN)

    def unshare_positions(self) -> None:
        """Give every block its own copy of the bias of relative positions, as published for fine-tuning."""
        copies = (copy.deepcopy(self.rel_pos_bias) for _ in self.blocks)
        self.rel_pos_bias = nn.ModuleList(copies)

    def forward_decoder(self, latent_BTD: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
        """Predicted patches at ids_mask (B, M, P)."""
        head, side, merged = self.decoder[0], self.grid // self.merged, self.merged
        assert isinstance(head, nn.Conv2d) and head.bias is not None

        def by_patch(rows: Tensor) -> Tensor:
            """The head's rows from (colour, row, column) of its pixels to patches and their values."""
            split = rows.reshape(3, merged, self.patch, merged, self.patch, -1)
            return split.permute(1, 3, 2, 4, 0, 5).flatten(0, 4)

        weight_VD, bias_V = by_patch(head.weight), by_patch(head.bias).flatten()
        pred_BLV = linear(latent_BTD[:, self.prefix :], weight_VD, bias_V)
        cells = pred_BLV.reshape(len(pred_BLV), side, side, merged, merged, -1).transpose(2, 3)
        return of_patches(cells.reshape(len(pred_BLV), self.patches, -1), ids_mask_BM)

    def blocks_to_split(self) -> list[nn.Module]:
        """Blocks that FSDP2 gathers one at a time."""
        return self.encoder_blocks()

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        """As MAE's: what the textbook form needs, with every patch embedded and predicted."""
        model, patches, values = config.model, config.patches, 3 * config.model.patch**2
        ends = 2 * 2 * patches * values * model.width
        return 3.0 * (ends + model.depth * block_flops(patches + 1, model.width))

    def forward_loss(self, pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
        """Mean over masked patches of the mean absolute error, () float32."""
        return masked_l1(pred_BMP, target_BMP)


def of_patches(whole_BNP: Tensor, ids_BM: Tensor) -> Tensor:
    """The patches with these numbers (B, M, P)."""
    return whole_BNP.gather(1, ids_BM[..., None].expand(-1, -1, whole_BNP.shape[2]))
