"""What lies beside the shards of a split: listings that timm, open_clip, sha256sum and people read."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.manifest import BAD, MANIFEST, SUMS, Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class BadImage:
    """An image that was left out. path: relative to the root."""

    path: str
    reason: str


def list_split(manifest: Manifest, bad: tuple[BadImage, ...], index_sums: dict[str, str]) -> dict[str, bytes]:
    """Give what other tools and people read, by the names of the files; manifest.json is the last.

    index_sums: sha256 of each index file, hex, by its name.
    """
    shards = manifest.shards
    lengths = {shard.name: shard.samples for shard in shards}
    timm_split = {
        "name": manifest.split,
        "num_samples": manifest.samples,
        "filenames": list(lengths),
        "shard_lengths": list(lengths.values()),
    }
    # md5sum is optional there, and would cost as much as the sha256
    wids = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{manifest.name}-{manifest.split}",
        "shardlist": [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes} for shard in shards
        ],
    }
    listings = {
        "classes.json": _json(manifest.classes),
        "_info.json": _json({"splits": {manifest.split: timm_split}}),
        "sizes.json": _json(lengths),
        "wids.json": _json(wids),
        BAD: "".join(json.dumps(asdict(image)) + "\n" for image in bad).encode(),
        MANIFEST: manifest.to_json().encode(),
    }
    sums = {shard.name: shard.sha256 for shard in shards if shard.sha256} | index_sums
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in listings.items()}
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return {SUMS: lines.encode(), **listings}


def _json(tree: Any) -> bytes:
    return (json.dumps(tree, indent=1) + "\n").encode()


def read_bad(place: Place) -> tuple[BadImage, ...]:
    """Read what was refused; nothing without such a file.  Raises UserError if it is not ours."""
    try:
        lines = place.read(BAD).decode().splitlines()
        return tuple(BadImage(**json.loads(line)) for line in lines)
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError) as error:
        where = place.at(BAD)
        raise UserError(f"{where!r} has a line without a path and a reason: restore the file") from error
