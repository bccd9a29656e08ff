"""What becomes of a damaged shard: tarfile, webdataset, wds2idx; ours at start, while reading, in `verify`.

    python -m turbomim.benchmarks.faults.damage_tars [--samples N]

Prints a markdown table, then a JSON line a cell.  A reader notices (an error, a non-zero exit code), or is
silent; then the samples that it lost or gave with other bytes are counted.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from turbomim.benchmarks.faults.tar_damages import DAMAGES, Damage
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split

SHARDS = 2
VERIFY = "ours, verify"

# a sample as a reader gives it: label, sha256 of the image
Sample = tuple[int, str]
Samples = Counter[Sample]
Reader = Callable[[Split], Iterator[Sample]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a reader made of it. lost, wrong: samples not given, and given with other bytes."""

    noticed: bool
    lost: int = 0
    wrong: int = 0

    def __str__(self) -> str:
        if self.noticed:
            return "noticed"
        counts = [f"{self.lost:,} lost"] * bool(self.lost) + [f"{self.wrong:,} wrong"] * bool(self.wrong)
        return f"silent: {', '.join(counts)}" if counts else "all right"


def sample(label: bytes | int, image: bytes | memoryview) -> Sample:
    """Reduce a sample to what is compared."""
    return int(label), hashlib.sha256(image).hexdigest()


def by_tarfile(split: Split) -> Iterator[Sample]:
    """Every member through Python's tarfile."""
    for shard in range(len(split.manifest.shards)):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(split.shard_path(shard)) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                key, _, extension = entry.name.partition(".")
                members.setdefault(key, {})[extension] = file.read() if file else b""
        yield from (sample(parts["cls"], parts["jpg"]) for parts in members.values() if len(parts) == 2)


def by_webdataset(split: Split) -> Iterator[Sample]:
    """Every sample through webdataset with its default handler of errors."""
    urls = [str(split.shard_path(shard)) for shard in range(len(split.manifest.shards))]
    for parts in webdataset.WebDataset(urls, shardshuffle=False):
        if "cls" in parts and "jpg" in parts:
            yield sample(parts["cls"], parts["jpg"])


def by_wds2idx(split: Split) -> Iterator[Sample]:
    """Every sample where the index that wds2idx writes says it is."""
    tool = shutil.which("wds2idx") or str(Path(sys.executable).with_name("wds2idx"))
    for shard in range(len(split.manifest.shards)):
        path = split.shard_path(shard)
        index = path.with_suffix(".theirs")
        subprocess.run([tool, str(path), str(index)], check=True, capture_output=True)
        tar = path.read_bytes()
        for line in index.read_text(errors="replace").splitlines()[1:]:
            words = line.split(" ")
            parts = {
                words[at]: tar[int(words[at + 1]) :][: int(words[at + 2])] for at in range(0, len(words), 4)
            }
            if "jpg" in parts and parts.get("cls", b"").isdigit():
                yield sample(parts["cls"], parts["jpg"])


def by_start(split: Split) -> Iterator[Sample]:
    """Every sample as training reads it, started after the damage."""
    yield from by_reading(open_split(split.folder))


def by_reading(split: Split) -> Iterator[Sample]:
    """Every sample as training reads it, started before the damage."""
    files = ShardFiles(split)
    try:
        read = read_samples(split, files, np.arange(len(split.index)))
        for label, image in zip(read.labels_B.tolist(), read.images, strict=True):
            yield sample(label, image.tobytes())
    finally:
        files.close()


READERS: dict[str, Reader] = {
    "tarfile": by_tarfile,
    "webdataset": by_webdataset,
    "wds2idx": by_wds2idx,
    "ours, at start": by_start,
    "ours, under way": by_reading,
}


def read(reader: Reader, split: Split, expected: Samples) -> Outcome:
    """Read everything with one reader and compare."""
    given = Samples()
    try:
        given.update(reader(split))
    # whatever a reader raises, it has noticed
    except Exception:
        return Outcome(noticed=True)
    wrong = (given - expected).total()
    return Outcome(noticed=False, lost=(expected - given).total() - wrong, wrong=wrong)


def make_splits(folder: Path, samples: int) -> dict[str, Split]:
    """Make the same photographs into a split of ours, and into one of GNU tars with long names, indexed."""
    for number in range(SHARDS * samples):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 255, (6, 6, 3), np.uint8)
        path = folder / "photos" / str(number % 10) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((96 + number % 64, 96), Image.Resampling.BICUBIC).save(path)
    make_shards(folder / "photos", folder / "ours", ShardSettings(shard_size=samples))
    ours = open_split(folder / "ours")
    (folder / "GNU").mkdir()
    for shard in range(SHARDS):
        path = ours.shard_path(shard)
        with (
            tarfile.open(path) as tar,
            tarfile.open(folder / "GNU" / path.name, "w", format=tarfile.GNU_FORMAT) as out,
        ):
            for entry in tar:
                file = tar.extractfile(entry)
                assert file is not None
                entry.name = "long" * 40 + entry.name
                out.addfile(entry, io.BytesIO(file.read()))
    index_tars(folder / "GNU")
    return {"ours": ours, "GNU": open_split(folder / "GNU")}


def examine(
    damage: Damage, whole: Split, folder: Path, expected: Samples, readers: dict[str, Reader]
) -> dict[str, Outcome]:
    """Damage a copy of the split, and give what each reader makes of it."""
    shutil.copytree(whole.folder, folder)
    split = replace(whole, place=Folder(folder), tars=Folder(folder))
    damage.apply(split)
    outcomes = {name: read(reader, split, expected) for name, reader in readers.items()}
    for index in folder.glob("*.theirs"):
        index.unlink()
    try:
        found = bool(verify_split(folder).problems)
    except UserError:
        found = True
    return {**outcomes, VERIFY: Outcome(noticed=found)}


def run(samples: int, readers: dict[str, Reader]) -> Iterator[tuple[Damage, dict[str, Outcome]]]:
    """Yield each damage with what every reader makes of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        splits = make_splits(folder, samples)
        expected = Samples(by_reading(splits["ours"]))
        for number, damage in enumerate(DAMAGES):
            copy = folder / f"copy-{number}"
            yield damage, examine(damage, splits[damage.names], copy, expected, readers)


def main() -> None:
    """Print the markdown table, then the JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=50, help=f"samples in each of {SHARDS} shards")
    samples = parser.parse_args().samples
    columns = [*READERS, VERIFY]
    print(f"| damage to 1 of {SHARDS} shards of {samples} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    facts, lines = machine(), []
    for damage, outcomes in run(samples, READERS):
        print(f"| {damage.name} | {' | '.join(str(outcomes[column]) for column in columns)} |")
        for column in columns:
            cell = {"damage": damage.name, "reader": column, "unit": "samples", **asdict(outcomes[column])}
            lines.append(json.dumps({**cell, "samples": SHARDS * samples, **facts}))
    print("", *lines, sep="\n")


if __name__ == "__main__":
    main()
