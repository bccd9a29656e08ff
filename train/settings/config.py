"""The one tree of settings: frozen dataclasses and their checks.

Defaults < recipe < --config file < flags.  A value that cannot work is refused here, with the field, the
value and what would be legal.
"""

import math
import os
import re
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from turbomim.kernels.patch_target import highest_frequency
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.loader_settings import BadSampleLimits
from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import UsageError, need
from turbomim.pipeline.tars.store import Interpolation
from turbomim.train.settings.model import SIZED, ModelConfig
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.sizes import Stage, smaller_sizes, stages

# as a user names them; auto: cuda where there is one, bfloat16 where that is much faster
Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the samples come from and how they become a uint8 batch."""

    # folder of one split, made by `turbomim shard make`
    path: str = ""
    # optional second split whose masked-patch loss is watched; never trained on
    heldout: str = ""
    # side of the square training image, pixels
    size: int = 224
    # smaller images first: sides and their shares of the run's steps, like 16:0.4,24:0.3; data.size is of the
    # rest (mae and mff); empty = all steps
    sizes: str = ""
    # src: simple resized crop (PixMIM, MFF); rrc: random resized crop (MAE)
    crop: CropKind = "src"
    # bicubic: DeiT-III, MAE; bilinear: PixMIM's and MFF's released configurations
    interpolation: Interpolation = "bicubic"
    # share of the image's area that rrc keeps, from this to 1 (MAE 0.2, SimMIM 0.67)
    rrc_scale: float = 0.2
    # full: an epoch is a permutation of all samples; window: of shards, then of samples in windows of shards,
    # for storage that hates random reads
    shuffle: Literal["full", "window"] = "full"
    # shards of a window
    window: int = 16
    # streams that a step takes equal parts of, each over its own share of the shards: of as many machines
    # each reads one share alone, in every epoch
    groups: int = 1
    # folder of a local disk that keeps whole shards of a store of objects; what does not fit is read from the
    # store in every epoch.  Ranks of a machine share it, and so may runs
    cache: str = ""
    # what it may take, 1e9 bytes
    cache_gb: float = 0.0
    # decoding threads of a rank; 0 = automatic: tuned for this machine, else its cores shared by its ranks
    threads: int = 0
    # threads that read shards ahead of the decoder, each by 16 requests at a time in a store of objects; 0 =
    # automatic: tuned, else 2
    readers: int = 0
    # batches read ahead, and batches decoded ahead of the step; 0 = automatic: tuned, else 2
    prefetch: int = 0
    # where a GPU's photographs are decoded: cpu, or mixed (JPEG engine, CUDA cores); auto: tuned, else mixed
    decode: Literal["auto", "cpu", "mixed"] = "auto"
    # share of the photographs that the GPU's JPEG engine takes in mixed; -1 = automatic: tuned, else 0.65
    hw_decoder_load: float = -1.0
    # share of a rank's samples that may be replaced because they cannot be decoded
    max_bad_share: float = 0.05
    # samples in a row that are replaced before the run ends
    max_bad_row: int = 100

    def __post_init__(self) -> None:
        need(self.size >= 16, "data.size", self.size, "at least 16 pixels")
        smaller_sizes(self.sizes, self.size)
        need(self.window >= 1, "data.window", self.window, "at least 1 shard")
        need(self.groups >= 1, "data.groups", self.groups, "at least 1")
        need(self.cache_gb >= 0, "data.cache_gb", self.cache_gb, "0 (no cache) or more")
        if bool(self.cache) != (self.cache_gb > 0):
            raise UsageError(
                f"data.cache = {self.cache!r}, data.cache_gb = {self.cache_gb:g}: give both, a folder and "
                "the GB that it may take, or none"
            )
        check_local("data.cache", self.cache)
        need(self.threads >= 0, "data.threads", self.threads, "0 (automatic) or more")
        need(self.readers >= 0, "data.readers", self.readers, "0 (automatic) or more")
        need(self.prefetch >= 0, "data.prefetch", self.prefetch, "0 (automatic) or more")
        load = self.hw_decoder_load
        need(load == -1 or 0 <= load <= 1, "data.hw_decoder_load", load, "0 to 1, or -1 (automatic)")
        try:
            self.crop_settings()
            self.bad_sample_limits()
        except UsageError as error:
            raise UsageError(f"data.{error}") from None

    def crop_settings(self) -> Crop:
        """The crop of each sample."""
        return Crop(kind=self.crop, size=self.size, scale=self.rrc_scale, interpolation=self.interpolation)

    def stages(self, steps: int) -> list[Stage]:
        """Which steps of a run of so many have images of which side."""
        return stages(self.sizes, self.size, steps)

    def bad_sample_limits(self) -> BadSampleLimits:
        """How many samples may be replaced."""
        return BadSampleLimits(max_share=self.max_bad_share, max_row=self.max_bad_row)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """Where and how the step runs."""

    # auto: cuda where there is one
    device: Device = "auto"
    # of matrix products; auto: bfloat16 on a GPU that has it and on a CPU where it was measured to be much
    # faster, else float32.  Weights, moments and loss stay float32
    precision: Precision = "auto"
    # torch.compile the forward and backward; needs a C++ compiler on a CPU
    compile: bool = True
    # reduce-overhead: the compiled step as CUDA graphs, which helps small steps on a GPU; one micro-step
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    # keep only block inputs and compute the rest again in the backward pass: less memory, a third more work
    recompute: bool = False
    # split weights, gradients and moments over the ranks (FSDP2) instead of keeping all on each (DDP)
    shard: bool = False
    # how long a rank waits for the others before the run ends with the name of the missing one, seconds; a
    # rank 0 that works for all is waited for as long as it is alive
    rank_timeout: float = 600.0

    def __post_init__(self) -> None:
        need(self.rank_timeout >= 1, "step.rank_timeout", self.rank_timeout, "at least 1 second")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The run directory and how often things happen, in optimizer steps."""

    # runs/NAME
    name: str = "run"
    # recipe that the settings are laid over; a command or a file names it, no flag does
    recipe: str = ""
    # where runs are kept
    folder: str = "runs"
    # of weights, order, crops, flips and masks
    seed: int = 0
    # steps between log lines
    log_every: int = 20
    # steps between checkpoints
    save_every: int = 500
    # newest checkpoints kept; at least 2, so that a damaged one is never the only one
    keep: int = 2
    # write checkpoints beside the steps, from a copy in host memory
    save_in_background: bool = True
    # steps between looks at data.heldout; 0 = only at the end
    eval_every: int = 0
    # steps between reconstruction pictures of fixed photographs (held-out ones where there are any); 0 = none
    picture_every: int = 0
    # scalars and pictures for TensorBoard in the run folder's tb/; needs turbomim[tensorboard]
    tensorboard: bool = False
    # keep a second process out of the run directory; false where its file system has no locks
    lock: bool = True
    # folder or URL (s3://BUCKET/runs) that gets a copy of the run, as NAME in it, beside the steps; a machine
    # without the run folder resumes from there; empty = none
    mirror: str = ""
    # project at Weights & Biases that gets scalars and pictures; empty = none; needs turbomim[wandb]
    wandb: str = ""
    # experiment of MLflow that gets settings, scalars and pictures, where MLFLOW_TRACKING_URI says; empty =
    # none; needs turbomim[mlflow]
    mlflow: str = ""
    # project of Trackio that gets them, on this machine unless Trackio is told otherwise; empty = none; needs
    # turbomim[trackio]
    trackio: str = ""

    def __post_init__(self) -> None:
        legal = "letters, digits, '.', '_' and '-', beginning with none of the last three"
        need(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None, "run.name", self.name, legal)
        named = os.fsencode(self.folder)
        legal = "a name in UTF-8, as safetensors wants it"
        need(named == named.decode(errors="ignore").encode(), "run.folder", repr(self.folder), legal)
        check_local("run.folder", self.folder)
        check_seed("run.seed", self.seed)
        need(self.log_every >= 1, "run.log_every", self.log_every, "at least 1 step")
        need(self.save_every >= 1, "run.save_every", self.save_every, "at least 1 step")
        need(self.keep >= 2, "run.keep", self.keep, "at least 2")
        need(self.eval_every >= 0, "run.eval_every", self.eval_every, "0 (only at the end) or more steps")
        need(self.picture_every >= 0, "run.picture_every", self.picture_every, "0 (none) or more steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Neighbours and linear probe on the encoder's features while it trains (docs/embed.md)."""

    # passes over the data between scores, given at the next log line and at the end; 0 = none
    every_epochs: float = 0.0
    # labelled split that is learned from; data.path if empty
    train: str = ""
    # labelled split of the same classes that is scored; data.heldout if empty
    test: str = ""
    # samples of each, always the same ones
    samples: int = 2000
    # the linear probe, too: seconds for ten classes, minutes for a thousand
    probe: bool = True

    def __post_init__(self) -> None:
        need(self.every_epochs >= 0, "eval.every_epochs", self.every_epochs, "0 (none) or more")
        need(self.samples >= 20, "eval.samples", self.samples, "at least 20, the neighbours")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that decides a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    step: StepConfig = field(default_factory=StepConfig)
    run: RunConfig = field(default_factory=RunConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        size, patch = self.data.size, self.model.patch
        need(size % patch == 0, "data.size", size, f"a multiple of model.patch ({patch})")
        unit = self.model.mask_unit
        legal = f"a divisor of the image's {self.grid} patches a side"
        need(self.grid % unit == 0, "model.mask_unit", unit, legal)
        if self.model.method.startswith("simmim-swin"):
            merged = 2 ** (len(self.model.depths) - 1)
            legal = f"a multiple of {merged} patches, what the last stage merges into one a side"
            need(self.grid % merged == 0, "data.size", size, legal)
        units = self.patches // unit**2
        legal = f"a ratio that keeps 1 to {units - 1} of {units} mask units"
        need(0 < self.keep < self.patches, "model.mask_ratio", self.model.mask_ratio, legal)
        quarter = self.model.mask == "random" and 4 * self.keep == self.patches
        legal = f"false, unless a quarter of the {self.patches} patches is kept, at random"
        need(quarter or not self.model.complementary, "model.complementary", "true", legal)
        target, radius = self.model.target, self.model.radius
        if target == "gaussian":
            # four standard deviations, size / (2 pi radius) each, must fit into the mirrored image
            reach = math.ceil(4 * size / (2 * math.pi * radius))
            legal = (
                f"large enough for a blur of less than {size} pixels, {4 / (2 * math.pi) + 0.01:.2f} at least"
            )
            need(reach < size, "model.radius", radius, legal)
        need(target != "ideal" or radius >= 1, "model.radius", radius, "at least 1 cycle for an ideal disc")
        highest = highest_frequency(size, target)
        legal = (
            f"below {highest:.1f} cycles, the highest frequency of {size} pixels, from which on nothing is "
            "filtered: that is model.target raw"
        )
        need(target == "raw" or radius < highest, "model.radius", radius, legal)
        legal = (
            f"empty with method {self.model.method}: {' and '.join(SIZED)} alone see images of several sizes"
        )
        need(self.model.method in SIZED or not self.data.sizes, "data.sizes", repr(self.data.sizes), legal)
        try:
            self.smaller()
        except UsageError as error:
            raise UsageError(f"data.sizes = {self.data.sizes!r}: {error}") from None

    def smaller(self) -> list["Config"]:
        """The settings of the steps before those of full size, a Config a side of `data.sizes`.

        The low-pass keeps the same cycles of the whole picture, so that one filters nothing which keeps all
        that a small image has.
        """
        made = []
        for size, _ in smaller_sizes(self.data.sizes, self.data.size):
            small = self.model.radius >= highest_frequency(size, self.model.target)
            model = replace(self.model, target="raw") if small else self.model
            made.append(replace(self, data=replace(self.data, size=size, sizes=""), model=model))
        return made

    @property
    def grid(self) -> int:
        """Patches a side of one image."""
        return self.data.size // self.model.patch

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return self.grid**2

    @property
    def keep(self) -> int:
        """Patches kept visible: those of MAE's int(N * (1 - ratio)) of N mask units."""
        area = self.model.mask_unit**2
        return int(self.patches // area * (1 - self.model.mask_ratio)) * area


# the settings of a run, or a subclass's of them
AnyConfig = TypeVar("AnyConfig", bound=Config)
