"""A run of `make_shards` that is not at its end: `.making` in the folder of the split, and how it resumes.

It holds the plan, the finished shards, and a journal: a line for each shard that is durable with its index.
At the end everything is renamed into place, manifest.json last, and `.making` goes.  A run killed at any time
is picked up where the journal ends.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from turbomim.pipeline.making.shard_job import ShardResult
from turbomim.pipeline.system.durable import sync, sync_folder, write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.folder_lock import LOCK, folder_lock
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.listings import BadImage
from turbomim.pipeline.tars.manifest import MAKING, Shard

PLAN = "plan.json"
JOURNAL = "journal.jsonl"
PUBLISHING = "publishing"


@contextmanager
def making(folder: Path, *, lock: bool = True) -> Iterator[Path]:
    """Yield the locked `.making` of `folder`, new or left by an earlier run, and remove it at the end.

    After an error it stays if any shard in it is finished; else `folder` is left as it was found.
    """
    existed = folder.exists()
    work = folder / MAKING
    other, without = "choose another folder", "--lock false"
    with folder_lock(work, what=folder, other=other, without=without, wanted=lock):
        try:
            yield work
        except BaseException:
            if not any(result.shard for result in read_journal(work).values()):
                _remove(work)
                if not existed:
                    with suppress(OSError):
                        folder.rmdir()
            raise
        _remove(work)


def agree_on_plan(work: Path, plan: dict[str, Any]) -> None:
    """Record the plan of a new run; raise UserError if an earlier run had another."""
    path = work / PLAN
    plan = json.loads(json.dumps(plan))
    if not path.exists():
        others = sorted(file.name for file in work.parent.iterdir() if file != work)
        if others:
            raise UserError(
                f"{str(work.parent)!r} exists and is not empty: empty it, or choose another folder"
            )
        # of a run that ended while it removed what it had
        (work / JOURNAL).unlink(missing_ok=True)
        write_durably(path, json.dumps(plan).encode())
        return
    other = difference(json.loads(path.read_bytes()), plan)
    if other:
        raise UserError(
            f"{str(work.parent)!r} holds an unfinished run with {other}: give what it was given, or remove "
            "the folder to start again"
        )


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in what the first plan differs from the second; "" for nothing."""
    for key in new:
        if old.get(key) != new[key]:
            words = key.replace("_", " ")
            if key.endswith("sha256"):
                return f"another {words.removesuffix(' sha256')}"
            return f"another {words} ({old.get(key)!r}, now {new[key]!r})"
    return ""


def read_journal(work: Path) -> dict[int, ShardResult]:
    """Read the result of each finished job by its number; a last line cut short by a kill is left out."""
    try:
        lines = (work / JOURNAL).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return {}
    results = (_result_of(json.loads(line)) for line in lines)
    return {result.number: result for result in results}


@contextmanager
def open_journal(work: Path, kept: dict[int, ShardResult]) -> Iterator[BinaryIO]:
    """Open the journal for `record`, with the results to keep in it already."""
    write_durably(work / JOURNAL, b"".join(_line_of(result) for result in kept.values()))
    with open(work / JOURNAL, "ab") as journal:
        yield journal


def record(journal: BinaryIO, result: ShardResult) -> None:
    """Append the result of a job whose files are durable, durably.  Raises UserError."""
    try:
        journal.write(_line_of(result))
        journal.flush()
        sync(journal.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {journal.name!r}: {explain(error, 'check the disk')}; "
            "then run the same command again"
        ) from error


def whole(work: Path, results: dict[int, ShardResult]) -> dict[int, ShardResult]:
    """Keep the results whose files are there, in their full size."""
    if (work / PUBLISHING).exists():
        return results
    return {number: result for number, result in results.items() if is_whole(work, result)}


def is_whole(work: Path, result: ShardResult) -> bool:
    """Whether the tar of a result has its size, and its index is there."""
    if result.shard is None:
        return True
    tar = work / result.shard.name
    try:
        return tar.stat().st_size == result.shard.bytes and tar.with_suffix(".idx").exists()
    except OSError:
        return False


def publish(work: Path, names: dict[str, str]) -> None:
    """Rename files of `work` to their final names beside it, in order; a killed call is finished by the next.

    Raises UserError if a file is in neither place.
    """
    folder = work.parent
    for old, new in names.items():
        try:
            os.replace(work / old, folder / new)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) and (folder / new).exists()):
                helps = f"remove {str(folder)!r} and start again"
                raise UserError(
                    f"cannot move {str(work / old)!r} to {new!r}: {explain(error, helps)}"
                ) from error
    sync_folder(folder)


def _remove(work: Path) -> None:
    """Remove the folder of a run, its lock last: whoever locks it after that starts from nothing."""
    lock = work / LOCK
    for file in work.iterdir():
        if file != lock:
            # a worker of a killed run may have removed it
            file.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()


def _line_of(result: ShardResult) -> bytes:
    return json.dumps(asdict(result)).encode() + b"\n"


def _result_of(tree: dict[str, Any]) -> ShardResult:
    return ShardResult(
        number=tree["number"],
        shard=Shard(**tree["shard"]) if tree["shard"] else None,
        index_sha256=tree["index_sha256"],
        bad=tuple(BadImage(**image) for image in tree["bad"]),
        samples_by_label={int(label): count for label, count in tree["samples_by_label"].items()},
        # journals of the version before have none
        few_levels=tuple(BadImage(**image) for image in tree.get("few_levels", ())),
    )
