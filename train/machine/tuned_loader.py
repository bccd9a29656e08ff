"""Loader settings that are automatic: what was measured on this machine, else defaults.

`turbomim tune loader` writes them into loader.json, one entry a machine, and every start reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from turbomim.train.machine.kept import KeptFile
from turbomim.train.machine.processor import cores, cpu_model
from turbomim.train.settings.config import DataConfig

if TYPE_CHECKING:
    from turbomim.pipeline.decoding.dali import Backend

_KEPT = KeptFile(name="loader.json", format="turbomim-loader-1", made_by="`turbomim tune loader`")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSettings:
    """How fast a Loader is, never what it gives; the names are those of its arguments."""

    threads: int
    readers: int = 2
    prefetch: int = 2
    decode: Backend = "mixed"
    hw_decoder_load: float = 0.65

    def __post_init__(self) -> None:
        counts = (self.threads, self.readers, self.prefetch)
        share = self.hw_decoder_load
        if (
            any(type(count) is not int or count < 1 for count in counts)
            or self.decode not in ("cpu", "mixed")
            or not 0 <= share <= 1
        ):
            raise ValueError(f"no settings of a loader: {asdict(self)}")

    def decodes_on(self, device: str) -> bool:
        """Whether a device, cpu or cuda, decodes photographs itself."""
        return device == "cuda" and self.decode == "mixed"

    def text(self, device: str) -> str:
        """As people read it; what only a GPU uses is left out on a CPU."""
        names = [f.name for f in fields(self)][: 3 if device == "cpu" else None]
        return ", ".join(f"{name} {getattr(self, name)}" for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What `turbomim tune loader` found; threads are those of one process with the machine to itself."""

    settings: LoaderSettings
    img_per_s: float
    date: str


def default_settings() -> LoaderSettings:
    """What a process with this machine to itself uses when nothing was measured."""
    return LoaderSettings(threads=cores())


def rank_settings(data: DataConfig, tuned: Tuned | None, local_size: int) -> LoaderSettings:
    """The settings of one rank of `local_size` on this machine: as set, else as tuned, else the defaults."""
    base = tuned.settings if tuned else default_settings()
    return LoaderSettings(
        threads=data.threads or max(1, base.threads // local_size),
        readers=data.readers or base.readers,
        prefetch=data.prefetch or base.prefetch,
        decode=base.decode if data.decode == "auto" else data.decode,
        hw_decoder_load=base.hw_decoder_load if data.hw_decoder_load < 0 else data.hw_decoder_load,
    )


def origin(tuned: Tuned | None) -> str:
    """Where automatic settings come from, in words."""
    if tuned is None:
        return "automatic ones are defaults: `turbomim tune loader --data PATH` measures what is fastest here"
    return f"automatic ones were tuned on this machine on {tuned.date}, see {tuned_file()}"


def machine_name(device: torch.device) -> str:
    """What measurements hold for: processor, cores of this process and GPU."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return f"{cpu_model()}, {cores()} cores, {gpu}"


def tuned_file() -> Path:
    """Where loader.json is: `kept.cache_folder`."""
    return _KEPT.path


def read_tuned(machine: str) -> Tuned | None:
    """What was measured on a machine, None if nothing was.  Raises UserError if the file is damaged."""
    entry = _KEPT.read(machine)
    if entry is None:
        return None
    try:
        settings = LoaderSettings(**{f.name: entry[f.name] for f in fields(LoaderSettings)})
        return Tuned(settings=settings, img_per_s=float(entry["img_per_s"]), date=str(entry["date"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _KEPT.damaged(error) from error


def write_tuned(machine: str, tuned: Tuned, facts: Mapping[str, Any]) -> Path:
    """Put what was measured on a machine in place of its last measurement.

    facts: JSON values for whoever reads the file.  Raises UserError if it cannot be written.
    """
    own = {**asdict(tuned.settings), "img_per_s": tuned.img_per_s, "date": tuned.date}
    return _KEPT.write(machine, own | dict(facts))
