"""The settings of a model, and which of them each method reads."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from turbomim.pipeline.system.errors import UsageError, need

_MAES, _SWINS = ("mae", "mff", "convmae"), ("simmim-swin", "simmim-swinv2")
METHOD_NAMES = (*_MAES, "simmim", *_SWINS)
# those that can be trained on images of several sizes in turn: their positions are tables of fixed formulas
SIZED = ("mae", "mff")
# the methods that read a setting of the model which not all of them read: the others take its default alone
READ_BY = {
    "encoder": (*_MAES, "simmim"),
    "depth": (*_MAES, "simmim"),
    "decoder_width": _MAES,
    "decoder_depth": _MAES,
    "decoder_heads": _MAES,
    "complementary": _MAES,
    "conv_widths": ("convmae",),
    "conv_depths": ("convmae",),
    "fuse": ("mff",),
    "norm_window": ("simmim", *_SWINS),
    "drop_path": ("simmim", *_SWINS),
    "stages": _SWINS,
    "window": _SWINS,
    "pretrained_windows": ("simmim-swinv2",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Encoder, decoder, mask and target.  Defaults: MAE ViT-B/16 (arXiv:2111.06377)."""

    # mae, mff, convmae, simmim, simmim-swin or simmim-swinv2 (docs/methods.md)
    method: str = "mae"
    # timm's name of a plain ViT, vit_small_patch16_224 for example: sets patch, width, depth and heads, but
    # not those given beside it
    encoder: str = ""
    # pixels a side of a patch
    patch: int = 16
    # of the encoder's tokens
    width: int = 768
    # blocks of the encoder
    depth: int = 12
    # attention heads of an encoder block
    heads: int = 12
    # of the decoder's tokens
    decoder_width: int = 512
    # blocks of the decoder
    decoder_depth: int = 8
    # attention heads of a decoder block
    decoder_heads: int = 16
    # of the cells of stages 1 and 2 (convmae, whose stage 3 has width, depth and heads)
    conv_widths: str = "256,384"
    # blocks of stages 1 and 2 (convmae)
    conv_depths: str = "2,2"
    # four masks a sample, each of which keeps another quarter of its patches (FastConvMAE)
    complementary: bool = False
    # share of the mask units that are removed; int(units * (1 - ratio)) are kept
    mask_ratio: float = 0.75
    # patches a side of a mask unit, which is kept or removed as one (LSMAE 2, SimMIM 32 pixels)
    mask_unit: int = 1
    # random: each unit alike; block: rectangles of patches, as BEiT
    mask: Literal["random", "block"] = "random"
    # blocks whose outputs method mff fuses, counted from 0, the last block last (arXiv:2308.00261's ViT-B)
    fuse: str = "0,2,4,6,8,11"
    # raw: the pixels (MAE); gaussian: low-passed (PixMIM here); ideal: by the published code's disc
    target: Literal["raw", "gaussian", "ideal"] = "raw"
    # cut-off of the low-pass targets, cycles per image
    radius: float = 40.0
    # normalise every target patch by its own mean and variance
    norm_pix: bool = True
    # normalise every target pixel by those of its channel in a window around it, pixels a side, odd; 0 = off
    # (simmim methods; SwinV2's 47)
    norm_window: int = 0
    # blocks of the stages of simmim-swin and simmim-swinv2, in place of depth; width and heads are the first
    # stage's, the next one's are twice as many
    stages: str = "2,2,18,2"
    # tokens a side of these methods' attention windows (SimMIM: 6, its Swin-L and SwinV2 12)
    window: int = 6
    # of simmim-swinv2 at another size than it was pre-trained at: window of each stage then, in which its
    # positions are measured, like 12,12,12,6 (evaluation sets it); empty = those that it has
    pretrained_windows: str = ""
    # share of samples that the last block's branches are left out for, rising to it from 0 at the first block
    # (simmim methods; SimMIM's ViT and SwinV2 0.1)
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        self._check_read()
        need(4 <= self.patch <= 32, "model.patch", self.patch, "4 to 32 pixels")
        need(self.depth >= 1, "model.depth", self.depth, "at least 1")
        need(self.decoder_depth >= 1, "model.decoder_depth", self.decoder_depth, "at least 1")
        for name, width, heads in (
            ("model.width", self.width, self.heads),
            ("model.decoder_width", self.decoder_width, self.decoder_heads),
        ):
            need(heads >= 1, name.replace("width", "heads"), heads, "at least 1")
            need(width % (4 * heads) == 0, name, width, f"a multiple of 4 x its {heads} heads")
        legal = "16 pixels for convmae, whose three stages shrink by 4, 2 and 2"
        need(self.method != "convmae" or self.patch == 16, "model.patch", self.patch, legal)
        for name, text in (("model.conv_widths", self.conv_widths), ("model.conv_depths", self.conv_depths)):
            ok = re.fullmatch(r"[1-9]\d{0,4},[1-9]\d{0,4}", text) is not None
            need(ok, name, repr(text), "two whole numbers above 0 with a comma between, stage 1 first")
        need(0 < self.mask_ratio < 1, "model.mask_ratio", self.mask_ratio, "above 0 and below 1")
        need(self.mask_unit >= 1, "model.mask_unit", self.mask_unit, "at least 1 patch")
        legal = "1 with model.mask block, whose rectangles are made of patches"
        need(self.mask == "random" or self.mask_unit == 1, "model.mask_unit", self.mask_unit, legal)
        need(self.radius > 0, "model.radius", self.radius, "above 0 cycles per image")
        side = self.norm_window
        legal = "0 (off) or an odd number from 3 on, with model.norm_pix false"
        odd = side >= 3 and side % 2 == 1 and not self.norm_pix
        need(side == 0 or odd, "model.norm_window", side, legal)
        need(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "0 to below 1")
        ok = re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", self.stages) is not None
        need(ok, "model.stages", repr(self.stages), "blocks of each stage like 2,2,18,2")
        need(self.window >= 1, "model.window", self.window, "at least 1 token")
        windows = self.pretrained_windows
        ok = not windows or re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", windows) is not None
        ok = ok and (not windows or windows.count(",") == self.stages.count(","))
        legal = f"empty, or tokens a side for each of the stages {self.stages}, like 12,12,12,6"
        need(ok, "model.pretrained_windows", repr(windows), legal)
        if self.method == "mff":
            ok = re.fullmatch(r"[0-9]+(,[0-9]+)*", self.fuse) is not None
            ok = ok and self.levels == sorted(set(self.levels)) and self.levels[-1] == self.depth - 1
            legal = f"block numbers like 0,2,4, rising, the last one {self.depth - 1} (model.depth - 1)"
            need(ok, "model.fuse", repr(self.fuse), legal)

    def _check_read(self) -> None:
        """Raise UsageError that names every setting which was changed and is not read."""
        # a method of none of these names is somebody's own, and reads what it likes
        if self.method not in METHOD_NAMES:
            return
        defaults = {f.name: f.default for f in fields(self)}
        unread = [
            name
            for name, readers in READ_BY.items()
            if self.method not in readers and getattr(self, name) != defaults[name]
        ]
        if unread:
            given = ", ".join(f"model.{name} = {getattr(self, name)!r}" for name in unread)
            left = ", ".join(repr(defaults[name]) for name in unread)
            them = "them" if len(unread) > 1 else "it"
            raise UsageError(f"{given}: must be left at {left}, as method {self.method} does not read {them}")

    @property
    def levels(self) -> list[int]:
        """Numbers of the blocks in `fuse`."""
        return [int(number) for number in self.fuse.split(",")]

    @property
    def depths(self) -> list[int]:
        """Blocks of the stages in `stages`."""
        return [int(number) for number in self.stages.split(",")]
