"""The benchmark of products and attention on a CPU: every form of every shape, once each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turbomim.benchmarks.kernels import cpu
from turbomim.kernels.linear import ONEDNN, use_onednn


def test_every_form_has_a_line_and_a_place_in_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "PRODUCTS", ((6, 4, 8), (5, 8, 4)))
    monkeypatch.setattr(cpu, "ATTENTIONS", ((2, 1, 5, 8),))
    monkeypatch.setattr("sys.argv", ["cpu", "--rounds", "2", "--out", str(tmp_path / "lines.jsonl")])
    cpu.main()
    use_onednn(ONEDNN)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 6 + 3 and len({line["name"] for line in lines}) == len(lines)
    assert all(line["n"] == 2 and line["p50"] > 0 for line in lines)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [8, 8, 8, 8, 5, 5, 5]
    assert rows[2].startswith("| 6, 4 → 8 |") and rows[6].startswith("| 2, 1, 5, 8 |")
