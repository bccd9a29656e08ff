"""Checkpoints that are whole or not listed.

Built under a temporary name, fsynced, renamed, then `latest` replaced.

ckpt/step-00012500/{model.safetensors, optimizer.safetensors, state.json, SHA256SUMS, COMPLETE} and
ckpt/latest (text). Nothing here is pickled, and loading runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from turbomim.pipeline.durable import sync_folder, write_durably
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.shards import file_sha256

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a checkpoint knows besides tensors.  `position` is the whole state of the data pipeline."""

    step: int
    # samples of the stream that the weights have seen
    position: int
    # fingerprint of the data set's manifest
    fingerprint: str
    # the resolved settings, as config.to_dict gives them
    config: dict[str, Any]
    versions: dict[str, str]


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as {'PARAMETER/KEY': tensor}, named by the model's parameters."""
    tensors: dict[str, Tensor] = {}
    for name, param in model.named_parameters():
        for key, value in optimizer.state.get(param, {}).items():
            tensors[f"{name}/{key}"] = value
    return tensors


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.  Raises UserError where a trainable parameter has no state."""
    params = dict(model.named_parameters())
    for name, param in params.items():
        if param.requires_grad and f"{name}/exp_avg" not in tensors:
            raise UserError(f"checkpoint's optimizer has no state for {name}: it belongs to another model")
    for full, value in tensors.items():
        name, key = full.rsplit("/", 1)
        # the step count of a fused optimizer lives on the parameter's device, as float32
        optimizer.state[params[name]][key] = value.to(params[name].device)


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, keep: int) -> Path:
    """Write a checkpoint under folder/step-XXXXXXXX, point `latest` at it, keep the newest `keep`.

    Raises UserError if the disk is full; the checkpoints before it stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".tmp-{final.name}"
    for left in folder.glob(".tmp-*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    if is_whole(final):
        return final
    weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    moments = {n: t.detach().cpu().contiguous() for n, t in optimizer_tensors(model, optimizer).items()}
    try:
        temporary.mkdir()
        save_file(weights, temporary / FILES[0])
        save_file(moments, temporary / FILES[1])
        (temporary / FILES[2]).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        sums = "".join(f"{file_sha256(temporary / name)}  {name}\n" for name in FILES)
        (temporary / "SHA256SUMS").write_text(sums, encoding="utf-8")
        (temporary / "COMPLETE").write_text("", encoding="utf-8")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if final.exists():
            # it is damaged, and its replacement is on the disk
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync_folder(folder)
        write_durably(folder / "latest", f"{final.name}\n".encode())
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors wraps the operating system's error in its own
        if isinstance(error, (OSError, SafetensorError)):
            free = shutil.disk_usage(folder).free
            size = sum(t.numel() * t.element_size() for t in (*weights.values(), *moments.values()))
            raise UserError(
                f"cannot write checkpoint {final}: {error}; it needs {size / 1e6:.0f} MB, {free / 1e6:.0f} "
                "MB are free; "
                "earlier checkpoints are intact: free some space and run the same command again"
            ) from error
        raise
    # a newer one was passed over as damaged when the run resumed below it
    older = [path for path in complete(folder) if path.name < final.name]
    newer = [path for path in complete(folder) if path.name > final.name]
    for path in (*older[keep - 1 :], *newer):
        shutil.rmtree(path)
    return final


def complete(folder: Path) -> list[Path]:
    """Checkpoints that were finished, newest first."""
    return sorted((p.parent for p in folder.glob("step-*/COMPLETE")), reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there and has its recorded checksum."""
    try:
        lines = (checkpoint / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        return set(sums) == set(FILES) and all(file_sha256(checkpoint / n) == d for n, d in sums.items())
    except (FileNotFoundError, ValueError):
        return False


def newest(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, or None where there is none, and the damaged ones passed over.

    Raises UserError if there are checkpoints and none of them is whole.
    """
    damaged: list[Path] = []
    for checkpoint in complete(folder):
        if is_whole(checkpoint):
            return checkpoint, damaged
        damaged.append(checkpoint)
    if damaged:
        names = ", ".join(path.name for path in damaged)
        raise UserError(
            f"no checkpoint in {folder} is whole ({names}): restore one, or remove them to start anew"
        )
    return None, []


def read_state(checkpoint: Path) -> State:
    """The state.json of a checkpoint."""
    try:
        return State(**json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint}/state.json cannot be read: {error}") from error


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Fill model and optimizer from a checkpoint.  Raises UserError if the parameters do not match."""
    try:
        model.load_state_dict(load_file(checkpoint / FILES[0]))
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"{checkpoint} does not fit this model: {first}") from error
    if optimizer is not None:
        restore_optimizer(model, optimizer, load_file(checkpoint / FILES[1]))
