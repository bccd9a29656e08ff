"""`turbomim bench gpu` on a CPU: its stages, what a kill and a broken stage leave, and a bare machine.

Which test fails for which mistake (each was made once, on purpose):
rows kept until a stage ends, an older run's rows lost: test_rows_are_in_the_file_as_they_come;
the reason of a crash not kept: test_a_stage_that_breaks_is_a_row; an import of tyro, webdataset or psutil on
the way to training and to a stage: test_a_bare_machine_has_all_that_is_imported;
a file skipped whole, or one of two reasons, not said: test_what_was_skipped_is_said_by_its_reason;
an error of the loader's thread lost: test_a_loader_that_fails_is_no_neighbour;
an older row of the same name in the tables, a share of the wrong step: test_pages_say_what_was_measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from turbomim.benchmarks.gpu import bench as bench_gpu
from turbomim.benchmarks.gpu import stage
from turbomim.benchmarks.gpu.photographs import drawing
from turbomim.benchmarks.gpu.report import pages
from turbomim.benchmarks.gpu.tests import Results
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.errors import UsageError, UserError

# not among what a bare machine with a GPU has
ABSENT = ("tyro", "webdataset", "psutil", "hypothesis", "nvidia.dali", "transformers", "matplotlib")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_stages_are_those_of_the_shares() -> None:
    assert list(stage.STAGES) == list(bench_gpu.SHARES)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seconds", "1"], "--seconds 1: at least 10"),
        (["--stages", "machine,tets"], "--stages has 'tets': choose among machine, tests"),
        (["--images", "/no/such"], "--images /no/such is no folder: give one of JPEG photographs"),
        (["--second"], "unknown flag '--second': did you mean --seconds?"),
    ],
)
def test_what_a_user_gets_wrong(argv: list[str], message: str) -> None:
    with pytest.raises((UsageError, UserError)) as error:
        bench_gpu.bench_gpu_command(argv)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_bare_machine_has_all_that_is_imported() -> None:
    """Training and every stage, in an interpreter that finds no more than a bare machine has."""
    modules = ["train.pretrain.pretrain", "train.finetune.finetune"]
    modules += ["benchmarks.gpu.bench", "benchmarks.tables"]
    modules += [f"benchmarks.gpu.{module}" for module, _ in stage.STAGES.values()]
    code = f"""
import importlib, sys
# as Python marks what cannot be imported
sys.modules.update(dict.fromkeys({ABSENT!r}))
for module in {modules!r}:
    importlib.import_module("turbomim." + module)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_stage_that_breaks_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []
    place = {"device": "cpu", "images": "", "work": str(tmp_path)}
    # no such stage: its process ends with a KeyError
    said = bench_gpu.run("none", place, 60, tmp_path, kept.append)
    assert said.startswith("0 rows, 0 not measured")
    (row,) = kept
    assert row["why_not"] == "ended with exit code 1: KeyError: 'none'" and "Traceback" in row["traceback"]
    kept.clear()
    bench_gpu.run("machine", place, 1, tmp_path, kept.append)
    assert kept[-1]["why_not"] == "stopped after 1 s, its share of --seconds"


