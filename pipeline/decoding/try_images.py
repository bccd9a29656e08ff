"""Images decoded one by one in a process of its own: which of them does no process survive?

python -m turbomim.pipeline.decoding.try_images      the process, see `main`
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.decode import admit, find_undecodable
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.store import Kind, Store

# for one image, of which the largest takes some
SECONDS: Final = 120.0
BEGIN, END = "begin", "end"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a process ended.

    tried: samples that it went through; begun: the one that its decoder had, if any; how: "" for well; image:
    whether the image is to blame.
    """

    tried: frozenset[int]
    begun: int | None
    how: str
    image: bool


def deadly_samples(
    split: Split, ids: Sequence[int], *, on_gpu: bool, seconds: float = SECONDS
) -> tuple[dict[int, str], str]:
    """Return those of these samples over which a process dies or hangs, and how.

    on_gpu: also by the GPU's decoder; seconds: for an image.  Returned too: why the rest could not be tried;
    "" if all were.
    """
    deadly: dict[int, str] = {}
    left = [number for number in ids if 0 <= number < split.manifest.samples]
    while left:
        job = json.dumps({"split": str(split.place), "ids": left, "on_gpu": on_gpu})
        trial = _decode_in_process(job, seconds)
        left = [number for number in left if number not in trial.tried]
        if trial.begun is not None and trial.image:
            deadly[trial.begun] = trial.how
            left.remove(trial.begun)
        elif trial.how:
            return deadly, trial.how
    return deadly, ""


def _decode_in_process(job: str, seconds: float) -> Trial:
    command = [sys.executable, "-m", "turbomim.pipeline.decoding.try_images"]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(job.encode())
            process.stdin.close()
        said, ended = b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not ended and selector.select(seconds):
                # not by lines: what waits in a buffer wakes nobody
                more = os.read(process.stdout.fileno(), 2**16)
                said, ended = said + more, not more
        if not ended:
            process.kill()
        code = process.wait()
        complaints.seek(0)
        last = (complaints.read().decode(errors="replace").strip().splitlines() or [""])[-1]
    words = [line.split() for line in said.decode().splitlines()]
    tried = frozenset(int(number) for word, number in words if word == END)
    begun = next((int(number) for word, number in words[::-1] if word == BEGIN), None)
    begun = None if begun in tried else begun
    if not ended:
        return Trial(tried, begun, f"decoding it does not end within {seconds:g} s", image=True)
    if code < 0:
        name = signal.Signals(-code).name
        # the system kills so where memory runs out, and a person
        return Trial(tried, begun, f"decoding it ends the process: {name}", image=code != -signal.SIGKILL)
    return Trial(tried, begun, f"{last or 'no reason given'} (exit code {code})" if code else "", image=False)


def main() -> None:
    """Decode the samples of a job on standard input: {"split": …, "ids": […], "on_gpu": …}.

    Writes when it begins with each, and when it is through.
    """
    job = json.load(sys.stdin)
    try:
        split = open_split(job["split"], hashing=False)
        store = Store.of(split.manifest.made).kind
        with ShardFiles(split) as files:
            for number in job["ids"]:
                image = read_samples(split, files, np.array([number])).images[0]
                print(BEGIN, number, flush=True)
                _decode(image, store, on_gpu=job["on_gpu"])
                print(END, number, flush=True)
    except UserError as error:
        raise SystemExit(str(error)) from None


def _decode(image: NDArray[np.uint8], store: Kind, *, on_gpu: bool) -> None:
    """Decode an image as a loader does; whether it can be does not matter here."""
    try:
        admitted = admit(image, store)
    except ValueError:
        return
    find_undecodable([admitted])
    if on_gpu and store != "raw":
        from turbomim.pipeline.decoding.dali import find_undecodable_on_gpu

        find_undecodable_on_gpu([admitted], threads=1)


if __name__ == "__main__":
    main()
