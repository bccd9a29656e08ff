"""Shards of a store of objects that are kept on a disk of this machine.

FOLDER/0123456789abcdef/NAME.tar are shards of the split whose fingerprint begins so; NAME.ok beside one says
what it was when its content was checked.  fill_cache.py fetches them, whole, until the space is used.

Nothing is removed to make room.  An epoch wants every sample once, in a new order: whatever is kept is
wanted once, so the share of hits is the share of the samples that is kept, and no other choice has more.  A
cache that keeps what was used last has fewer: most of it is gone again before it is wanted.
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from turbomim.pipeline.places.download import part_path
from turbomim.pipeline.places.folder import fill
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.durable import make_folder, write_durably, write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.open_files import OPEN_FILES
from turbomim.pipeline.system.words import counted, sized
from turbomim.pipeline.tars.manifest import Manifest

# digits of a fingerprint that name the folder of its split
DIGITS = 16
NOTE = ".ok"
OF_A_SPLIT = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A file when its content was checked.

    sha256: its digest; version: of the object that it came from, "" where its place has none; bytes, mtime_ns
    and inode: what the file system said of it.
    """

    sha256: str
    version: str
    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def now(cls, status: os.stat_result, sha256: str, version: str) -> Self:
        """Of a file whose content has just been hashed."""
        return cls(
            sha256=sha256,
            version=version,
            bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
        )

    def describes(self, status: os.stat_result) -> bool:
        """Whether nobody has changed or replaced the file since."""
        return (self.bytes, self.mtime_ns, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class CacheStats:
    """In this process: samples that were read from the cache or were not in it, and bytes fetched for it.

    A label that lies far from its photograph counts as one more.
    """

    hits: int = 0
    misses: int = 0
    filled_bytes: int = 0


class ShardCache(Closing):
    """Which shards of a split are kept in a folder, and their bytes.  Safe from many threads.

    space: bytes of all splits in `folder`; versions: of the shards in `place`; wanted: numbers of the shards
    that this machine reads, all if None.  A shard counts as kept while its file is as it was when its sha256
    was compared with the manifest's.  Where the manifest has none, since only the headers of the tar were
    read, its size and its ETag when it was fetched are all that is compared.
    Raises UserError: the split is in a folder already, or nothing can be written to `folder`.
    """

    def __init__(
        self,
        folder: Path,
        space: int,
        *,
        place: Place,
        manifest: Manifest,
        versions: Sequence[str],
        wanted: Sequence[int] | None = None,
    ) -> None:
        if place.folder is not None:
            raise UserError(
                f"data.cache {folder}: the shards are in a folder already, {place}, and only those of a "
                "store of objects are kept: leave data.cache and data.cache_gb out"
            )
        self.place, self.manifest, self.versions, self.space = place, manifest, versions, space
        self.wanted = range(len(manifest.shards)) if wanted is None else wanted
        self.folder = folder
        self.own = make_folder(folder / manifest.fingerprint[:DIGITS])
        self.stats = CacheStats()
        # as text: a path costs more than what the system does with it
        self._tars = [f"{self.own}/{shard.name}" for shard in manifest.shards]
        self._lock = threading.Lock()
        self._kept: dict[int, Checked] = {}
        self._wrong: dict[int, str] = {}
        self.look()

    def file(self, shard: int) -> Path:
        """Where a shard is kept, or would be."""
        return Path(self._tars[shard])

    def look(self) -> None:
        """Find what is kept, by whatever process."""
        there = {entry.name for entry in _entries(self.own)}
        for shard in self.wanted:
            if shard not in self._kept and _note_name(self.manifest.shards[shard].name) in there:
                kept = self._read_note(shard)
                if kept is not None:
                    self._kept[shard] = kept

    def path(self, shard: int) -> Path | None:
        """Give the file of a shard, None where it is not kept, or was changed since it was checked.

        Raises UserError if the shard that was fetched is not the one of the manifest.
        """
        self._check(shard)
        return None if self._find(shard) is None else self.file(shard)

    def read_into(self, shard: int, buffer: memoryview, offset: int, *, samples: int = 1) -> bool:
        """Fill `buffer` from the file of a shard; False where that cannot be, and it is to be fetched.

        samples: that are read so, for `stats`.  Raises UserError as `path` does.
        """
        self._check(shard)
        kept = self._find(shard)
        hit = kept is not None and self._read_file(shard, kept, buffer, offset)
        with self._lock:
            if hit:
                self.stats.hits += samples
            else:
                self.stats.misses += samples
        return hit

    def note(self, shard: int, checked: Checked) -> None:
        """Write down that a file was checked, and count it as kept.  Raises UserError."""
        write_durably(self._note_path(shard), (json.dumps(asdict(checked)) + "\n").encode())
        self._kept[shard] = checked

    def noted(self, shard: int) -> Checked | None:
        """What was written down of a shard, whatever the file is now."""
        try:
            return Checked(**json.loads(self._note_path(shard).read_bytes()))
        except (OSError, ValueError, TypeError):
            # missing, or not ours: the file is hashed
            return None

    def forget(self, shard: int) -> None:
        """Remove what is kept of a shard.  Raises UserError."""
        self._kept.pop(shard, None)
        try:
            self._note_path(shard).unlink(missing_ok=True)
            self.file(shard).unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.file(shard), error) from error

    def refuse(self, shard: int, problem: str) -> None:
        """Have whoever wants a sample of a shard get a UserError; it is not missing any more."""
        self._wrong[shard] = problem

    def missing(self) -> Iterator[int]:
        """Shards that are wanted and not kept, in order."""
        return (shard for shard in self.wanted if shard not in self._wrong and self._find(shard) is None)

    def to_come(self, shard: int) -> int:
        """Bytes of a missing shard that are not on the disk; 0 where a file is there, to be checked."""
        path = self.file(shard)
        begun = part_path(path)
        if path.exists():
            return 0
        return self.manifest.shards[shard].bytes - (begun.stat().st_size if begun.exists() else 0)

    def used(self) -> dict[Path, int]:
        """Bytes of the shards in each split's folder, and of those under way."""
        folders = [entry for entry in _entries(self.folder) if OF_A_SPLIT.fullmatch(entry.name)]
        return {
            Path(folder): sum(_bytes_of(e) for e in _entries(folder) if not e.name.endswith(NOTE))
            for folder in folders
        }

    def in_words(self) -> str:
        """What is kept, for people: one line."""
        shards = self.manifest.shards
        samples = sum(shards[shard].samples for shard in self.wanted)
        kept = [shard for shard in self.wanted if self._find(shard) is not None]
        missing = next(self.missing(), None)
        share = sum(shards[shard].samples for shard in kept) / max(1, samples)
        used = self.used()
        others = {folder: size for folder, size in used.items() if folder != self.own and size}
        line = (
            f"cache {self.folder}: {len(kept):,} of {counted(len(self.wanted), 'shard')}, "
            f"{100 * share:.1f} % of the samples; {sized(sum(used.values()))} of {sized(self.space)} used"
        )
        if others and len(kept) < len(self.wanted):
            largest = max(others, key=others.__getitem__)
            line += (
                f", {sized(sum(others.values()))} by other data sets, most in {largest}: remove what is not "
                "needed, or raise data.cache_gb"
            )
        elif not kept and missing is not None and shards[missing].bytes > self.space:
            one = shards[missing]
            line += f"; not one shard fits, {one.name} has {sized(one.bytes)}: raise data.cache_gb"
        return line

    def remedy(self) -> str:
        """What would have more read from this disk, for people; "" where all is kept."""
        missing = next(self.missing(), None)
        if missing is None:
            return ""
        if sum(self.used().values()) + self.to_come(missing) > self.space:
            return "a larger --data.cache_gb keeps more shards on a local disk"
        if shutil.disk_usage(self.folder).free < self.to_come(missing):
            return (
                f"the disk of data.cache {self.folder} is full: free space, then start the same command again"
            )
        return "the cache is not full yet"

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        OPEN_FILES.close(self)

    def _check(self, shard: int) -> None:
        if shard in self._wrong:
            raise UserError(self._wrong[shard])

    def _find(self, shard: int) -> Checked | None:
        """What is known of the file of a shard, if that is still so."""
        kept = self._kept.get(shard)
        if kept is None:
            return None
        try:
            same = kept.describes(os.stat(self._tars[shard]))
        except OSError:
            same = False
        if not same:
            self._kept.pop(shard, None)
        return kept if same else None

    def _read_note(self, shard: int) -> Checked | None:
        """The note of a shard, if it is about the content that is wanted, whatever the file is now."""
        noted, wanted = self.noted(shard), self.manifest.shards[shard]
        if noted is None or noted.bytes != wanted.bytes:
            return None
        same = noted.sha256 == wanted.sha256 if wanted.sha256 else noted.version == self.versions[shard]
        return noted if same else None

    def _note_path(self, shard: int) -> Path:
        return self.own / _note_name(self.manifest.shards[shard].name)

    def _read_file(self, shard: int, kept: Checked, buffer: memoryview, offset: int) -> bool:
        try:
            # a file that was fetched again is another, and is opened anew
            file = OPEN_FILES.take(self, kept.inode, lambda _: self.file(shard))
            try:
                return fill(file.descriptor, buffer, offset) == len(buffer)
            finally:
                OPEN_FILES.give_back(file)
        except OSError:
            return False


def _note_name(tar: str) -> str:
    return tar.removesuffix(".tar") + NOTE


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _bytes_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
