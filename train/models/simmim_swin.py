"""SimMIM with Swin and SwinV2 encoders: timm's, with the mask token put in after the embedding's norm.

Masks are of patches of 4 pixels, usually in units of 8 x 8, since a token of the last stage stands for 32
pixels a side.  Names are timm's, in which a stage begins with the merging that the published ones end with.
Source: arXiv:2111.09886, arXiv:2111.09883, microsoft/SimMIM and microsoft/Swin-Transformer.

Shapes: B batch, N patches, K kept, H W rows and columns of tokens, L tokens of the last stage, D width.
"""

from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from timm.models.swin_transformer_v2 import (
    SwinTransformerV2,
    SwinTransformerV2Block,
    SwinTransformerV2Stage,
)
from torch import Tensor, nn

from turbomim.train.models.drop_path import add_drop_path
from turbomim.train.models.initial import Draw, convolution_draws, linear_draws, normal
from turbomim.train.models.simmim import SimMIM
from turbomim.train.settings.config import Config

# parts of names: where tokens are to each other, and how sharply they attend
POSITIONS = ("relative_position_bias_table", "cpb_mlp", "logit_scale")


def swin_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of timm's SwinTransformer, and of its SwinTransformerV2, that decide the encoder."""
    model = config.model
    windows = model.pretrained_windows if model.method == "simmim-swinv2" else ""
    measured = {"pretrained_window_sizes": tuple(map(int, windows.split(",")))} if windows else {}
    return {
        **measured,
        "img_size": config.data.size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depths": tuple(model.depths),
        "num_heads": tuple(model.heads * 2**stage for stage in range(len(model.depths))),
        "window_size": model.window,
        "num_classes": 0,
    }


class SimMIMSwin(SimMIM):
    """Images in, masked-patch loss out; the encoder a Swin transformer."""

    prefix = 0
    published_slips: tuple[str, ...] = ("relative_position_bias_table",)
    transformer: type[SwinTransformer] | type[SwinTransformerV2] = SwinTransformer

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, named as in timm."""
        encoder = self.transformer(**swin_arguments(config), drop_path_rate=0.0)
        assert isinstance(encoder.patch_embed, PatchEmbed) and isinstance(encoder.norm, nn.LayerNorm)
        self.patch_embed, self.layers, self.norm = encoder.patch_embed, encoder.layers, encoder.norm
        self.merged = 2 ** (len(config.model.depths) - 1)
        self.paths = add_drop_path(self.encoder_blocks(), config.model.drop_path)

    def initial_weights(self) -> dict[str, Draw]:
        """The published ones; norms, SwinV2's scales and its q and v biases are constants of timm's."""
        draws = linear_draws(self.layers, lambda _: normal(0.02), prefix="layers")
        draws["mask_token"] = normal(0.02)
        for name, _ in self.named_parameters():
            if name.endswith("relative_position_bias_table"):
                draws[name] = normal(0.02)
        return {
            **draws,
            **convolution_draws("patch_embed.proj", self.patch_embed.proj),
            **convolution_draws("decoder.0", self.decoder[0]),
        }

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, L, D) of the last stage, row-major, after the final norm."""
        tokens_BND = self.every_token(visible_BKP, ids_keep_BK)
        tokens_BHWD = tokens_BND.reshape(len(tokens_BND), self.grid, self.grid, -1)
        for stage in self.layers:
            assert isinstance(stage, SwinTransformerStage | SwinTransformerV2Stage)
            tokens_BHWD = stage.downsample(tokens_BHWD)
            for block in stage.blocks:
                tokens_BHWD = self._through(block, tokens_BHWD)
        latent_BLD: Tensor = self.norm(tokens_BHWD).flatten(1, 2)
        return latent_BLD

    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks of all stages, in order."""
        kinds = SwinTransformerBlock | SwinTransformerV2Block
        return [module for module in self.layers.modules() if isinstance(module, kinds)]

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        """As SimMIM's; attention is within windows, and four tokens are merged into one between stages."""
        model, width, grid = config.model, config.model.width, config.grid
        values = 3 * model.patch**2
        forward = 2.0 * grid**2 * values * width
        for stage, depth in enumerate(model.depths):
            if stage:
                width, grid = 2 * width, grid // 2
                # from four tokens of half the width
                forward += 2 * grid**2 * 2 * width * width
            near = min(model.window, grid) ** 2
            forward += depth * (24 * grid**2 * width**2 + 4 * grid**2 * near * width)
        return 3.0 * (forward + 2 * width * values * config.patches)


class SimMIMSwinV2(SimMIMSwin):
    """The same with a SwinV2: norms after each branch, cosine attention, continuous position biases."""

    published_slips = ("cpb_mlp", "logit_scale")
    transformer = SwinTransformerV2

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, named as in timm."""
        super().make_encoder(config)
        for module in self.layers.modules():
            if isinstance(module, nn.ReLU):
                # what our linear layers return must not be changed in place
                module.inplace = False
