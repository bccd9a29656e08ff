"""Checkpoints that are whole or not listed.

Built under a temporary name, fsynced, renamed, then `latest` replaced.

ckpt/step-00012500/{model.safetensors, optimizer.safetensors, state.json, SHA256SUMS, COMPLETE} and
ckpt/latest (text).  Whole tensors whatever the number of ranks, so any other number can go on from them.
With `optim.ema` model.safetensors has the average, which is what a run is for, and optimizer.safetensors the
weights that training goes on with, as NAME/trained.
Nothing here is pickled, and loading runs no code.
"""

import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from turbomim.pipeline.system.durable import sync, sync_folder, write_durably
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.system.remedies import reason, remedy
from turbomim.pipeline.system.safetensors_file import save_tensors
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.pipeline.system.words import sized
from turbomim.train.models.sharding import host_copies, own_rows, placed_rows
from turbomim.train.optim.average import Average
from turbomim.train.optim.state import STEP, kept_names, optimizer_tensors, restore_optimizer

# the end of the names of weights that training goes on with, where the run's are their average
TRAINED = "trained"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
# bytes; a whole one has some kilobytes
MOST_STATE = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a checkpoint knows besides tensors.  `position` is the whole state of the data pipeline."""

    step: int
    # samples of the stream that the run has come through
    position: int
    # fingerprint of the data set's manifest
    fingerprint: str
    # the resolved settings, as `to_dict` of train/settings/dictionary.py gives them
    config: dict[str, Any]
    versions: dict[str, str]
    # step of the checkpoint to roll back to; 0 = the weights at the start
    good: int = 0
    # step of the last good one before the decay of the schedule wsd, which a prolonged run goes on from
    stable: int = 0
    # times that the run has rolled back
    rollbacks: int = 0
    # since the last log line: steps, sum of the losses that counted, steps skipped, samples replaced
    window_steps: int = 0
    window_loss: float = 0.0
    window_skipped: int = 0
    window_replaced: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A checkpoint in host memory: nothing that the next step changes."""

    state: State
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(t.numel() * t.element_size() for t in (*self.weights.values(), *self.moments.values()))


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    *,
    keep: bool = True,
    average: Average | None = None,
) -> Snapshot:
    """Copy everything to host memory.  Every rank calls it; those without `keep` get no tensors."""
    averages = average.tensors if average else {}
    trained = {f"{name}/{TRAINED}": tensor for name, tensor in average.trained.items()} if average else {}
    return Snapshot(
        state=state,
        weights=host_copies(model.state_dict() | averages, keep=keep),
        moments=host_copies(optimizer_tensors(model, optimizer) | trained, keep=keep),
    )


