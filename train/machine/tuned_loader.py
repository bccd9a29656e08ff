"""The speed of a loader where it is automatic: what was measured on this machine, else defaults.

`turbomim tune loader` writes them into loader.json, one entry a machine, and every start reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.machine.kept import KeptFile
from turbomim.train.machine.processor import cores, cpu_model
from turbomim.train.settings.config import DataConfig

_KEPT = KeptFile(name="loader.json", format="turbomim-loader-1", made_by="`turbomim tune loader`")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What `turbomim tune loader` found; threads are those of one process with the machine to itself."""

    speed: LoaderSpeed
    img_per_s: float
    date: str


def default_speed() -> LoaderSpeed:
    """What a process with this machine to itself uses when nothing was measured."""
    return LoaderSpeed(threads=cores())


def rank_speed(data: DataConfig, tuned: Tuned | None, local_size: int) -> LoaderSpeed:
    """The speed of one rank of `local_size` on this machine.  Each of its settings is the first there is of:

    1. the flag's, where it is not automatic;
    2. what was tuned here, threads shared by the ranks;
    3. the default, threads shared likewise.
    """
    base = tuned.speed if tuned else default_speed()
    return LoaderSpeed(
        threads=data.threads or max(1, base.threads // local_size),
        readers=data.readers or base.readers,
        prefetch=data.prefetch or base.prefetch,
        decode=base.decode if data.decode == "auto" else data.decode,
        hw_decoder_load=base.hw_decoder_load if data.hw_decoder_load < 0 else data.hw_decoder_load,
    )


def speed_source(tuned: Tuned | None) -> str:
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
        speed = LoaderSpeed(**{f.name: entry[f.name] for f in fields(LoaderSpeed)})
        return Tuned(speed=speed, img_per_s=float(entry["img_per_s"]), date=str(entry["date"]))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise _KEPT.damaged(error) from error


def write_tuned(machine: str, tuned: Tuned, facts: Mapping[str, Any]) -> Path:
    """Put what was measured on a machine in place of its last measurement.

    facts: JSON values for whoever reads the file.  Raises UserError if it cannot be written.
    """
    own = {**asdict(tuned.speed), "img_per_s": tuned.img_per_s, "date": tuned.date}
    return _KEPT.write(machine, own | dict(facts))
