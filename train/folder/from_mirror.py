"""What a new start takes from a run's mirror (mirror.py): the newest whole checkpoint and its log.

Only one that is newer than all on the disk is taken.
A checkpoint comes under a temporary name, is hashed, and gets its own name last, after the log: a start that
is killed before that finds all as it was, and does it again.
"""

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from turbomim.pipeline.places.download import download
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.durable import check_space, sync_folder, write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError, explain, reason
from turbomim.pipeline.system.words import sized
from turbomim.train.folder import checkpoint
from turbomim.train.folder.copied import OF_CHECKPOINT, is_copied, whole_in
from turbomim.train.folder.mirror import Mirror


def take_from_mirror(mirror: Mirror, folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Connect a mirror, and bring what is newer there into the run folder; lines for the log, but those told.

    A mirror that is down holds up no run that has a checkpoint on the disk.  Raises UserError: the mirror
    refuses, or is down and nobody knows what it has; it holds another run; none there or here is whole.
    """
    place = mirror.place
    try:
        files = mirror.connect()
    except OSError as error:
        return [_going_on_without(mirror, folder, error)]
    try:
        return _take(place, files, folder, tell)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {explain(error, 'run the same command again')}") from error


def newer_in_mirror(mirror: Mirror, folder: Path) -> str:
    """The checkpoint that `take_from_mirror` would try first, empty for none.  It writes nothing.

    Raises UserError as that does, but for what only the whole files show.
    """
    try:
        mirror.check_same()
        theirs = whole_in(mirror.place.files())
    except FileNotFoundError:
        # it is made when it is taken
        return ""
    except OSError as error:
        _going_on_without(mirror, folder, error)
        return ""
    return theirs[0] if theirs and theirs[0] > _ours(folder) else ""


def _ours(folder: Path) -> str:
    """The newest whole checkpoint on the disk, empty for none."""
    return next((path.name for path in checkpoint.complete(folder / "ckpt") if checkpoint.is_whole(path)), "")


def _going_on_without(mirror: Mirror, folder: Path, error: OSError) -> str:
    """The line on a mirror that is down, for a run that has a checkpoint.  Raises UserError for any other."""
    passing = isinstance(error, PlaceError) and error.passing
    if passing and checkpoint.complete(folder / "ckpt"):
        mirror.was_down(reason(error))
        return f"mirror {mirror.place}: {reason(error)}; the run goes on from the disk, and tries it again"
    helps = "check --run.mirror, or start without it" if passing else "check --run.mirror"
    hint = "; without it nobody knows what this run has there" if passing else ""
    raise UserError(f"the mirror {mirror.place} cannot be used: {explain(error, helps)}{hint}") from error


def _take(place: Place, files: Mapping[str, Status], folder: Path, tell: Callable[[str], None]) -> list[str]:
    ckpt, theirs, notes = folder / "ckpt", whole_in(files), list[str]()
    ours = _ours(folder)
    for name in theirs:
        if name <= ours:
            return notes
        tell(f"{ckpt / name} comes from the mirror {place} ({sized(_size(files, name))})")
        if (found := _fetch(place, files, name, ckpt)) is None:
            notes.append(f"{place.at(f'ckpt/{name}')} is damaged and was passed over")
            continue
        for other in dict.fromkeys(checkpoint.needed(checkpoint.read_state(found))):
            wanted = other != name and other in theirs and not checkpoint.is_whole(ckpt / other)
            # who needs it asks then whether it is there
            if wanted and (fetched := _fetch(place, files, other, ckpt)) is not None:
                _settle(fetched)
        _fetch_files(place, files, folder)
        final = _settle(found)
        write_durably(ckpt / "latest", f"{final.name}\n".encode())
        return notes
    if theirs and not ours:
        raise UserError(
            f"no checkpoint in {place} is whole ({', '.join(theirs)}): restore one, or remove them to start "
            "anew"
        )
    if not (folder / "config.yaml").exists():
        _fetch_files(place, files, folder)
    return notes


def bring_checkpoint(place: Place, path: Path) -> None:
    """Bring one checkpoint that is whole in a mirror to its path on this machine.  Raises UserError."""
    name = f"ckpt/{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(place, place.files(name), path.name, path.parent)
    except OSError as error:
        raise UserError(f"{place.at(name)} cannot be read: {explain(error, 'try again')}") from error
    if found is None:
        raise UserError(f"{place.at(name)} is damaged: run the same command again")
    _settle(found)


def _size(files: Mapping[str, Status], name: str) -> int:
    return sum(files[f"ckpt/{name}/{file}"].bytes for file in OF_CHECKPOINT)


def _fetch(place: Place, files: Mapping[str, Status], name: str, ckpt: Path) -> Path | None:
    """Bring a checkpoint under a temporary name, which is what is left of it; None if it is damaged."""
    check_space(ckpt, _size(files, name))
    temporary = ckpt / f".tmp-{name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in OF_CHECKPOINT:
        _bring(place, f"ckpt/{name}/{file}", files, temporary / file)
    if checkpoint.is_whole(temporary):
        return temporary
    shutil.rmtree(temporary)
    return None


def _settle(temporary: Path) -> Path:
    """Give a checkpoint its own name; what is damaged goes."""
    final = temporary.with_name(temporary.name.removeprefix(".tmp-"))
    sync_folder(temporary)
    if os.path.lexists(final):
        checkpoint.remove(final)
    os.rename(temporary, final)
    sync_folder(final.parent)
    return final


def _fetch_files(place: Place, files: Mapping[str, Status], folder: Path) -> None:
    """Bring all but the checkpoints and exports, which the end of a run makes anew."""
    for name in files:
        if is_copied(name) and not name.startswith("export/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _bring(place, name, files, folder / name)


def _bring(place: Place, name: str, files: Mapping[str, Status], path: Path) -> None:
    """Copy a file to the disk."""
    found = files[name]
    download(place, name, path, size=found.bytes, version=found.version, halt=threading.Event())
