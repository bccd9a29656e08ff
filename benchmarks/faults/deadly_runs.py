"""Runs over a photograph that kills the process: do they end, and as if it had been bad from the start?

    python -m turbomim.benchmarks.faults.deadly_runs [--runs 10] [--steps 200] [--out FILE]

Each run has one image, at random, over which the decoder ends its process by SIGSEGV.  The command is given
until it ends; then log lines and weights are compared with those of a run in which that image is cut.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from turbomim.benchmarks.faults.deadly_image import plant_decoder, split_with
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint
from turbomim.train.folder.crashes import read_deadly_samples
from turbomim.train.folder.log import read_metrics

BATCH: Final = 8
# of the same photograph in a row, at most
STARTS: Final = 4


def train(split: Split, folder: Path, steps: int, planted: Path) -> list[int]:
    """Give the command until it ends well; the exit code of each start."""
    epochs = steps * BATCH / split.manifest.samples
    settings = {
        "data.path": split.folder, "data.size": 32, "data.threads": 1, "data.readers": 1, "model.patch": 8,
        "model.width": 32, "model.depth": 2, "model.heads": 2, "model.decoder-width": 16,
        "model.decoder-depth": 1, "model.decoder-heads": 2, "optim.epochs": epochs,
        "optim.warmup-epochs": 0.1, "optim.global-batch": BATCH, "step.compile": "false",
        "step.device": "cpu", "run.folder": folder, "run.log-every": 1, "run.save-every": 7,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "turbomim", "pretrain", "demo", "--run.name", "r", *words]
    paths = [str(planted), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    codes: list[int] = []
    while len(codes) < STARTS and (not codes or codes[-1]):
        codes.append(subprocess.run(command, env=environment, capture_output=True, check=False).returncode)
    return codes


def result(folder: Path) -> tuple[list[tuple[int, str, int]], bytes]:
    """Step, loss and samples replaced of every log line, and the last weights."""
    found, _ = checkpoint.newest(folder / "ckpt")
    assert found is not None
    records = read_metrics(folder / "metrics.jsonl")
    lines = [(r["step"], float(r["loss"]).hex(), r["replaced_total"]) for r in records]
    return lines, (found / checkpoint.FILES[0]).read_bytes()


def main() -> None:
    """Run them all, and say how many were equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--samples", type=int, default=400, help="of the split")
    parser.add_argument("--out", type=Path, default=Path("deadly_runs.jsonl"), help="where JSON lines go")
    options = parser.parse_args()
    chosen, facts, good = random.Random(0), machine(), 0
    for number in range(options.runs):
        sample = chosen.randrange(options.samples)
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            planted = plant_decoder(work / "planted")
            deadly = split_with(work / "deadly", options.samples, sample, deadly=True)
            cut = split_with(work / "cut", options.samples, sample, deadly=False)
            codes = train(deadly, work / "a", options.steps, planted)
            train(cut, work / "b", options.steps, planted)
            named = list(read_deadly_samples(work / "a" / "r").get(deadly.manifest.fingerprint, {}))
            equal = result(work / "a" / "r") == result(work / "b" / "r")
        good += equal and named == [sample] and codes[-1] == 0
        row = {"run": number, "sample": sample, "exit_codes": codes, "named": named, "equal": equal}
        print(row, flush=True)
        with options.out.open("a") as out:
            print(json.dumps({"name": "deadly_runs", "steps": options.steps, **row, **facts}), file=out)
    print(f"{good} of {options.runs} runs ended as if the image had been bad from the start")


if __name__ == "__main__":
    main()
