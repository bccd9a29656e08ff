"""Tables and plots out of rows of results.

Which test fails for which mistake (each was made once, on purpose):
ratios of medians instead of the median of ratios, rounds of two machines mixed: test_rows_become_tables;
a damaged line passed over: test_a_line_that_is_no_row_is_named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from turbomim.benchmarks.report import bench_report_command
from turbomim.benchmarks.tables import entries, markdown
from turbomim.benchmarks.timing import report
from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands.cli import call

MACHINE = {"device": "cpu", "threads": 2, "commit": "abc"}


def loader_rows(name: str, speeds: list[float], **machine: Any) -> list[dict[str, Any]]:
    common = {"name": name, "store": "original", "unit": "img/s"} | MACHINE | machine
    return [common | {"round": number, "images_per_s": speed} for number, speed in enumerate(speeds)]


def test_rows_become_tables() -> None:
    rows = [
        *loader_rows("PIL + DataLoader", [100, 50, 200]),
        *loader_rows("turbomim", [100, 300, 400]),
        *loader_rows("turbomim", [900], device="NVIDIA H200"),
        json.loads(report("step, vit-small: textbook", [2.0, 2.0, 2.0], 16, [2.0, 2.0, 2.0])),
        json.loads(
            report("step, vit-small: turbomim", [1.0, 1.0, 1.0], 16, [2.0, 3.0, 2.5], mfu=0.42, peak_gb=1.5)
        ),
        {"name": "original", "psnr_db_p50": 78.1},
    ]
    found, others = entries(rows)
    assert others == 1
    text = markdown(found)
    loader, step = text.split("**step, vit-small**")
    # the median of the rounds' ratios 1, 6 and 2; that of the medians would be 3
    assert "| turbomim | cpu, 2 threads, abc | 300 (100 to 400) | 2.00 | 3 |  |" in loader
    assert "| turbomim | NVIDIA H200, 2 threads, abc | 900 (900 to 900) |  | 1 |  |" in loader
    lines = [line for line in step.splitlines() if line.startswith(("| turbomim", "| textbook"))]
    assert [line.split(" | ")[0] for line in lines] == ["| turbomim", "| textbook"], "the fastest first"
    assert "| 16.0 (16.0 to 16.0) | 2.50 | 3 | MFU 42%, 1.50 GB |" in lines[0]


@pytest.mark.parametrize("line", ['{"name": "cut', "[1]", '"text"'])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(loader_rows('a', [1])[0])}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        call(["bench", "report", str(path)])
    assert f"{path}, line 3, is not" in str(error.value) and "\n" not in str(error.value)


def test_files_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.jsonl: No such file"):
        bench_report_command([str(tmp_path / "none.jsonl")])
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"0 rows in .*empty.jsonl"):
        bench_report_command([str(tmp_path / "empty.jsonl")])


def test_several_files_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, device in enumerate(("cpu", "NVIDIA A100")):
        lines = (json.dumps(row) for row in loader_rows("turbomim", [100.0, 110.0], device=device))
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = [str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl")]
    picture = tmp_path / "new" / "plot.png"
    bench_report_command([*files, "--plot", str(picture)])
    assert capsys.readouterr().out.count("| turbomim |") == 2
    with Image.open(picture) as image:
        assert image.width > 800
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"^--plot needs matplotlib: pip install 'turbomim\[plots\]'$"):
        bench_report_command([*files, "--plot", str(picture)])
