"""What every method here shares: masks from the sample's random words, patches and targets from one kernel.

A method is a class that says how it encodes, decodes and compares; whatever is masked can be injected.

Shapes: B batch, N patches, K kept, M masked, D encoder width, P values of a patch.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from turbomim.kernels.masked_patches import masked_patches, targets_of_whole_images
from turbomim.kernels.masking import block_masking, complementary_masks, patches_of_units, random_masking
from turbomim.kernels.patch_target import PatchTarget
from turbomim.train.models.drop_path import Again
from turbomim.train.models.initial import Draw, drawn_by_torch, initialise
from turbomim.train.models.vit import use_kernels
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.settings.model import ModelConfig


def patch_target(model: ModelConfig) -> PatchTarget:
    """What these settings predict, in the units that images are normalised to."""
    return PatchTarget(
        patch=model.patch,
        kind=model.target,
        radius=model.radius,
        norm_pix=model.norm_pix,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Smaller:
    """Images of fewer patches than those of full size: `data.sizes`.

    grid: patches a side; keep: patches that stay; target: what is predicted; first_row: of the positions of
    its patches, which follow those of the full grid and of smaller images.
    """

    grid: int
    keep: int
    target: PatchTarget
    first_row: int


def smaller_images(config: Config) -> dict[int, Smaller]:
    """What `data.sizes` has of smaller images, by patches a side."""
    found: dict[int, Smaller] = {}
    row = config.patches
    for each in config.smaller():
        found[each.grid] = Smaller(
            grid=each.grid, keep=each.keep, target=patch_target(each.model), first_row=row
        )
        row += each.patches
    return found


class Masked(nn.Module):
    """Images in, masked-patch loss out.

    One method per step of the papers; a method overrides those it changes.
    """

    # class tokens before the patch tokens
    prefix = 1
    # names of the parameters that only pre-training needs
    decoder_names: tuple[str, ...] = ("mask_token", "decoder_")

    def __init__(self, config: Config, *, initial: bool = True) -> None:
        """Make the model; initial: draw its initial weights, which one that is loaded next does not need."""
        super().__init__()
        model = config.model
        self.patch, self.patches, self.grid = model.patch, config.patches, config.grid
        self.mask, self.mask_unit, self.keep = model.mask, model.mask_unit, config.keep
        self.complementary = model.complementary
        # what is predicted; and of whole images, their pixels before and after its filter
        self.target = patch_target(model)
        self.smaller = smaller_images(config)
        self.target_pixels = replace(self.target, norm_pix=False)
        self.raw_pixels = replace(self.target_pixels, kind="raw")
        self.seed, self.recompute = config.run.seed, config.step.recompute
        self.make_encoder(config)
        self.make_decoder(config)
        use_kernels(self)
        draws = self.initial_weights()
        left_out = [name for name in drawn_by_torch(self) if name not in draws]
        assert not left_out, f"torch's generator drew {left_out}: initial_weights must name them"
        if initial:
            initialise(self, draws, self.seed)

    def make_encoder(self, config: Config) -> None:
        """Add the encoder's parameters, named as in timm."""
        raise NotImplementedError

    def make_decoder(self, config: Config) -> None:
        """Add the decoder's parameters."""
        raise NotImplementedError

    def initial_weights(self) -> dict[str, Draw]:
        """What draws each parameter, by name; left out are those that are made with constants."""
        raise NotImplementedError

    def random_masking(
        self, epochs_B: Tensor, ids_B: Tensor, small: Smaller | None = None
    ) -> tuple[Tensor, Tensor]:
        """Patch numbers to keep (B, K) and to remove (B, M), int64, drawn from (seed, epoch, sample id).

        small: of images of fewer patches; None: of those of full size.
        """
        grid, keep = (small.grid, small.keep) if small else (self.grid, self.keep)
        if self.mask == "block":
            return block_masking(self.seed, epochs_B, ids_B, grid, keep)
        unit = self.mask_unit
        if unit == 1:
            return random_masking(self.seed, epochs_B, ids_B, grid**2, keep)
        units = random_masking(self.seed, epochs_B, ids_B, grid**2 // unit**2, keep // unit**2)
        ids_keep_BK, ids_mask_BM = (patches_of_units(ids, grid, unit) for ids in units)
        return ids_keep_BK, ids_mask_BM

    def patchify(
        self, images_BHWC: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Normalised visible patches (B, K, P) and the targets of the masked patches (B, M, P).

        Both in autocast's type, float32 without.
        """
        kind = "cuda" if images_BHWC.is_cuda else "cpu"
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        small = self._smaller(images_BHWC)
        target = small.target if small else self.target
        return masked_patches(images_BHWC, ids_keep_BK, ids_mask_BM, target, dtype=dtype, target_dtype=dtype)

    def forward_encoder(self, visible_BKP: Tensor, ids_keep_BK: Tensor) -> Tensor:
        """Latent tokens (B, prefix + K, D), after the final norm."""
        raise NotImplementedError

    def forward_decoder(self, latent_BTD: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
        """Predicted patches at ids_mask (B, M, P)."""
        raise NotImplementedError

    def forward_loss(self, pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
        """Mean over masked patches, () float32."""
        raise NotImplementedError

    def encode_whole(self, patches_BNP: Tensor, every_BN: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) of every patch of images, `whole_patches` or others like them."""
        raise NotImplementedError

    def features(self, images_BHWC: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) of whole images as the trained encoder gives them, nothing masked."""
        return self.encode_whole(*self.whole_patches(images_BHWC))

    def whole_patches(self, images_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Every patch of whole images (B, N, P) and their numbers (B, N), in order.

        float32, normalised by channel but not by their own statistics.
        """
        return targets_of_whole_images(images_BHWC, self.raw_pixels)

    def logged(self) -> dict[str, Tensor]:
        """Numbers of the method's own for the log, () each, read at log lines alone; every rank calls it."""
        return {}

    def _smaller(self, images_BHWC: Tensor) -> Smaller | None:
        """What these images are if they have fewer patches than those of full size."""
        return self.smaller.get(images_BHWC.shape[1] // self.patch) if self.smaller else None

    def _through(self, block: Callable[..., Tensor], *inputs: Tensor | int) -> Tensor:
        """The block's output; with `recompute` only its inputs are kept for the backward pass."""
        if not self.recompute:
            return block(*inputs)
        # a compiled graph keeps what its drop paths drew; else it is forgotten before the backward pass
        kept = None if torch.compiler.is_compiling() else Again(block)
        context: dict[str, Any] = {"context_fn": lambda: (nullcontext(), kept)} if kept else {}
        # no block draws random numbers, so there is no generator to put back
        out: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, **context)
        return out

    def forward(
        self,
        images_BHWC: Tensor,
        epochs_B: Tensor,
        ids_B: Tensor,
        ids_keep_BK: Tensor | None = None,
        ids_mask_BM: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch.  A mask given as ids_keep and ids_mask replaces the drawn one."""
        small = self._smaller(images_BHWC)
        if ids_keep_BK is None or ids_mask_BM is None:
            # a method may have masks of its own, of full size alone
            sized = (small,) if small else ()
            ids_keep_BK, ids_mask_BM = self.random_masking(epochs_B, ids_B, *sized)
        if self.complementary:
            ids_keep_BK, ids_mask_BM = complementary_masks(ids_keep_BK, ids_mask_BM)
            images_BHWC = images_BHWC.repeat(4, 1, 1, 1)
        visible_BKP, target_BMP = self.patchify(images_BHWC, ids_keep_BK, ids_mask_BM)
        if small:
            # from here on they tell positions
            ids_keep_BK, ids_mask_BM = ids_keep_BK + small.first_row, ids_mask_BM + small.first_row
        latent_BTD = self.forward_encoder(visible_BKP, ids_keep_BK)
        return self.forward_loss(self.forward_decoder(latent_BTD, ids_keep_BK, ids_mask_BM), target_BMP)
