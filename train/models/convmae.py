"""ConvMAE: two stages of masked convolutions before a ViT of 11 blocks, then MAE's decoder and loss.

A patch of 16 pixels holds 4 x 4 cells of stage 1 and 2 x 2 of stage 2, and no convolution between stages
crosses its border.  So both stages run on the cells of visible patches alone, as linear layers.  Only the
depthwise 5 x 5 looks beyond a patch, at a map of cells with zeros where patches are masked, which the
published code makes by a multiplication.  Exact, with a quarter of the work, and no pixel of a masked patch
is read.  Parameters carry the names of the published checkpoints.  Source: arXiv:2205.03892 sec. 3.

Shapes: B batch, N patches, K kept, M masked, D encoder width, P values of a patch, S cells a side of a patch,
T visible cells (K * S * S), C width of a stage.
"""

from torch import Tensor, nn
from torch.nn import functional

from turbomim.kernels.linear import linear
from turbomim.kernels.masking import patches_of_units
from turbomim.train.models.initial import Draw, convolution_draws, linear_draws, normal, xavier_uniform
from turbomim.train.models.mae import MAE
from turbomim.train.models.vit import LAYER_NORM, make_blocks, sincos_positions
from turbomim.train.settings.config import Config
from turbomim.train.settings.model import ModelConfig


def conv_stages(model: ModelConfig) -> list[tuple[int, int]]:
    """Width and number of blocks of stage 1 and of stage 2."""
    widths, depths = ([int(n) for n in text.split(",")] for text in (model.conv_widths, model.conv_depths))
    return list(zip(widths, depths, strict=True))


def places(ids_BK: Tensor, grid: int, side: int) -> Tensor:
    """Numbers (B, K * side * side) of patches' cells in the image's map, row by row in a patch and there."""
    by_column_BT = patches_of_units(ids_BK, grid * side, side)
    return by_column_BT.view(*ids_BK.shape, side, side).transpose(2, 3).flatten(1)


def strided(conv: nn.Conv2d, cells_BKSSC: Tensor) -> Tensor:
    """A convolution whose stride is its size k, inside patches: (B, K, S, S, C) to (B, K, S/k, S/k, out)."""
    size, bias, (batch, kept, side, _, width) = conv.kernel_size[0], conv.bias, cells_BKSSC.shape
    assert bias is not None
    windows = cells_BKSSC.view(batch, kept, side // size, size, side // size, size, width)
    # the stored weight is (out, channel, row, column); cells are (row, column, channel)
    weight_OI = conv.weight.permute(0, 2, 3, 1).flatten(1)
    return linear(windows.transpose(3, 4).flatten(4), weight_OI, bias)


class ConvEmbed(nn.Module):
    """Convolution whose stride is its size, LayerNorm over channels (eps 1e-5), GELU."""

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, size)
        self.norm = nn.LayerNorm(width)

    def forward(self, cells_BKSSC: Tensor) -> Tensor:
        """Cells (B, K, S / size, S / size, width)."""
        return functional.gelu(self.norm(strided(self.proj, cells_BKSSC)))