def write(folder: Path, snapshot: Snapshot, keep: int, spare: Collection[str] = ()) -> Path:
    """Write folder/step-XXXXXXXX, point `latest` at it, and remove older ones.

    The newest `keep` stay, the one to roll back to, and the one that a longer run would go on from.
    spare: names of others that stay, for a reader.  Raises UserError if the disk is full; the checkpoints
    before it stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / step_name(snapshot.state.step)
    temporary = folder / f".tmp-{final.name}"
    for left in folder.glob(".tmp-*"):
        remove(left)
    if is_whole(final):
        return final
    try:
        temporary.mkdir()
        for name, tensors in zip(FILES[:2], (snapshot.weights, snapshot.moments), strict=True):
            save_tensors(temporary / name, tensors)
        (temporary / FILES[2]).write_text(json.dumps(asdict(snapshot.state), indent=1), encoding="utf-8")
        sums = "".join(f"{file_sha256(temporary / name)}  {name}\n" for name in FILES)
        (temporary / "SHA256SUMS").write_text(sums, encoding="utf-8")
        (temporary / "COMPLETE").write_text("", encoding="utf-8")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                sync(file.fileno())
        sync_folder(temporary)
        if final.exists():
            # it is damaged, and its replacement is on the disk
            remove(final)
        os.rename(temporary, final)
        sync_folder(folder)
        write_durably(folder / "latest", f"{final.name}\n".encode())
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            free = shutil.disk_usage(folder).free
            raise UserError(
                f"cannot write checkpoint {final}: {reason(error)}; it needs {sized(snapshot.bytes)}, "
                f"{sized(free)} are free; {remedy(error, 'check the permissions')}; "
                "earlier checkpoints are intact: then run the same command again"
            ) from error
        raise
    # a newer one was passed over as damaged when the run resumed below it
    older = [path for path in complete(folder) if path.name < final.name]
    newer = [path for path in complete(folder) if path.name > final.name]
    for path in (*older[keep - 1 :], *newer):
        if path.name not in (*needed(snapshot.state), *spare):
            remove(path)
    return final


def needed(state: State) -> list[str]:
    """Names of the checkpoints that one may need, to roll back to and to be prolonged from."""
    return [step_name(step) for step in (state.good, state.stable or state.good)]


def step_name(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def remove(path: Path) -> None:
    """Remove a checkpoint, or what stands in its place; what a link points at is not ours."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def complete(folder: Path) -> list[Path]:
    """Checkpoints that were finished, newest first."""
    return sorted((p.parent for p in folder.glob("step-*/COMPLETE")), reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there, is a plain file and no link, and has its recorded checksum."""
    try:
        modes = [(checkpoint / name).lstat().st_mode for name in (*FILES, "SHA256SUMS", "COMPLETE")]
        if checkpoint.is_symlink() or not all(map(stat.S_ISREG, modes)):
            return False
        lines = (checkpoint / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        return set(sums) == set(FILES) and all(file_sha256(checkpoint / n) == d for n, d in sums.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def newest(folder: Path, wanted: Callable[[Path], bool] = lambda _: True) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint that is wanted, or None without one, and the damaged ones passed over.

    Raises UserError if there are damaged ones, and none that is whole and wanted.
    """
    damaged: list[Path] = []
    for checkpoint in complete(folder):
        if not is_whole(checkpoint):
            damaged.append(checkpoint)
        elif wanted(checkpoint):
            return checkpoint, damaged
    if damaged:
        names = ", ".join(path.name for path in damaged)
        raise UserError(
            f"no checkpoint in {folder} is whole ({names}): restore one, or remove them to start anew"
        )
    return None, []


def at_step(folder: Path, step: int) -> Path:
    """The checkpoint of a step.  Raises UserError if it is not there or not whole."""
    checkpoint = folder / step_name(step)
    if not is_whole(checkpoint):
        raise UserError(
            f"{checkpoint} is needed to roll back to and is not whole: restore it, or start a new run"
        )
    return checkpoint


def weights_digest(folder: Path, step: int) -> str:
    """The recorded SHA-256 of the weights of a step's checkpoint, which is whole."""
    lines = (folder / step_name(step) / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return next(digest for digest, name in (line.split("  ", 1) for line in lines) if name == FILES[0])


def read_state(checkpoint: Path) -> State:
    """The state.json of a checkpoint.  Raises UserError if it is not what `write` writes."""
    path = checkpoint / "state.json"
    try:
        if path.stat().st_size > MOST_STATE:
            raise ValueError(f"it has more than {MOST_STATE:,} bytes")
        state = State(**json.loads(path.read_text(encoding="utf-8")))
        for name, value in asdict(state).items():
            kind = {"fingerprint": str, "config": dict, "versions": dict, "window_loss": float}.get(name, int)
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
                raise ValueError(f"{name} = {str(value)[:40]!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {str(value)[:40]!r}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error
    return state


def load(
    checkpoint: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: Average | None = None,
) -> None:
    """Fill model and optimizer from a checkpoint, whatever ranks they are split over.

    A model alone gets the weights that the run is for; with its optimizer, and the average if the run has
    one, those that training goes on with.  An average that the checkpoint has not begins with them.
    Of what is split, each rank reads its own rows alone.
    Raises UserError if a file is damaged, the parameters do not match, or a number read is not finite.
    """
    weights = _read_tensors(checkpoint / FILES[0], model.state_dict())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = one_line(error, 300)
        raise UserError(f"{checkpoint} does not fit this model: {first}") from error
    if optimizer is not None:
        keys, trained = kept_names(optimizer), average.trained if average else {}
        moments = {
            f"{name}/{key}": param
            for name, param in model.named_parameters()
            for key in keys.get(param, ())
            if key != STEP
        }
        own = {f"{name}/{TRAINED}": tensor for name, tensor in trained.items()}
        tensors = _read_tensors(checkpoint / FILES[1], moments | own)
        ours = {name: tensors.pop(f"{name}/{TRAINED}") for name in trained if f"{name}/{TRAINED}" in tensors}
        restore_optimizer(model, optimizer, tensors)
        if average:
            # what the model has now
            average.begin()
            average.go_on_with(ours)


def shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a checkpoint's weights, by name.  Raises UserError for a damaged file."""
    path = checkpoint / FILES[0]
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error


def _read_tensors(path: Path, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by name; one that `ours` has split over ranks is split as that is."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensors[name] = _read(file, name, ours.get(name))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error
    for name, tensor in tensors.items():
        part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not bool(part.isfinite().all()):
            raise UserError(
                f"{path}: {name!r} holds numbers that are not finite: no run writes that; do not use it"
            )
    return tensors


def _read(file: Any, name: str, own: Tensor | None) -> Tensor:
    """All of a tensor of a safetensors file, or this rank's rows of one that is split over the ranks."""
    stored = file.get_slice(name)
    if isinstance(own, DTensor) and stored.get_shape() == list(own.shape):
        rows = own_rows(own)
        return placed_rows(stored[rows.start : rows.stop], own)
    tensor: Tensor = file.get_tensor(name)
    return tensor
