"""What lies beside the shards of a split: listings that timm, open_clip, sha256sum and people read."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from turbomim.pipeline.durable import write_durably
from turbomim.pipeline.shard_job import BadImage
from turbomim.pipeline.shards import BAD, MANIFEST, Manifest


def write_listings(folder: Path, manifest: Manifest, bad: tuple[BadImage, ...]) -> None:
    """Write what other tools and people read; manifest.json last, since it says that the split is whole."""
    shards = manifest.shards
    lengths = {shard.name: shard.samples for shard in shards}
    timm_split = {
        "name": manifest.split,
        "num_samples": manifest.samples,
        "filenames": list(lengths),
        "shard_lengths": list(lengths.values()),
    }
    listings = {
        "classes.json": _json(manifest.classes),
        "_info.json": _json({"splits": {manifest.split: timm_split}}),
        "sizes.json": _json(lengths),
        BAD: "".join(json.dumps(asdict(image)) + "\n" for image in bad).encode(),
        MANIFEST: manifest.to_json().encode(),
    }
    sums = {shard.name: shard.sha256 for shard in shards}
    for shard in shards:
        index = Path(shard.name).with_suffix(".idx").name
        sums[index] = hashlib.sha256((folder / index).read_bytes()).hexdigest()
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in listings.items()}
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    for name, content in {"SHA256SUMS": lines.encode(), **listings}.items():
        write_durably(folder / name, content)


def _json(tree: Any) -> bytes:
    return (json.dumps(tree, indent=1) + "\n").encode()
