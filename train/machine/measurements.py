"""Measurements of this machine: small JSON files in a cache folder, one entry a key."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UsageError, UserError, one_line
from turbomim.pipeline.system.remedies import explain
from turbomim.train.machine.home import home
from turbomim.train.machine.processor import cores, cpu_model

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# a frozen dataclass of numbers and words; one that cannot be raises ValueError or UsageError
SettingsT = TypeVar("SettingsT", bound="DataclassInstance")


def cache_folder() -> Path:
    """`$TURBOMIM_CACHE_DIR`, else turbomim's folder in the user's cache."""
    own = os.environ.get("TURBOMIM_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache", "turbomim")


def machine_name(device: torch.device) -> str:
    """What measurements hold for: processor, cores of this process and GPU."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return f"{cpu_model()}, {cores()} cores, {gpu}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementFile:
    """A file of the cache folder: its format's name, and an entry a machine (and what it was measured for).

    made_by: the command that makes a new one.
    """

    name: str
    format: str
    made_by: str

    @property
    def path(self) -> Path:
        """Where it is, whether or not it is there."""
        return cache_folder() / self.name

    def read(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, None if nothing was.  Raises UserError if the file is damaged."""
        entry = self._entries().get(key)
        if entry is not None and not isinstance(entry, dict):
            raise self.damaged(TypeError(f"entry {key!r} is no mapping"))
        return entry

    def write(self, key: str, entry: Mapping[str, Any]) -> Path:
        """Put JSON values in place of what was kept under a key.  Raises UserError if they cannot be."""
        tree = {"format": self.format, "machines": {**self._entries(), key: dict(entry)}}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {str(self.path.parent)!r}: "
                f"{explain(error, 'set TURBOMIM_CACHE_DIR to a folder of yours')}"
            ) from error
        write_json(self.path, tree)
        return self.path

    def damaged(self, error: Exception) -> UserError:
        """The error of a file, or an entry, that cannot be understood."""
        why = one_line(error)
        return UserError(f"{str(self.path)!r} is damaged ({why}): remove it; {self.made_by} makes a new one")

    def _entries(self) -> dict[str, Any]:
        try:
            tree = json.loads(self.path.read_text(encoding="utf-8"))
            if tree["format"] != self.format:
                raise ValueError(f"its format is not {self.format}")
            return dict(tree["machines"])
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(
                f"cannot read {str(self.path)!r}: "
                f"{explain(error, 'set TURBOMIM_CACHE_DIR to a folder of yours')}"
            ) from error
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.damaged(error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned(Generic[SettingsT]):
    """Settings that were found fastest on this machine, by one process that has it to itself."""

    settings: SettingsT
    img_per_s: float
    date: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedFile(Generic[SettingsT]):
    """A file of what `turbomim tune …` found.  kind: the class of its settings."""

    file: MeasurementFile
    kind: type[SettingsT]

    def read(self, key: str) -> Tuned[SettingsT] | None:
        """What was found for a key, None if nothing was.  Raises UserError if the file is damaged."""
        entry = self.file.read(key)
        if entry is None:
            return None
        try:
            settings = self.kind(**{f.name: entry[f.name] for f in fields(self.kind)})
            return Tuned(settings=settings, img_per_s=float(entry["img_per_s"]), date=str(entry["date"]))
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise self.file.damaged(error) from error

    def write(self, key: str, tuned: Tuned[SettingsT], facts: Mapping[str, Any]) -> Path:
        """Put what was found in place of what was kept under a key; return the file.

        facts: JSON values for whoever reads the file.  Raises UserError if it cannot be written.
        """
        own = {**asdict(tuned.settings), "img_per_s": tuned.img_per_s, "date": tuned.date}
        return self.file.write(key, own | dict(facts))
