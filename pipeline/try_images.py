"""Images decoded one by one in a process of its own: which of them does no process survive?

python -m turbomim.pipeline.try_images      the process, see `main`
"""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from turbomim.pipeline.decode import find_undecodable
from turbomim.pipeline.read import ShardFiles, read_samples
from turbomim.pipeline.repair import admit
from turbomim.pipeline.shards import Split, open_split
from turbomim.pipeline.store import Store

# for one image, of which the largest takes some
SECONDS: Final = 120.0
READY: Final = "ready"


def deadly_samples(
    split: Split, ids: Sequence[int], *, on_gpu: bool, seconds: float = SECONDS
) -> dict[int, str]:
    """Return those of these samples over which a process dies or hangs, and how.

    on_gpu: also by the GPU's decoder; seconds: for an image.
    """
    deadly: dict[int, str] = {}
    left = [number for number in ids if 0 <= number < split.manifest.samples]
    while left:
        job = json.dumps({"split": str(split.path), "ids": left, "on_gpu": on_gpu})
        begun, end = _run(job, seconds)
        if begun is None:
            # it could not even start, or is through
            break
        if end is not None:
            deadly[begun] = end
        left = left[left.index(begun) + 1 :]
    return deadly


def _run(job: str, seconds: float) -> tuple[int | None, str | None]:
    """Run the process; the last sample that it began, and how it ended over it, None if well."""
    command = [sys.executable, "-m", "turbomim.pipeline.try_images"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(job)
            process.stdin.close()
        begun: int | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(seconds):
                line = process.stdout.readline()
                if not line:
                    code = process.wait()
                    return begun, None if code == 0 or begun is None else _how(code)
                if line.strip() != READY:
                    begun = int(line)
        process.kill()
        return begun, f"decoding it does not end within {seconds:g} s"


def _how(code: int) -> str:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"decoding it ends the process: {name}"


def main() -> None:
    """Decode the samples of a job on standard input: {"split": …, "ids": […], "on_gpu": …}.

    Writes the number of each before it is decoded.
    """
    job = json.load(sys.stdin)
    split = open_split(Path(job["split"]), hashing=False)
    store = Store.of(split.manifest.made).kind
    with contextlib.closing(ShardFiles(split)) as files:
        print(READY, flush=True)
        for number in job["ids"]:
            image = read_samples(split, files, np.array([number])).images[0]
            print(number, flush=True)
            with contextlib.suppress(ValueError):
                pixels = admit(image, store)
                if pixels.ndim == 1:
                    find_undecodable([pixels])
                if pixels.ndim == 1 and job["on_gpu"]:
                    from turbomim.pipeline.dali import find_undecodable_on_gpu

                    find_undecodable_on_gpu([pixels], threads=1)


if __name__ == "__main__":
    main()
