"""The options of `turbomim bench`; a file that imports no torch, so that --help need not wait for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbomim.train.settings.config import Device, Precision


@dataclass(frozen=True, kw_only=True)
class BenchLoader:
    """Compare the loader with every other one that is installed, on your own photographs."""

    images: Path
    """Folder of JPEG photographs, with or without subfolders."""
    work: Path = Path("runs/bench-loader")
    """Where every loader's copy of them is kept for the next run."""
    out: Path | None = None
    """Folder for results.jsonl and table.md; WORK if not given."""
    plot: Path | None = None
    """PNG file for a bar plot."""
    peers: str = ""
    """Names, with commas between them; all if not given.  PIL + DataLoader is always there."""
    stores: str = "original,resized,raw"
    """Which of the workloads."""
    count: int = 0
    """Photographs, the first by name; 0: all."""
    reencode: str | None = None
    """Encode the photographs anew first, QUALITY:SUBSAMPLING; 96:4:4:4 is like ImageNet."""
    resized: str = "90:4:2:0"
    """Encoding of the resized store."""
    size: int = 224
    """Side of the crops, pixels."""
    batch: int = 64
    """Images a batch."""
    rounds: int = 3
    """Measurements of each loader, each in a fresh process."""
    seconds: float = 10.0
    """The least length of a measurement."""
    min_images: int = 2000
    """The least images of a measurement."""
    cores: int = len(os.sched_getaffinity(0))
    """CPU cores that everything is pinned to."""
    workers: int = 0
    """Processes or threads of every loader; 0: the best known for each."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the batches are wanted."""


@dataclass(frozen=True, kw_only=True)
class BenchStore:
    """Compare reading from a bucket with reading from a folder, on a server of this machine."""

    images: Path | None = None
    """Folder of JPEG photographs; some that packages ship are cut if not given."""
    work: Path = Path("runs/bench-store")
    """Where the sets are kept for the next run, and the server while it runs."""
    out: Path | None = None
    """Folder for store.jsonl and store.md; WORK if not given."""
    readers: str = ""
    """Names, with commas between them; all if not given.  Ours in a folder is always there."""
    count: int = 4096
    """Photographs, the first by name."""
    resized: str = "94:4:2:0"
    """Encoding of the photographs, QUALITY:SUBSAMPLING, once resized."""
    size: int = 224
    """Side of the crops, pixels."""
    batch: int = 64
    """Images a batch."""
    rounds: int = 3
    """Measurements of each reader, each in a fresh process."""
    train_images: int = 2048
    """Images of each training run; 0: none."""
    cores: int = len(os.sched_getaffinity(0))
    """CPU cores that everything is pinned to."""


@dataclass(frozen=True, kw_only=True)
class BenchKernels:
    """Time masks, patches, targets and the loss, ours and others, at 224 pixels with patches of 16.

    Prints a JSON line a form as it is measured, and all as a table at the end.
    """

    batch: int = 0
    """Images; 256 on a GPU and 64 on a CPU if not given."""
    rounds: int = 15
    """Times that every form is measured, one after the other."""
    static: bool = False
    """Print what the kernels take of A100, H100 and B200 instead: compiled and counted, no GPU needed."""
    markdown: bool = False
    """With --static: tables in markdown."""


@dataclass(frozen=True, kw_only=True)
class BenchStep:
    """Time the training step alone, beside a textbook MAE and Hugging Face's."""

    # Names, with commas between them: vit-tiny, vit-small, vit-base, vit-large, vit-huge, vit-t4; if not
    # given, base to huge on a GPU and the first two on a CPU.
    models: str = ""
    # Names, with commas between them: textbook, textbook compiled, Hugging Face, Hugging Face compiled,
    # turbomim; all five if not given, and turbomim in float32 where a CPU computes in bfloat16.  Others:
    # turbomim with PixMIM, turbomim with max-autotune, turbomim with CUDA graphs.  The textbook is always
    # there.
    forms: str = ""
    batch: int = 0
    """Images a step; 256 on a GPU and 16 on a CPU if not given."""
    size: int = 224
    """Side of the images, pixels."""
    decoder_width: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Heads of the decoder."""
    rounds: int = 5
    """Times that every form is measured, one after the other."""
    seconds: float = 1.0
    """About the length of a measurement."""
    device: Device = "auto"
    """Where the steps run."""
    precision: Precision = "auto"
    """Of the matrix products; auto: as a run has it, bfloat16 where that is much faster."""
    out: Path | None = None
    """File for the JSON lines too; it is added to."""


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Time training on shards, beside the same step on a batch that is in memory."""

    data: str
    """Split to train on, made by `turbomim shard make`."""
    recipe: str = ""
    """Recipe whose model and crops are used; MAE, ViT-B/16 on a GPU and ViT-Tiny on a CPU, if not given."""
    batch: int = 0
    """Images a step; 256 on a GPU and 16 on a CPU if not given."""
    rounds: int = 5
    """Times that both are measured, one after the other."""
    steps: int = 8
    """Steps of a measurement."""
    device: Device = "auto"
    """Where the steps run."""
    out: Path | None = None
    """File for the JSON lines too; it is added to."""
