"""`turbomim show`: what a run's model makes of masked photographs.

Shapes: B batch, N patches, K kept, M masked, P values of a patch, L its pixels, C channels.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from turbomim.kernels.masked_patches import targets_of_whole_images
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UsageError, UserError, to_stderr
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.manifest import Manifest
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.features import load_run
from turbomim.train.folder.crashes import read_deadly_samples
from turbomim.train.folder.rundir import recipe_of
from turbomim.train.loop.data import check_store, open_loader
from turbomim.train.models.mae import MAE
from turbomim.train.models.window_target import window_statistics
from turbomim.train.pictures.grid import Row, write_grid
from turbomim.train.pictures.pixels import FloatArray, denormalise, unpatchify
from turbomim.train.recipes.title import run_title
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

HEADERS = ("photograph", "masked input", "reconstruction", "from visible patches only", "target")
# photographs looked through for different classes
CANDIDATES = 64
# photographs drawn again and again while a run trains
FIXED = 6
GREY = 0.5


def draw_reconstructions(
    run: Path, *, data: str | None = None, images: int = 6, out: Path | None = None
) -> Path:
    """Draw reconstructions by the newest whole checkpoint of a run and return the picture's path.

    Raises UserError where there is no run, no whole checkpoint or no data.
    """
    if not 1 <= images <= CANDIDATES:
        raise UsageError(f"--images {images}: must be 1 to {CANDIDATES}")
    if out is not None and (out.suffix.lower() != ".png" or out.is_dir()):
        raise UsageError(f"--out {out}: must be a file whose name ends in .png")
    config, model, step = load_run(run)
    path = data or config.data.heldout or config.data.path
    if not is_remote(path) and not Path(path).is_dir():
        raise UserError(f"{path}, the data of {run}, is not a folder seen from here: give --data FOLDER")
    split = open_split(path)
    check_store(config.data, split, "--data", "cpu")
    if images > split.manifest.samples:
        raise UsageError(f"--images {images}: {path} has only {counted(split.manifest.samples, 'sample')}")
    batch = pick_samples(split, config, images, Journal(folder=run, rank=0, bad=read_deadly_samples(run)))
    out = out or picture_path(run, step)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = explain_pictures(config, split.manifest, recipe_of(run))
    write_grid(reconstruct(model, batch, config), out, caption=text, headers=HEADERS)
    return out


def picture_path(run: Path, step: int) -> Path:
    """Where a run's picture of a step is."""
    return run / "images" / f"reconstruction-{step:08d}.png"


class FixedPictures:
    """The same photographs behind the same masks, drawn again while the model learns.  Changes no number.

    Raises UserError if the split cannot be read.
    """

    def __init__(self, config: Config, split: Split, folder: Path, journal: Journal) -> None:
        self._config, self._folder = config, folder
        self._batch = pick_samples(split, config, min(FIXED, split.manifest.samples), journal)
        self._data = split.manifest

    def draw(self, model: MAE, step: int) -> Path:
        """Write what the model makes of them after `step` and return the picture's path."""
        out = picture_path(self._folder, step)
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = reconstruct(model, self._batch, self._config)
        # env.json, which tells the recipe, is there once training began
        text = explain_pictures(self._config, self._data, recipe_of(self._folder))
        write_grid(rows, out, caption=f"Step {step}. {text}", headers=HEADERS)
        return out


def explain_pictures(config: Config, data: Manifest, recipe: str) -> str:
    """What the picture shows, and which statistics turned normalised patches into pixels.

    recipe: the one that began the run, empty where it is not known.
    """
    model = config.model
    text = (
        f"{run_title(config, recipe)}. Split {data.name}-{data.split}. {config.patches - config.keep} of "
        f"{config.patches} patches of {model.patch} pixels are masked. "
    )
    if model.norm_window:
        side = model.norm_window
        what, truth = f"pixels normalised by mean and variance of the {side} x {side} around each", "window"
    elif model.norm_pix:
        what, truth = "patches normalised by their own mean and variance", "patch"
    else:
        return text + "Predictions are pixels: both reconstructions are the same."
    return text + (
        f"The model predicts {what}. Third column: shown with the true {truth}'s mean and variance, as is "
        "usual, though they are behind the mask. Fourth column: with mean and variance interpolated from "
        "visible patches, so nothing is borrowed."
    )


def pick_samples(split: Split, config: Config, images: int, journal: Journal | None = None) -> Batch:
    """A batch of `images` samples at the run's size: different classes first, in stream order."""
    count = min(CANDIDATES, split.manifest.samples)
    with open_loader(
        config,
        split,
        BatchCut(global_batch=count, micro_batch=count),
        LoaderSpeed(threads=2, readers=1, prefetch=1),
        device="cpu",
        journal=journal,
        notify=to_stderr,
    ) as loader:
        batch = next(loader)
    labels = batch.labels_B.tolist()
    order = sorted(range(count), key=lambda n: (labels[:n].count(labels[n]), n))[:images]
    chosen = torch.tensor(order)
    return dataclasses.replace(
        batch,
        images_BHWC=batch.images_BHWC[chosen],
        labels_B=batch.labels_B[chosen],
        ids_B=batch.ids_B[chosen],
        epochs_B=batch.epochs_B[chosen],
    )