@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses")
def test_rows_are_in_the_file_as_they_come(tmp_path: Path) -> None:
    """Killed with -9 in its second stage: the rows of the first are whole, and those of before."""
    out = tmp_path / "results.jsonl"
    out.write_text('{"name": "of before"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "turbomim", "bench", "gpu", "--stages", "machine,kernels"]
    process = subprocess.Popen(
        [*command, "--seconds", "200", "--out", str(out)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 150
    while "kernels.err" not in os.listdir(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = rows_of(out)
    assert found[0] == {"name": "of before"}
    names = [row["name"] for row in found[1:]]
    assert names[:5] == [
        "the machine", "matrix products, float32", "copy", "copy from the host", "JPEG engines",
    ]  # fmt: skip
    assert all({"stage", "device", "driver", "versions", "commit"} <= set(row) for row in found[1:])


def test_a_failed_measurement_costs_itself() -> None:
    def broken() -> list[stage.Row]:
        raise RuntimeError("CUDA error:\nout of luck")

    (row,) = stage.attempt("copy", broken)
    assert row["why_not"] == "RuntimeError: CUDA error: out of luck" and "Traceback" in row["traceback"]


def test_what_was_skipped_is_said_by_its_reason(tmp_path: Path) -> None:
    """A file that is skipped whole, and two tests of as many reasons."""
    (tmp_path / "test_whole.py").write_text("import pytest; pytest.importorskip('no_such', reason='no such')")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_a(): pytest.skip('one')\n"
        "def test_b(): pytest.skip('another')\n"
        "def test_c(): assert 1 + 1 == 3\n"
        "def test_d(): pass\n"
    )
    rows: list[dict[str, Any]] = []
    # pytest within pytest: its output is not ours
    code = pytest.main(
        ["-p", "no:cacheprovider", "-q", f"--rootdir={tmp_path}", str(tmp_path)], [Results(rows.append)]
    )
    assert code == 1
    assert {row["name"]: row["why_not"] for row in rows if "skipped: " in row["name"]} == {
        "1 skipped: no such": "no such",
        "1 skipped: one": "one",
        "1 skipped: another": "another",
    }
    (failed,) = [row for row in rows if "traceback" in row]
    assert failed["name"] == "test_some.py::test_c" and failed["why_not"] == "assert (1 + 1) == 3"
    assert {"passed": 1, "failed": 1, "skipped": 2}.items() <= rows_named(rows, "test_some.py")[-1].items()


def rows_named(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["name"] == name]


def test_a_loader_that_fails_is_no_neighbour() -> None:
    class Broken:
        def __next__(self) -> None:
            raise UserError("a shard changed")

    with pytest.raises(UserError, match="a shard changed"), drawing(cast(Loader, Broken()), 0.0):
        pass


def test_pages_say_what_was_measured() -> None:
    common = {
        "device": "NVIDIA H200",
        "driver": "580.1",
        "cpu": "x",
        "versions": {"torch": "2.11"},
        "commit": "a",
    }
    step: dict[str, Any] = {"stage": "step base", "name": "step, vit-base: turbomim", "batch": 512}
    counts: dict[str, Any] = {"passed": 3, "failed": 1, "skipped": 0, "seconds": 2}
    kernel: dict[str, Any] = {"stage": "kernels", "share_of_copy": 0.8, "times_faster": 20.0}
    text = pages(
        [
            step | {"p50": 9.0, "predicted_gb": 1.0, "peak_gb": 9.0} | common,
            step | {"p50": 150_000.0, "predicted_gb": 20.0, "peak_gb": 22.0} | common,
            kernel | {"name": "patches and targets, raw: ours", "p50": 300.0} | common,
            {"stage": "machine", "name": "copy", "value": 4300.0, "unit": "GB/s"} | common,
            {"stage": "tests", "name": "tests/gpu/test_a.py"} | counts | common,
            {"stage": "photographs", "name": "photographs", "why_not": "no DALI"} | common,
            {"stage": "compiled against eager", "name": "difference", "steps": 9, "compiled": 0.02} | common,
            {"name": "of no stage"},
        ]
    )
    assert "| patches and targets, raw | 300.0 | 80% | 20.00 | 0.200% |" in text
    assert "| step, vit-base: turbomim | 512 | 20.00 | 22.00 | 1.10 |" in text and "| 9.00 |" not in text
    assert "| tests/gpu/test_a.py | 3 | 1 | 0 | 2 |" in text
    assert "| copy | 4,300 GB/s |  |" in text
    assert "| photographs | photographs | no DALI |" in text
    assert "Largest difference from the eager loss: compiled 0.02." in text
    assert "| NVIDIA H200 | 580.1 | x | torch 2.11 | a |" in text
    assert pages([{"name": "of no stage"}]) == ""
