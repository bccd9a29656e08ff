"""Which shards of a store a run has read: `shards.json` in its folder, their versions (ETags) by place.

Of a shard in a store only the size is compared when it is opened, and one under the same name may be another
when the run goes on.  So one whose version is another then is hashed: it may have been put there again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from turbomim.pipeline.system.durable import read_json, write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.open_tar import open_tar
from turbomim.pipeline.tars.split import Split

FILE: Final = "shards.json"
RESTORE: Final = "put the old object back, or give another --run.name to begin anew"


def check_seen(folder: Path, splits: Sequence[Split], *, resumed: bool, note: bool = True) -> list[str]:
    """Compare the shards of splits in stores with those that the run began with, and note their versions.

    resumed: whether it goes on; a new run notes alone.  note: whether versions are written.  Returns lines
    for the log.  Raises UserError for a shard that is not the manifest's any more, or of which nobody knows.
    """
    lines = list[str]()
    seen = _read(folder / FILE) if resumed else {}
    now = dict(seen)
    for split in splits:
        if split.tars.folder is not None:
            continue
        names, held = [shard.name for shard in split.manifest.shards], seen.get(str(split.tars), {})
        for number, (name, version) in enumerate(zip(names, split.versions, strict=True)):
            if held.get(name, version) != version:
                lines.append(_check(split, number))
        now[str(split.tars)] = dict(zip(names, split.versions, strict=True))
    if note and now != seen:
        write_json(folder / FILE, now)
    return lines


def _check(split: Split, number: int) -> str:
    """Hash a shard that is another object than before.  Raises UserError."""
    shard, where = split.manifest.shards[number], repr(split.tars.at(split.manifest.shards[number].name))
    if not shard.sha256:
        raise UserError(
            f"{where} is another object than when this run read it, and nobody knows the sha256 that it must "
            f"have: {RESTORE}"
        )
    try:
        with open_tar(split.tars, shard.name) as tar:
            digest = tar.sha256()
    except OSError as error:
        raise UserError(f"cannot read {where}: {explain(error, RESTORE)}") from error
    if digest != shard.sha256:
        raise UserError(
            f"{where} was replaced since this run read it, and is not the shard of the manifest (sha256 "
            f"{digest[:12]}…, not {shard.sha256[:12]}…): {RESTORE}"
        )
    return f"{where} is another object than before, with the bytes of the manifest"


def _read(path: Path) -> dict[str, dict[str, str]]:
    """What is noted; nothing of a run that began before there was such a file, or whose file is damaged."""
    return {place: held for place, held in read_json(path).items() if isinstance(held, dict)}