@torch.no_grad()
def reconstruct(model: MAE, batch: Batch, config: Config) -> list[Row]:
    """One row of pictures a sample, in the order of HEADERS.  The model stays where and as it is."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    images_BHWC = batch.images_BHWC.to(device)
    keep_BK, mask_BM = model.random_masking(batch.epochs_B.to(device), batch.ids_B.to(device))
    visible_BKP, _ = model.patchify(images_BHWC, keep_BK, mask_BM)
    pred_BMP = model.forward_decoder(model.forward_encoder(visible_BKP, keep_BK), keep_BK, mask_BM).cpu()
    model.train(training)
    raw_BNP, target_BNP = (
        targets_of_whole_images(images_BHWC, target)[0].cpu()
        for target in (model.raw_pixels, model.target_pixels)
    )
    keep_BK, mask_BM = keep_BK.cpu(), mask_BM.cpu()
    window = config.model.norm_window
    # (B, N, P) or (B, N, 1)
    mean, var = patch_statistics(target_BNP)
    if window:
        mean, var = window_statistics(target_BNP, config.grid, config.model.patch, window)
    rows = []
    for n in range(len(keep_BK)):
        keep_K, mask_M = keep_BK[n], mask_BM[n]
        true = fill_masked(raw_BNP[n], pred_BMP[n], mask_M, mean[n, mask_M], var[n, mask_M], config)
        near_MK = neighbour_weights(mask_M, keep_K, config.grid)
        near = near_windows if window else near_patches
        own = fill_masked(raw_BNP[n], pred_BMP[n], mask_M, *near(target_BNP[n, keep_K], near_MK), config)
        grey_NP = raw_BNP[n].clone()
        grey_NP[mask_M] = channels(torch.full((1, raw_BNP.shape[-1]), GREY), to_pixels=False)
        pictures = (raw_BNP[n], grey_NP, true, own, target_BNP[n])
        rows.append(Row(pictures=tuple(to_picture(p_NP, config.model.patch) for p_NP in pictures)))
    return rows


def patch_statistics(patches_NP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each patch's values (…, N, 1)."""
    return patches_NP.mean(-1, keepdim=True), patches_NP.var(-1, keepdim=True)


def near_patches(seen_KP: Tensor, near_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (M, 1) of masked patches, as visible ones near them tell."""
    mean_K1, var_K1 = patch_statistics(seen_KP)
    return near_MK @ mean_K1, near_MK @ var_K1


def near_windows(seen_KP: Tensor, near_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (M, P) of each channel around masked patches, as visible patches near them tell.

    The second moment is interpolated, not the variance: in a patch that is smaller than a window's.
    """
    cells_KLC = seen_KP.view(len(seen_KP), -1, 3)
    mean_MC, square_MC = near_MK @ cells_KLC.mean(1), near_MK @ cells_KLC.square().mean(1)
    pixels = seen_KP.shape[1] // 3
    return mean_MC.repeat(1, pixels), (square_MC - mean_MC.square()).clamp(min=0).repeat(1, pixels)


def fill_masked(
    raw_NP: Tensor, pred_MP: Tensor, mask_M: Tensor, mean: Tensor, var: Tensor, config: Config
) -> Tensor:
    """The visible patches as they are, the masked ones as predicted (N, P); mean and var (M, 1) or (M, P)."""
    filled_NP = raw_NP.clone()
    if config.model.norm_pix or config.model.norm_window:
        pred_MP = torch.from_numpy(denormalise(pred_MP.numpy(), mean.numpy(), var.numpy()))
    filled_NP[mask_M] = pred_MP
    return filled_NP


def neighbour_weights(mask_M: Tensor, keep_K: Tensor, side: int) -> Tensor:
    """Rows of inverse-distance weights (M, K), summing to 1.

    From visible patches to masked ones on a side x side grid.
    """
    at_M2 = torch.stack([mask_M // side, mask_M % side], 1).float()
    at_K2 = torch.stack([keep_K // side, keep_K % side], 1).float()
    near_MK = torch.cdist(at_M2, at_K2) ** -3
    return near_MK / near_MK.sum(1, keepdim=True)


def channels(patches_NP: Tensor, *, to_pixels: bool) -> Tensor:
    """Patches between channel-normalised units and 0..1 pixels."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    cells = patches_NP.reshape(*patches_NP.shape[:-1], -1, 3)
    return (cells * std + mean if to_pixels else (cells - mean) / std).reshape(patches_NP.shape)


def to_picture(patches_NP: Tensor, patch: int) -> FloatArray:
    """Picture (H, W, 3) float 0..1 of channel-normalised patches."""
    return unpatchify(channels(patches_NP, to_pixels=True).clamp(0, 1).numpy(), patch)
