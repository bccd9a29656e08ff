"""The Slurm template: it parses, its flags are ours, and a job that is signalled is queued again.

Planted bugs, and the test that each makes fail: a task that does not pass the signal on, or is replaced by
torchrun, which dies of it: `test_a_signalled_job_saves_and_is_queued_again`; a flag that `pretrain` does not
know: both.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import ROOT

from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import read_metrics
from turbomim.train.recipes.command_line import parse_config

TEMPLATE = ROOT / "examples" / "slurm" / "pretrain.sbatch"

# what the template calls, for a machine without Slurm; a task's process id is kept, as Slurm signals tasks
COMMANDS = {
    "srun": 'shift; "$@" & echo $! > "$FAKES/task"; wait $!',
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$FAKES/requeued"; fi',
    "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
}
TINY = [
    "--data.size", "32", "--model.patch", "8", "--model.width", "32", "--model.depth", "1",
    "--model.heads", "2", "--model.radius", "6", "--optim.global-batch", "8", "--optim.epochs", "3000",
    "--run.log-every", "1", "--run.save-every", "100000", "--step.compile", "false", "--step.device", "cpu",
]  # fmt: skip


def test_the_template_parses_and_its_flags_are_ours() -> None:
    subprocess.run(["bash", "-n", str(TEMPLATE)], check=True)
    text = TEMPLATE.read_text()
    flags = re.findall(r"--(?:data|run|optim|step|model)\.[a-z_.-]+", text)
    assert {"--data.path", "--run.folder", "--run.name"} == set(flags)
    config, _ = parse_config(["pixmim-vit-b16-800e", *(word for flag in flags for word in (flag, "x"))])
    assert (config.data.path, config.run.folder, config.run.name) == ("x", "x", "x")
    assert "#SBATCH --signal=USR2@" in text and "#SBATCH --requeue" in text


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_signalled_job_saves_and_is_queued_again(tiny_split: Split, tmp_path: Path, fakes: Path) -> None:
    environment = os.environ | {
        "PATH": f"{fakes}:{os.environ['PATH']}", "FAKES": str(fakes), "RUNS": str(tmp_path / "runs"),
        "SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "here",
    }  # fmt: skip
    job = subprocess.Popen(
        ["bash", str(TEMPLATE), "demo", str(tiny_split.folder), *TINY],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    run = tmp_path / "runs" / "demo"
    try:
        deadline = time.monotonic() + 120
        while len(read_metrics(run / "metrics.jsonl")) < 3:
            assert job.poll() is None and time.monotonic() < deadline, job.communicate(timeout=60)[0]
            time.sleep(0.05)
        os.kill(int((fakes / "task").read_text()), signal.SIGUSR2)
        out, _ = job.communicate(timeout=60)
    finally:
        # the job and all that it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0 and "turbomim: exit code 0, status preempted" in out, out
    assert (fakes / "requeued").read_text() == "requeue 7\n"
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "preempted" and status["step"] >= 3
    assert (run / "ckpt" / "latest").read_text().strip() == f"step-{status['step']:08d}"
