"""What every loader of the comparison is asked for, and what its file in peers/ offers.

Shape suffixes: B samples, H W pixels, C channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, cast

from torch import Tensor

from turbomim.pipeline.loader_settings import Backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Endless batches of uint8 crops out of one set of photographs.

    folder: the set, in the format that the loader reads.  train: shuffled, random windows, random flips;
    otherwise, to check the output, in storage order, centre windows, no flips.  size: side of the crops and
    of what reflects, see `Peer`.  cores: CPU cores in use.  workers: processes or threads; 0 for the best
    found.  decode: where a loader with device "cuda" decodes, if it has the choice.
    """

    folder: Path
    cores: int
    batch: int = 64
    size: int = 224
    train: bool = True
    workers: int = 0
    device: str = "cpu"
    decode: Backend = "mixed"

    def to_json(self) -> dict[str, Any]:
        """The fields, for another process."""
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Job:
        """The inverse of `to_json`."""
        return cls(**fields | {"folder": Path(fields["folder"])})


def worker_options(job: Job) -> dict[str, Any]:
    """What torch's DataLoader, and those built on it, are told of their worker processes."""
    return {
        "num_workers": (job.workers or job.cores) if job.train else 1,
        "prefetch_factor": 4,
        "persistent_workers": True,
        # what Linux had before Python 3.14: a closure of the crop cannot be pickled
        "multiprocessing_context": "fork",
    }


class Peer(Protocol):
    """A module in peers/.

    The work: short side to `size`, bicubic with antialias; 4 pixels of reflection around; a random window of
    size x size; a flip with probability 0.5.  What a peer does otherwise stands in its NOTES.
    """

    # import name of the library, and the set it reads: "files", "shards" or, if it has `convert`, its own
    PACKAGE: str
    READS: str

    def batches(self, job: Job) -> Iterator[Tensor]:
        """Endless uint8 tensors, (B, H, W, C) or (B, C, H, W)."""
        ...


# what may differ from the work above, by the store that a peer reads
Notes = dict[str, str]

# the table's names of the peers, and their modules
PEERS: Final = {
    "PIL + DataLoader": "pil_files",
    "torchvision v2": "torchvision_io",
    "webdataset": "webdataset_tars",
    "DALI": "dali_tars",
    "LitData": "litdata_chunks",
    "MosaicML Streaming": "streaming_mds",
    "SPDL (FFmpeg)": "spdl_ffmpeg",
    "SPDL (torchvision)": "spdl_torchvision",
    "ffcv": "ffcv_beton",
    "turbomim": "turbomim_shards",
}

REFERENCE: Final = "PIL + DataLoader"


def peer_module(name: str) -> ModuleType:
    """The module of a peer, by its file's name; its library is not imported yet."""
    return importlib.import_module(f"turbomim.benchmarks.loader.peers.{name}")


def notes(module: ModuleType, store: str) -> str:
    """How the peer's work on a store differs from the others', or an empty text."""
    return cast(Notes, getattr(module, "NOTES", {})).get(store, "")


def endless(count: int, train: bool) -> Iterator[int]:
    """Indices of `count` samples for ever, without a pause between epochs, which `train` shuffles."""
    import torch

    while True:
        yield from torch.randperm(count).tolist() if train else range(count)


def sorted_files(folder: Path) -> Sequence[Path]:
    """The photographs of a "files" set; number i is sample i of every other set."""
    return sorted(folder.iterdir())
