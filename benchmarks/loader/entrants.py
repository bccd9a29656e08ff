"""Which loader takes part on which store, and its set made for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from turbomim.benchmarks.loader.job import PEERS, REFERENCE, Job, notes, peer_module
from turbomim.benchmarks.loader.sets import Sets
from turbomim.benchmarks.loader.table import Row
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.store import Kind

# who can read the sets of each store, by device
ENTRANTS: Final[dict[str, dict[Kind, tuple[str, ...]]]] = {
    "cpu": {
        "original": tuple(PEERS),
        "resized": (REFERENCE, "torchvision v2", "webdataset", "ffcv", "turbomim"),
        "raw": ("ffcv", "turbomim"),
    },
    "cuda": {
        "original": (REFERENCE, "torchvision v2", "DALI", "turbomim", "turbomim (CPU decode)"),
        "resized": ("turbomim", "turbomim (CPU decode)"),
        "raw": ("turbomim",),
    },
}

CPU_DECODE: Final = " (CPU decode)"

Choice = TypeVar("Choice", bound=str)

INSTALL: Final = "pip install 'turbomim[bench]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A row of the table, the module behind it, and what it is asked for."""

    row: Row
    module: str
    job: Job


def enter(sets: Sets, job: Job, stores: Sequence[Kind], names: Iterable[str]) -> list[Entrant]:
    """Every named loader on every store, its set made; the reference on the original bytes is the first.

    What is not installed, or cannot make its set, has a failure.
    """
    wanted = {REFERENCE, *names}
    return [
        _enter(sets, job, store, name)
        for store, entrants in ENTRANTS[job.device].items()
        if store in stores or store == "original"
        for name in entrants
        if name in wanted and (store in stores or name == REFERENCE)
    ]


def _enter(sets: Sets, job: Job, store: Kind, name: str) -> Entrant:
    plain = name.removesuffix(CPU_DECODE)
    module = PEERS[plain]
    row = Row(name=name, store=store, failure=missing(module))
    if not row.failure:
        row.note = notes(peer_module(module), store)
        say(f"{store}: the set of {name}")
        try:
            folder, row.conversion_s = sets.get(store, module)
            job = replace(job, folder=folder, decode="mixed" if plain == name else "cpu")
        except RuntimeError as error:
            row.failure = f"failed to convert: {error}"
    return Entrant(row=row, module=module, job=job)


def missing(module: str) -> str:
    """How to install what a peer needs, or an empty text."""
    peer = peer_module(module)
    package, _, _ = peer.PACKAGE.partition(".")
    if importlib.util.find_spec(package):
        return ""
    return f"not installed: {getattr(peer, 'INSTALL', INSTALL)}"


def names_on(device: str) -> tuple[str, ...]:
    """The loaders that take part on a device."""
    return tuple(dict.fromkeys(name for names in ENTRANTS[device].values() for name in names))


def chosen(flag: str, text: str, known: Sequence[Choice]) -> tuple[Choice, ...]:
    """The words of `text` in the order of `known`, all of those if it is empty.  Raises UserError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in words if word not in known]:
        raise UserError(f"{flag} has {unknown[0]!r}: choose among {', '.join(known)}")
    return tuple(word for word in known if word in words or not words)


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)
