"""The one tree of settings.

Frozen dataclasses, their checks, and their way to and from plain dictionaries (YAML).

Defaults < recipe < --config file < flags.  A value that cannot work is refused here, with the field, the
value and what would be legal.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from turbomim.pipeline.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MAES, _SWINS = ("mae", "mff", "convmae"), ("simmim-swin", "simmim-swinv2")
METHOD_NAMES = (*_MAES, "simmim", *_SWINS)
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
}


def _need(ok: bool, name: str, value: object, legal: str) -> None:
    if not ok:
        raise UsageError(f"{name} = {value}: must be {legal}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the samples come from and how they become a uint8 batch."""

    # folder of one split, made by `turbomim shard make`
    path: str = ""
    # optional second split whose masked-patch loss is watched; never trained on
    heldout: str = ""
    # side of the square training image, pixels
    size: int = 224
    # src: simple resized crop (PixMIM, MFF); rrc: random resized crop (MAE)
    crop: Literal["src", "rrc"] = "src"
    # bicubic: DeiT-III, MAE; bilinear: PixMIM's and MFF's released configurations
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    # share of the image's area that rrc keeps, from this to 1 (MAE 0.2, SimMIM 0.67)
    rrc_scale: float = 0.2
    # full: an epoch is a permutation of all samples; window: of shards, then of samples in windows of shards,
    # for storage that hates random reads
    shuffle: Literal["full", "window"] = "full"
    # shards of a window
    window: int = 16
    # decoding threads of a rank; 0 = automatic: tuned for this machine, else its cores shared by its ranks
    threads: int = 0
    # threads that read shards ahead of the decoder; 0 = automatic: tuned, else 2
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
        _need(self.size >= 16, "data.size", self.size, "at least 16 pixels")
        _need(0 < self.rrc_scale <= 1, "data.rrc_scale", self.rrc_scale, "above 0 and at most 1")
        _need(self.window >= 1, "data.window", self.window, "at least 1 shard")
        _need(self.threads >= 0, "data.threads", self.threads, "0 (automatic) or more")
        _need(self.readers >= 0, "data.readers", self.readers, "0 (automatic) or more")
        _need(self.prefetch >= 0, "data.prefetch", self.prefetch, "0 (automatic) or more")
        load = self.hw_decoder_load
        _need(load == -1 or 0 <= load <= 1, "data.hw_decoder_load", load, "0 to 1, or -1 (automatic)")
        _need(0 <= self.max_bad_share <= 1, "data.max_bad_share", self.max_bad_share, "0 to 1")
        _need(self.max_bad_row >= 1, "data.max_bad_row", self.max_bad_row, "at least 1")


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
    # share of samples that the last block's branches are left out for, rising to it from 0 at the first block
    # (simmim methods; SimMIM's ViT and SwinV2 0.1)
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        defaults = {f.name: f.default for f in fields(self)}
        for name, readers in READ_BY.items():
            value, default = getattr(self, name), defaults[name]
            legal = f"left at {default!r}, as method {self.method} does not read it"
            # a method of none of these names is somebody's own, and reads what it likes
            read = self.method in readers or self.method not in METHOD_NAMES
            _need(read or value == default, f"model.{name}", repr(value), legal)
        _need(4 <= self.patch <= 32, "model.patch", self.patch, "4 to 32 pixels")
        _need(self.depth >= 1, "model.depth", self.depth, "at least 1")
        _need(self.decoder_depth >= 1, "model.decoder_depth", self.decoder_depth, "at least 1")
        for name, width, heads in (
            ("model.width", self.width, self.heads),
            ("model.decoder_width", self.decoder_width, self.decoder_heads),
        ):
            _need(heads >= 1, name.replace("width", "heads"), heads, "at least 1")
            _need(width % (4 * heads) == 0, name, width, f"a multiple of 4 x its {heads} heads")
        legal = "16 pixels for convmae, whose three stages shrink by 4, 2 and 2"
        _need(self.method != "convmae" or self.patch == 16, "model.patch", self.patch, legal)
        for name, text in (("model.conv_widths", self.conv_widths), ("model.conv_depths", self.conv_depths)):
            ok = re.fullmatch(r"[1-9]\d{0,4},[1-9]\d{0,4}", text) is not None
            _need(ok, name, repr(text), "two whole numbers above 0 with a comma between, stage 1 first")
        _need(0 < self.mask_ratio < 1, "model.mask_ratio", self.mask_ratio, "between 0 and 1")
        _need(self.mask_unit >= 1, "model.mask_unit", self.mask_unit, "at least 1 patch")
        legal = "1 with model.mask block, whose rectangles are made of patches"
        _need(self.mask == "random" or self.mask_unit == 1, "model.mask_unit", self.mask_unit, legal)
        _need(self.radius > 0, "model.radius", self.radius, "above 0 cycles per image")
        side = self.norm_window
        legal = "0 (off) or an odd number from 3 on, with model.norm_pix false"
        odd = side >= 3 and side % 2 == 1 and not self.norm_pix
        _need(side == 0 or odd, "model.norm_window", side, legal)
        _need(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "0 to below 1")
        ok = re.fullmatch(r"[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*", self.stages) is not None
        _need(ok, "model.stages", repr(self.stages), "blocks of each stage like 2,2,18,2")
        _need(self.window >= 1, "model.window", self.window, "at least 1 token")
        if self.method == "mff":
            ok = re.fullmatch(r"[0-9]+(,[0-9]+)*", self.fuse) is not None
            ok = ok and self.levels == sorted(set(self.levels)) and self.levels[-1] == self.depth - 1
            legal = f"block numbers like 0,2,4, rising, the last one {self.depth - 1} (model.depth - 1)"
            _need(ok, "model.fuse", repr(self.fuse), legal)

    @property
    def levels(self) -> list[int]:
        """Numbers of the blocks in `fuse`."""
        return [int(number) for number in self.fuse.split(",")]

    @property
    def depths(self) -> list[int]:
        """Blocks of the stages in `stages`."""
        return [int(number) for number in self.stages.split(",")]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with the paper's groups and its schedule."""

    # passes over the data
    epochs: float = 800
    # passes with a rising lr
    warmup_epochs: float = 40
    # lr reached after warm-up = base_lr * global_batch / lr_batch
    base_lr: float = 1.5e-4
    # samples of the step that base_lr is for (MAE 256, SimMIM 512)
    lr_batch: int = 256
    # cosine: falls to min_lr; step: a tenth from lr_drop_epochs on (SimMIM's 800 epochs)
    schedule: Literal["cosine", "step"] = "cosine"
    # lr at the end of the cosine
    min_lr: float = 0.0
    # passes before the step schedule's drop, warm-up counted (SimMIM 700)
    lr_drop_epochs: float = 0.0
    # share of the full rate at which warm-up starts (MAE 0, PixMIM 1e-4 or 1e-9)
    warmup_start: float = 0.0
    # not applied to vectors and biases
    weight_decay: float = 0.05
    # AdamW's decay of the mean of gradients
    beta1: float = 0.9
    # AdamW's decay of the mean of squared gradients
    beta2: float = 0.95
    # AdamW's addition to the denominator
    eps: float = 1e-8
    # decay cls_token and mask_token too (MAE does, mmselfsup does not)
    decay_tokens: bool = True
    # gradients of a greater norm are scaled down to it (SimMIM 5); 0 = none are
    clip_grad: float = 0.0
    # do as SimMIM's code does where it means otherwise: the cosine counts from the first step, warm-up too, a
    # step has the rate of the one before, and position tables (a ViT's mask token too) decay
    published_slips: bool = False
    # samples of one optimizer step, over all ranks
    global_batch: int = 4096
    # samples of one forward and backward on one rank; 0 = global_batch / ranks
    micro_batch: int = 0
    # steps in a row, up to a log line, with a loss or gradient that is not finite, before the weights go back
    # to the last good checkpoint and the data since then is passed over
    max_skipped: int = 10

    def __post_init__(self) -> None:
        _need(self.epochs > 0, "optim.epochs", self.epochs, "above 0")
        _need(
            0 <= self.warmup_epochs <= self.epochs,
            "optim.warmup_epochs",
            self.warmup_epochs,
            f"0 to optim.epochs ({self.epochs:g})",
        )
        _need(self.base_lr > 0, "optim.base_lr", self.base_lr, "above 0")
        _need(0 <= self.warmup_start <= 1, "optim.warmup_start", self.warmup_start, "0 to 1")
        _need(self.lr_batch >= 1, "optim.lr_batch", self.lr_batch, "at least 1 sample")
        _need(self.min_lr >= 0, "optim.min_lr", self.min_lr, "0 or more")
        drop = self.lr_drop_epochs
        legal = f"above optim.warmup_epochs ({self.warmup_epochs:g}) with optim.schedule step"
        _need(self.schedule == "cosine" or drop > self.warmup_epochs, "optim.lr_drop_epochs", drop, legal)
        _need(self.clip_grad >= 0, "optim.clip_grad", self.clip_grad, "0 (off) or more")
        _need(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        _need(0 <= self.beta1 < 1, "optim.beta1", self.beta1, "0 to below 1")
        _need(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "0 to below 1")
        _need(self.eps > 0, "optim.eps", self.eps, "above 0")
        _need(self.global_batch >= 1, "optim.global_batch", self.global_batch, "at least 1")
        _need(self.micro_batch >= 0, "optim.micro_batch", self.micro_batch, "0 (automatic) or more")
        _need(self.max_skipped >= 1, "optim.max_skipped", self.max_skipped, "at least 1 step")

    @property
    def lr(self) -> float:
        """Rate after warm-up."""
        return self.base_lr * self.global_batch / self.lr_batch


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """Where and how the step runs."""

    # auto: cuda where there is one
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bfloat16 on a GPU that has it, else float32; the weights stay float32
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # torch.compile the forward and backward; needs a C++ compiler on a CPU
    compile: bool = True
    # reduce-overhead: the compiled step as CUDA graphs, which helps small steps on a GPU
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    # keep only block inputs and compute the rest again in the backward pass: less memory, a third more work
    recompute: bool = False
    # split weights, gradients and moments over the ranks (FSDP2) instead of keeping all on each (DDP)
    shard: bool = False
    # how long a rank waits for the others before the run ends with the name of the missing one, seconds
    rank_timeout: float = 600.0

    def __post_init__(self) -> None:
        _need(self.rank_timeout >= 1, "step.rank_timeout", self.rank_timeout, "at least 1 second")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The run directory and how often things happen, in optimizer steps."""

    # runs/NAME
    name: str = "run"
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
    # project at Weights & Biases that gets scalars and pictures; empty = none; needs turbomim[wandb]
    wandb: str = ""

    def __post_init__(self) -> None:
        legal = "letters, digits, '.', '_' and '-', beginning with none of the last three"
        _need(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None, "run.name", self.name, legal
        )
        _need(0 <= self.seed < 2**63, "run.seed", self.seed, "0 to 2^63 - 1")
        _need(self.log_every >= 1, "run.log_every", self.log_every, "at least 1 step")
        _need(self.save_every >= 1, "run.save_every", self.save_every, "at least 1 step")
        _need(self.keep >= 2, "run.keep", self.keep, "at least 2")
        _need(self.eval_every >= 0, "run.eval_every", self.eval_every, "0 (only at the end) or more steps")
        _need(self.picture_every >= 0, "run.picture_every", self.picture_every, "0 (none) or more steps")


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
        _need(self.every_epochs >= 0, "eval.every_epochs", self.every_epochs, "0 (none) or more")
        _need(self.samples >= 20, "eval.samples", self.samples, "at least 20, the neighbours")


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
        _need(size % patch == 0, "data.size", size, f"a multiple of model.patch ({patch})")
        unit = self.model.mask_unit
        legal = f"a divisor of the image's {self.grid} patches a side"
        _need(self.grid % unit == 0, "model.mask_unit", unit, legal)
        if self.model.method.startswith("simmim-swin"):
            merged = 2 ** (len(self.model.depths) - 1)
            legal = f"a multiple of {merged} patches, what the last stage merges into one a side"
            _need(self.grid % merged == 0, "data.size", size, legal)
        units = self.patches // unit**2
        legal = f"a ratio that keeps 1 to {units - 1} of {units} mask units"
        _need(0 < self.keep < self.patches, "model.mask_ratio", self.model.mask_ratio, legal)
        quarter = self.model.mask == "random" and 4 * self.keep == self.patches
        legal = f"false, unless a quarter of the {self.patches} patches is kept, at random"
        _need(quarter or not self.model.complementary, "model.complementary", "true", legal)
        target, radius = self.model.target, self.model.radius
        if target == "gaussian":
            # four standard deviations, size / (2 pi radius) each, must fit into the mirrored image
            reach = math.ceil(4 * size / (2 * math.pi * radius))
            legal = (
                f"large enough for a blur of less than {size} pixels, {4 / (2 * math.pi) + 0.01:.2f} at least"
            )
            _need(reach < size, "model.radius", radius, legal)
        _need(
            target != "ideal" or radius >= 1, "model.radius", radius, "at least 1 cycle for the ideal target"
        )

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


C = TypeVar("C", bound=Config)


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Plain nested dictionary: what config.yaml and checkpoints hold."""
    return dataclasses.asdict(config)


def unknown(what: str, name: str, known: typing.Iterable[str]) -> UsageError:
    """The error for an unknown name, `WHAT 'NAME': did you mean …`, with the nearest known ones."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5) or [k for k in known if k[:3] == name[:3]]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"{what} {name!r}: {hint}")


def from_dict(values: object, base: C, where: str) -> C:
    """`base` with the values of a nested dictionary laid over it.

    Raises UsageError for an unknown section or key, or a value of another type; `where` names the file.
    """
    if not isinstance(values, dict):
        raise UsageError(
            f"{where}: must be sections of key: value ({', '.join(f.name for f in fields(base))})"
        )
    sections = {f.name: getattr(base, f.name) for f in fields(base)}
    for name, section in values.items():
        if name not in sections:
            raise unknown(f"{where}: unknown section", str(name), sections)
        if not isinstance(section, dict):
            raise UsageError(f"{where}: section {name} must hold key: value lines, not {section!r}")
        if name == "model":
            section = _with_encoder(section)
        types = typing.get_type_hints(type(sections[name]))
        typed = {}
        for key, value in section.items():
            if key not in types:
                raise unknown(f"{where}: unknown key", f"{name}.{key}", [f"{name}.{k}" for k in types])
            typed[key] = _typed(f"{where}: {name}.{key}", value, types[key])
        sections[name] = dataclasses.replace(sections[name], **typed)
    return type(base)(**sections)


def _with_encoder(section: dict[str, Any]) -> dict[str, Any]:
    """A model section with the sizes of the timm encoder that it names, if any; sizes in the section win."""
    encoder = section.get("encoder")
    if not isinstance(encoder, str) or not encoder or {"patch", "width", "depth", "heads"} <= section.keys():
        return section
    # timm takes seconds to import, and few settings need it
    from turbomim.train.models.timm_sizes import encoder_sizes

    return {**encoder_sizes(encoder), **section}


def _typed(name: str, value: object, kind: Any) -> object:
    """The value as `kind` (int, float, str, bool or a Literal of strings).

    Flags bring every value as text.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        _need(value in choices, name, value, f"one of {', '.join(choices)}")
        return value
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = kind(str(value))
        except ValueError:
            number = math.nan
        _need(math.isfinite(number), name, value, "a whole number" if kind is int else "a number")
        return number
    _need(type(value) is kind, name, repr(value), "true or false" if kind is bool else "text")
    return value


def differences(one: Config, other: Config) -> list[str]:
    """Settings that decide the numbers of a run and differ: 'section.key: one -> other'."""
    free = {
        "data.path", "data.heldout", "data.threads", "data.readers", "data.prefetch", "data.decode",
        "data.hw_decoder_load", "data.max_bad_share", "data.max_bad_row", "model.encoder",
        "optim.micro_batch",
        "step.device", "step.compile", "step.compile_mode", "step.precision", "step.recompute", "step.shard",
        "step.rank_timeout",
        "run.name", "run.folder", "run.log_every", "run.save_every", "run.keep", "run.eval_every",
        "run.save_in_background", "run.picture_every", "run.tensorboard", "run.wandb",
        "eval.every_epochs", "eval.train", "eval.test", "eval.samples", "eval.probe",
    }  # fmt: skip
    if one.data.shuffle == other.data.shuffle == "full":
        free.add("data.window")
    a, b = to_dict(one), to_dict(other)
    return [
        f"{section}.{key}: {a[section][key]} -> {b[section][key]}"
        for section in a
        for key in a[section]
        if f"{section}.{key}" not in free and a[section][key] != b[section][key]
    ]