class ConvMlp(nn.Module):
    """Two 1 x 1 convolutions with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, 4 * width, 1)
        self.fc2 = nn.Conv2d(4 * width, width, 1)

    def forward(self, cells_BKSSC: Tensor) -> Tensor:
        """Cells of the same shape."""
        return strided(self.fc2, functional.gelu(strided(self.fc1, cells_BKSSC)))


class ConvBlock(nn.Module):
    """A ViT block with a depthwise 5 x 5 convolution of visible cells in place of attention; norm eps 1e-5.

    side: cells a side of the image.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm1 = nn.LayerNorm(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.drop_path1, self.drop_path2 = nn.Identity(), nn.Identity()
        self.norm2 = nn.LayerNorm(width)
        self.mlp = ConvMlp(width)

    def forward(self, cells_BKSSC: Tensor, places_BT: Tensor) -> Tensor:
        """Cells of the same shape; places are their numbers in the image's map."""
        mixed_BKSSC = self._mix(strided(self.conv1, self.norm1(cells_BKSSC)), places_BT)
        cells_BKSSC = cells_BKSSC + self.drop_path1(strided(self.conv2, mixed_BKSSC))
        out_BKSSC: Tensor = cells_BKSSC + self.drop_path2(self.mlp(self.norm2(cells_BKSSC)))
        return out_BKSSC

    def _mix(self, cells_BKSSC: Tensor, places_BT: Tensor) -> Tensor:
        """The depthwise convolution at visible cells, with zeros for all others."""
        batch, width, side = len(cells_BKSSC), cells_BKSSC.shape[-1], self.side
        index_BTC = places_BT[..., None].expand(-1, -1, width)
        zeros = cells_BKSSC.new_zeros(batch, side * side, width)
        map_BHWC = zeros.scatter(1, index_BTC, cells_BKSSC.flatten(1, 3)).view(batch, side, side, width)
        mixed_BCHW: Tensor = self.attn(map_BHWC.permute(0, 3, 1, 2))
        return mixed_BCHW.permute(0, 2, 3, 1).flatten(1, 2).gather(1, index_BTC).view_as(cells_BKSSC)


class ConvMAE(MAE):
    """MAE with convolutions first, without a class token; model.depth counts the blocks of stage 3."""

    prefix = 0
    # the fine-tuned published model has no fusion: its 85,374,824 parameters are the rest, a norm and a head
    decoder_names = (*MAE.decoder_names, "stage1_output_decode", "stage2_output_decode")

    def make_encoder(self, config: Config) -> None:
        """Add the parameters of the three stages and of their fusion."""
        model, grid = config.model, self.grid
        (width1, depth1), (width2, depth2) = conv_stages(model)
        self.patch_embed1 = ConvEmbed(4, 3, width1)
        self.patch_embed2 = ConvEmbed(2, width1, width2)
        self.patch_embed3 = ConvEmbed(2, width2, model.width)
        self.patch_embed4 = nn.Linear(model.width, model.width)
        self.pos_embed = nn.Parameter(sincos_positions(model.width, grid)[:, 1:], requires_grad=False)
        self.blocks1 = nn.ModuleList(ConvBlock(width1, 4 * grid) for _ in range(depth1))
        self.blocks2 = nn.ModuleList(ConvBlock(width2, 2 * grid) for _ in range(depth2))
        self.blocks3 = make_blocks(model.depth, model.width, model.heads)
        self.stage1_output_decode = nn.Conv2d(width1, model.width, 4, 4)
        self.stage2_output_decode = nn.Conv2d(width2, model.width, 2, 2)
        self.norm = LAYER_NORM(model.width)

    def initial_weights(self) -> dict[str, Draw]:
        """The published ones: convolutions as torch draws them, but the weight of patch_embed3."""
        draws = linear_draws(self)
        for name, child in self.named_modules():
            if isinstance(child, nn.Conv2d):
                draws |= convolution_draws(name, child)
        last = xavier_uniform(self.patch_embed3.proj.weight)
        return draws | {"patch_embed3.proj.weight": last, "mask_token": normal(0.02)}

    def stages(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (B, K, 4, 4, C) and (B, K, 2, 2, C), and tokens (B, K, D) before the final norm."""
        places1_BT, places2_BT = (places(ids_keep_BK, self.grid, side) for side in (4, 2))
        cells1 = self.patch_embed1(visible_BKP.view(*ids_keep_BK.shape, self.patch, self.patch, 3))
        for block in self.blocks1:
            cells1 = self._through(block, cells1, places1_BT)
        cells2 = self.patch_embed2(cells1)
        for block in self.blocks2:
            cells2 = self._through(block, cells2, places2_BT)
        tokens_BKD = self.patch_embed4(self.patch_embed3(cells2).flatten(2))
        tokens_BKD = tokens_BKD + self.pos_embed[0][ids_keep_BK]
        for block in self.blocks3:
            tokens_BKD = self._through(block, tokens_BKD)
        return cells1, cells2, tokens_BKD

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, K, D) after the final norm: stage 3 plus what stages 1 and 2 are projected to."""
        cells1, cells2, tokens_BKD = self.stages(visible_BKP, ids_keep_BK)
        finer = strided(self.stage1_output_decode, cells1) + strided(self.stage2_output_decode, cells2)
        latent_BKD: Tensor = self.norm(tokens_BKD + finer.flatten(2))
        return latent_BKD

    def encode_whole(self, patches_BNP: Tensor, every_BN: Tensor) -> Tensor:
        """Tokens (B, N, D) of whole images, without the fusion, as published for fine-tuning and probing."""
        *_, tokens_BND = self.stages(patches_BNP, every_BN)
        features_BND: Tensor = self.norm(tokens_BND)
        return features_BND

    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks of the three stages, in order."""
        return [*self.blocks1, *self.blocks2, *self.blocks3]

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        """Floating-point operations of one forward and backward, counted as MAE's.

        Stages 1 and 2 count for all patches, as published; complementary masks share them, but for `attn`.
        """
        model, width, views = config.model, config.model.width, 4 if config.model.complementary else 1
        (width1, depth1), (width2, depth2) = conv_stages(model)
        stage1 = 2 * 48 * width1 + depth1 * (20 * width1**2 + views * 50 * width1)
        stage2 = 2 * 4 * width1 * width2 + depth2 * (20 * width2**2 + views * 50 * width2)
        # patch_embed3 and 4, and the fusion
        stage3 = 2 * width * (4 * width2 + width + 16 * width1 + 4 * width2)
        stages = config.patches * (16 * stage1 + 4 * stage2 + stage3)
        return 3.0 * (stages + views * cls.view_flops(config))
