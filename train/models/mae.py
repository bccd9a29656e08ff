"""Masked autoencoder; with a low-passed target and the simple resized crop it is PixMIM.

Exact but shorter than the textbook form: only visible patches are embedded, the decoder runs on
[class, visible, masked] with gathered positions instead of un-shuffling, and the last decoder block's MLP,
the final norm and the prediction head run on masked tokens only.  Parameters carry the names of the published
checkpoints, so the encoder's are timm's.  Source: arXiv:2111.06377 sec. 3, arXiv:2303.02416.

Shapes: B batch, N patches, K kept, M masked, D encoder width, E decoder width, P values of a patch.
"""

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from turbomim.kernels.linear import linear
from turbomim.kernels.masked_loss import masked_mse
from turbomim.train.models.initial import Draw, convolution_draws, linear_draws, normal, xavier_uniform
from turbomim.train.models.masked import Masked
from turbomim.train.models.vit import LAYER_NORM, block_flops, make_blocks, sincos_positions
from turbomim.train.settings.config import Config


class MAE(Masked):
    """A ViT of the visible patches, and a narrower one that predicts the others."""

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, named as in timm."""
        model = config.model
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.width))
        positions = sincos_positions(model.width, self.grid)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.add_smaller_positions("smaller_pos_embed", model.width)
        self.patch_embed = PatchEmbed(config.data.size, model.patch, 3, model.width)
        self.blocks = make_blocks(model.depth, model.width, model.heads)
        self.norm = LAYER_NORM(model.width)

    def make_decoder(self, config: Config) -> None:
        """Add the decoder's parameters."""
        model = config.model
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.decoder_width))
        positions = sincos_positions(model.decoder_width, self.grid)[:, 1 - self.prefix :]
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.add_smaller_positions("smaller_decoder_pos_embed", model.decoder_width)
        self.decoder_embed = nn.Linear(model.width, model.decoder_width)
        self.decoder_blocks = make_blocks(model.decoder_depth, model.decoder_width, model.decoder_heads)
        self.decoder_norm = LAYER_NORM(model.decoder_width)
        self.decoder_pred = nn.Linear(model.decoder_width, 3 * model.patch**2)

    def add_smaller_positions(self, name: str, width: int) -> None:
        """Add the positions (R, width) of the patches of smaller images, size by size, if there are any.

        No checkpoint has them, as a formula gives them.
        """
        if self.smaller:
            tables = [sincos_positions(width, grid, of=self.grid)[0, 1:] for grid in self.smaller]
            self.register_buffer(name, torch.cat(tables), persistent=False)

    def positions(self, name: str, prefix: int) -> Tensor:
        """Rows of a table of positions for patches of full size, then for those of smaller images."""
        own_ND: Tensor = getattr(self, name)[0, prefix:]
        return torch.cat([own_ND, getattr(self, f"smaller_{name}")]) if self.smaller else own_ND

    def initial_weights(self) -> dict[str, Draw]:
        """The published ones."""
        return {
            **linear_draws(self),
            **convolution_draws("patch_embed.proj", self.patch_embed.proj),
            "patch_embed.proj.weight": xavier_uniform(self.patch_embed.proj.weight),
            "cls_token": normal(0.02),
            "mask_token": normal(0.02),
        }

    def embed_patches(self, visible_BKP: Tensor) -> Tensor:
        """Patches as tokens (B, K, D), without positions."""
        # the stored weight is a convolution's (D, channel, row, column); patches are (row, column, channel)
        weight_DP = self.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
        bias_D = self.patch_embed.proj.bias
        assert bias_D is not None
        return linear(visible_BKP, weight_DP, bias_D)

    def embed(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Tokens (B, 1 + K, D) as the first block gets them, class token first."""
        tokens_BKD = self.embed_patches(visible_BKP) + self.positions("pos_embed", 1)[ids_keep_BK]
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens_BKD), -1, -1)
        return torch.cat([cls_B1D.to(tokens_BKD.dtype), tokens_BKD], dim=1)

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, 1 + K, D), class token first, after the final norm."""
        tokens_BTD = self.embed(visible_BKP, ids_keep_BK)
        for block in self.blocks:
            tokens_BTD = self._through(block, tokens_BTD)
        latent_BTD: Tensor = self.norm(tokens_BTD)
        return latent_BTD

    def encode_whole(self, patches_BNP: Tensor, every_BN: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) of every patch of images, as MAE encodes them.

        A method that encodes otherwise after pre-training, too, overrides this beside forward_encoder.
        """
        return MAE.forward_encoder(self, patches_BNP, every_BN)

    def forward_decoder(self, latent_BTD: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
        """Predicted patches at ids_mask (B, M, P)."""
        seen_BTE = self.decoder_embed(latent_BTD)
        places_BN = torch.cat([ids_keep_BK, ids_mask_BM], dim=1)
        masked_BME = self.mask_token.to(seen_BTE.dtype).expand(len(seen_BTE), ids_mask_BM.shape[1], -1)
        tokens_BTE = torch.cat([seen_BTE, masked_BME], dim=1)
        positions_BNE = self.positions("decoder_pos_embed", self.prefix)[places_BN]
        # the class token's position row is zero
        tokens_BTE = tokens_BTE + functional.pad(positions_BNE, (0, 0, self.prefix, 0))
        for block in list(self.decoder_blocks)[:-1]:
            tokens_BTE = self._through(block, tokens_BTE)
        tokens_BME = self._through(self._last_block, tokens_BTE, seen_BTE.shape[1])
        pred_BMP: Tensor = self.decoder_pred(self.decoder_norm(tokens_BME))
        return pred_BMP

    def _last_block(self, tokens_BTE: Tensor, seen: int) -> Tensor:
        """Masked tokens (B, M, E) after the last decoder block; the first `seen` tokens are not masked."""
        last = self.decoder_blocks[-1]
        assert isinstance(last, Block)
        # the loss reads masked tokens only, so after the last attention the others are dropped
        tokens_BTE = tokens_BTE + last.attn(last.norm1(tokens_BTE))
        tokens_BME = tokens_BTE[:, seen:]
        masked_BME: Tensor = tokens_BME + last.mlp(last.norm2(tokens_BME))
        return masked_BME

    def encoder_blocks(self) -> list[nn.Module]:
        """The encoder's blocks, in order."""
        return [*self.blocks]

    def blocks_to_split(self) -> list[nn.Module]:
        """Blocks that FSDP2 gathers one at a time.

        Not the last decoder block, whose parts are called one by one.
        """
        return [*self.encoder_blocks(), *list(self.decoder_blocks)[:-1]]

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        """Floating-point operations of one forward and backward, multiply-add = 2, matrix products only.

        Backward counts twice the forward.  Counts what a textbook MAE needs (full last decoder block, head on
        all patches), so that savings of ours raise the rate instead of lowering the work.
        """
        model = config.model
        embedding = 2 * config.patches * 3 * model.patch**2 * model.width
        return 3.0 * (embedding + (4 if model.complementary else 1) * cls.view_flops(config))

    @classmethod
    def view_flops(cls, config: Config) -> float:
        """Of one mask's forward after the patches are embedded: blocks, decoder and head."""
        model, narrow = config.model, config.model.decoder_width
        seen, every = config.keep + cls.prefix, config.patches + cls.prefix
        return (
            model.depth * block_flops(seen, model.width)
            + 2 * seen * model.width * narrow
            + model.decoder_depth * block_flops(every, narrow)
            + 2 * config.patches * narrow * 3 * model.patch**2
        )

    def forward_loss(self, pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
        """Mean over masked patches of the mean squared error, () float32."""
        return masked_mse(pred_BMP, target_BMP)
