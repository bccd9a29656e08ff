"""MFF: an MAE whose decoder sees several blocks' outputs, projected and summed before the final norm.

The shares of the sum are learned: a softmax over one weight a block.  Both go with the decoder after
pre-training, and the encoder is a plain ViT.  Source: arXiv:2308.00261; mmpretrain's `mff.py` for where the
norm is, names and initial values.

Shapes: B batch, K kept, T tokens (1 + K), D encoder width, L fused levels.
"""

import torch
from torch import Tensor, nn

from turbomim.kernels.linear import linear
from turbomim.train.models.mae import MAE
from turbomim.train.models.sharding import whole
from turbomim.train.settings.config import Config


class MFF(MAE):
    """Images in, masked-patch loss out; the encoder's levels are fused on the way."""

    decoder_names = (*MAE.decoder_names, "proj_")

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, and note which blocks are fused."""
        super().make_encoder(config)
        self.levels = config.model.levels

    def make_decoder(self, config: Config) -> None:
        """Add the decoder's parameters and the fusion's."""
        super().make_decoder(config)
        levels, width = len(self.levels), config.model.width
        # the last level is not projected
        self.proj_layers = nn.ModuleList(nn.Linear(width, width) for _ in self.levels[:-1])
        # the share of a single level is 1, whatever its weight
        self.proj_weights = nn.Parameter(torch.ones(levels, 1, 1, 1), requires_grad=levels > 1)

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, 1 + K, D) of all fused levels, class token first, after the final norm."""
        tokens_BTD = self.embed(visible_BKP, ids_keep_BK)
        levels = []
        for number, block in enumerate(self.blocks):
            tokens_BTD = self._through(block, tokens_BTD)
            if number in self.levels:
                levels.append(tokens_BTD)
        shares_L = self.proj_weights.flatten().softmax(0)
        fused_BTD = shares_L[-1] * levels[-1]
        for share, proj, level_BTD in zip(shares_L[:-1], self.proj_layers, levels[:-1], strict=True):
            assert isinstance(proj, nn.Linear)
            # the share scales the matrix, not its product: nothing is kept but what the blocks keep anyway
            fused_BTD = fused_BTD + linear(level_BTD, share * proj.weight, share * proj.bias)
        latent_BTD: Tensor = self.norm(fused_BTD)
        return latent_BTD

    def logged(self) -> dict[str, Tensor]:
        """The share of each level, fuse_0, fuse_1, … in the order of `model.fuse`."""
        shares_L = whole(self.proj_weights.detach()).flatten().softmax(0)
        return {f"fuse_{level}": share for level, share in enumerate(shares_L)}

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        """As MAE's, with the projections of kept patches and class token."""
        model = config.model
        projections = (len(model.levels) - 1) * 2 * (config.keep + 1) * model.width**2
        return super().flops_per_image(config) + 3.0 * projections
