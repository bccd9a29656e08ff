"""A run's copy in another place, made beside the steps: `--run.mirror PLACE`, as PLACE/NAME.

Checkpoints are copied when they are whole on the disk, COMPLETE last, then `latest`; all else (copied.py)
with them, every PERIOD seconds, and at the end.  lease.json says which process copies.  A place that is down
stops nothing: one line says so, another that it works again.  What a new start takes from it: from_mirror.py.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from turbomim.pipeline.places.lease import Lease
from turbomim.pipeline.places.opening import is_writable, open_place
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.places.stores import WRITABLE
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError, one_line_with_class
from turbomim.pipeline.system.remedies import explain
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.copied import LEASE, OF_CHECKPOINT, files_of, is_unfinished, whole_in
from turbomim.train.settings.config import Config

# seconds between two copies of the logs, where no checkpoint comes
PERIOD = 30.0
# a file gets so many seconds, or so few where the last try failed, and one more for so many bytes; then this
# try has failed
PATIENCE, AGAIN, RATE = 30.0, 5.0, 4e6
# bytes; what is shorter is copied out of memory: it may grow meanwhile
SHORT = 2**26


class Refused(UserError):
    """Nothing may be copied there: by this run, or any more."""


class Mirror(Closing):
    """Copies a run folder, on rank 0.  Entered while the run has its folder; `beside_steps` copies.

    tell: hears what people must know.
    """

    def __init__(self, config: Config, tell: Callable[[str], None]) -> None:
        self.place: Place = open_place(config.run.mirror).below(config.run.name)
        self._config, self._keep = config, config.run.keep
        self._folder = rundir.run_folder(config)
        self._tell = tell
        if self.place.folder is not None and self.place.folder.resolve() == self._folder.resolve():
            raise UserError(f"run.mirror = {config.run.mirror}: is the run's own folder; give another place")
        if not is_writable(self.place):
            schemes = ", ".join(f"{scheme}://" for scheme in WRITABLE)
            raise UserError(f"run.mirror = {config.run.mirror}: is only read; give a folder, or {schemes}")
        self._lease = Lease(
            self.place, LEASE, what=f"the mirror {self.place}", other="give another --run.name", tell=tell
        )
        # whether it was listed since it was taken
        self._listed = False
        # checkpoints that are there, as far as this process knows; and those that are being copied
        self._there: set[str] = set()
        self.copying: frozenset[str] = frozenset()
        # the newest of them after which all else was put in order, too
        self._settled = ""
        # size and time of each other file as it was copied
        self._sent: dict[str, tuple[int, int]] = {}
        # a checkpoint that was there before, newer than what this run goes on from: nothing is put over it
        self._ahead = ""
        # why the last try failed; empty if it did not
        self._failed = ""
        self._turn = threading.Lock()
        self._wake, self._end = threading.Event(), threading.Event()
        # until when the end of the run waits, of the monotonic clock
        self._until = 0.0

    def close(self) -> None:
        """Let other machines have it."""
        self._lease.close()

    def check_same(self) -> None:
        """Raise UserError if it holds a run with other settings, and OSError; it writes nothing."""
        try:
            text = self.place.read("config.yaml").decode(errors="replace")
        except FileNotFoundError:
            pass
        else:
            path = self.place.at("config.yaml")
            held = rundir.parse_config(text, str(self.place), path, type(self._config))
            rundir.refuse_other(str(self.place), held, self._config)

    def connect(self) -> dict[str, Status]:
        """Take it for this run, and list what is there; again, where it was taken and could not be listed.

        Raises UserError: it holds a run with other settings, or another machine copies there; and OSError.
        """
        self.check_same()
        if not self._lease.held:
            self._lease.take()
        files = self.place.files()
        # what a writer that was killed left in a folder; not the lease's, which is written all the time
        for name in [n for n in files if is_unfinished(n) and LEASE not in n]:
            self.place.delete(name)
        self._listed = True
        return files

    @contextmanager
    def beside_steps(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Copy what comes into the run folder, in a thread; at the end wait for the last, within limits."""
        self._tell = tell
        thread = threading.Thread(target=self._copy_all, name="mirror", daemon=True)
        self._allow(0)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._wake.set()
            self._allow(0)
            while thread.is_alive() and time.monotonic() < self._until:
                thread.join(0.1)
            self._say_what_is_missing(hanging=thread.is_alive())

    def was_down(self, why: str) -> None:
        """Hear that people know why it could not be reached at the start."""
        self._failed = why

    def written(self) -> None:
        """Hear that a checkpoint is whole on the disk."""
        self._wake.set()

    def copy_now(self, path: Path) -> None:
        """Return when a checkpoint is there, for machines that have no such folder.  Raises UserError."""
        try:
            with self._turn:
                self._connect_late()
                self._copy_checkpoint(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be copied to the mirror {self.place}, for machines without this folder: "
                f"{explain(error, 'run the same command again')}"
            ) from error

    def _copy_all(self) -> None:
        """Copy until the end: after each checkpoint, and the logs every PERIOD seconds."""
        ended = False
        while not ended:
            ended = self._end.is_set()
            self._wake.clear()
            try:
                with self._turn:
                    whole = self._copy_what_is_new()
            except Refused as error:
                self._failed = str(error)
                self._tell(f"{error}; from now on nothing is copied, and the run goes on")
                return
            # whatever it is: a mirror ends no run
            except Exception as error:
                why = _in_words(error)
                if not self._failed and not self._end.is_set():
                    self._tell(f"mirror {self.place}: {why}; the run goes on, and the mirror is tried again")
                self._failed = why
            else:
                if self._failed:
                    up_to = ": all is there up to now" if whole else ""
                    self._tell(f"mirror {self.place} works again{up_to}")
                self._failed = ""
            if not ended:
                self._wake.wait(PERIOD)

    def _copy_what_is_new(self) -> bool:
        """Copy all up to now; False where nothing may be put over what is newer there."""
        self._connect_late()
        found = next(iter(checkpoint.complete(self._folder / "ckpt")), None)
        if found is not None and found.name < self._ahead:
            return False
        if found is not None and found.name != self._settled:
            self._copy_newest(found)
        self._copy_files()
        return True

    def _copy_newest(self, found: Path) -> None:
        """Copy a checkpoint and those that it may need, and put in order what is there."""
        needed = checkpoint.needed(checkpoint.read_state(found))
        try:
            self.copying = frozenset({*needed, found.name})
            # what a roll-back needs is there before what would roll back
            for name in needed:
                if (found.parent / name / "COMPLETE").exists():
                    self._copy_checkpoint(found.parent / name)
            self._copy_checkpoint(found)
        finally:
            self.copying = frozenset()
        self._put("ckpt/latest", f"{found.name}\n".encode())
        self._remove_old(found.name, needed)
        self._settled = found.name

    def _connect_late(self) -> None:
        """Take a mirror that was down at the start, and see what it has.  Raises Refused."""
        if self._listed and self._lease.held:
            return
        if self._lease.lost:
            raise Refused(f"the mirror {self.place} {self._lease.lost}")
        with impatient(self._allow(0)):
            try:
                theirs = whole_in(self.connect())
            except UserError as error:
                raise Refused(str(error)) from error
        self._ahead = theirs[0] if theirs else ""
        ours = checkpoint.complete(self._folder / "ckpt")
        if ours and ours[0].name < self._ahead:
            self._tell(
                f"mirror {self.place} has {self._ahead}, this run {ours[0].name}: nothing is copied before "
                "that step; the same command, started again, goes on from there"
            )

    def _copy_checkpoint(self, path: Path) -> None:
        """Copy a checkpoint that is not there; before it counts, so do the logs up to it."""
        name = f"ckpt/{path.name}"
        if path.name in self._there:
            return
        if not self._has(path):
            self._delete(f"{name}/COMPLETE")
            for file in OF_CHECKPOINT[:-1]:
                self._put(f"{name}/{file}", path / file)
            self._copy_files()
            self._put(f"{name}/COMPLETE", b"")
        self._there.add(path.name)

    def _has(self, path: Path) -> bool:
        """Whether this very checkpoint is there; of sizes and recorded checksums."""
        name = f"ckpt/{path.name}"
        with impatient(self._allow(0)):
            try:
                there = self.place.files(name)
            except FileNotFoundError:
                return False
            sizes = {f"{name}/{file}": (path / file).stat().st_size for file in OF_CHECKPOINT}
            if {n: status.bytes for n, status in there.items() if n in sizes} != sizes:
                return False
            return self.place.read(f"{name}/SHA256SUMS") == (path / "SHA256SUMS").read_bytes()

    def _copy_files(self) -> None:
        """Copy all else that has changed."""
        for name in files_of(self._folder):
            path = self._folder / name
            try:
                stat = path.stat()
                content = path.read_bytes() if stat.st_size < SHORT else path
            except FileNotFoundError:
                continue
            now = (stat.st_size, stat.st_mtime_ns)
            if self._sent.get(name) != now:
                self._put(name, content)
                self._sent[name] = now

    def _remove_old(self, newest: str, needed: Sequence[str]) -> None:
        """Keep the newest `run.keep` and those that the newest may need, as on the disk."""
        with impatient(self._allow(0)):
            files = [name for name in self.place.files("ckpt") if name.startswith("ckpt/step-")]
        older = [name for name in whole_in(files) if name < newest]
        kept = {newest, *needed, *older[: self._keep - 1]}
        # COMPLETE first: what is half removed must not count
        for name in sorted(files, key=lambda name: not name.endswith("/COMPLETE")):
            if name.split("/")[1] not in kept:
                self._delete(name)
        self._there &= kept

    def _put(self, name: str, content: bytes | Path) -> None:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with impatient(self._allow(size)):
            self.place.put(name, content)

    def _delete(self, name: str) -> None:
        with impatient(self._allow(0)):
            self.place.delete(name)

    def _allow(self, size: int) -> float:
        """Seconds that a file of a size may take from now on."""
        seconds = (AGAIN if self._failed else PATIENCE) + size / RATE
        # a little longer than the requests, so that it is told what befell them
        self._until = time.monotonic() + 2 * seconds
        return seconds

    def _say_what_is_missing(self, *, hanging: bool) -> None:
        found = next(iter(checkpoint.complete(self._folder / "ckpt")), None)
        missing = found is not None and found.name not in self._there
        if not (missing or hanging or self._failed):
            return
        if hanging and not self._failed:
            self._failed = "it takes too long"
        what = f"{found.name} is" if missing and found is not None else "the last lines of the log are"
        self._tell(
            f"mirror {self.place}: {what} not there ({self._failed or 'it has a newer one'}), but in "
            f"{self._folder}: the same command copies what is missing"
        )


def _in_words(error: Exception) -> str:
    """Why a try failed."""
    if isinstance(error, OSError):
        return explain(error, "check it")
    return str(error) if isinstance(error, UserError) else one_line_with_class(error)
