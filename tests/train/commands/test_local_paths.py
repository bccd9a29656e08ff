"""Every flag that takes a path of this machine refuses a URL in one line, before anything is read or made."""

from pathlib import Path

import pytest
from tests.calls import call

URL = "s3://bucket/x"
RECIPE = "cifar10-vit-t4"
CASES = {
    "sheet": ("--sheet", "shard inspect shards --sheet URL/a.png"),
    "report of a check": ("--report", "shard verify shards --report=URL/a.jsonl"),
    "root": ("--root", "shard make list.csv shards --root URL"),
    "out of a report": ("--out", "report runs/a --out URL/a.html"),
    "a run": ("runs", "report runs/a URL"),
    "out of features": ("--out", "embed runs/a photos --out URL/a.npz"),
    "a run's encoder": ("run", "embed URL photos --out a.npz"),
    "scores": ("--json", "eval knn runs/a --train a --test b --json URL/a.json"),
    "picture": ("--out", "show runs/a --out URL/a.png"),
    "export": ("--out", "export runs/a --to timm --out URL"),
    "analysis": ("--out", "analyze layers runs/a --out URL"),
    "foreign weights": ("file", "import URL/a.pth --from mae"),
    "demo": ("--folder", "demo --folder URL"),
    "settings": ("--config", f"pretrain {RECIPE} --config URL/a.yaml"),
    "run folder": ("run.folder", f"pretrain {RECIPE} --data.path shards --run.folder URL"),
    "cache": ("data.cache", f"pretrain {RECIPE} --data.path shards --data.cache URL --data.cache_gb 1"),
    "all benchmarks": ("--out", "bench all --out URL"),
    "benchmarks of a GPU": ("--out", "bench gpu --out URL"),
    "work": ("--work", "bench store --work URL"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("url", [URL, "s3:/bucket/x"])
def test_a_url_for_a_path_of_this_machine(
    case: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, words = CASES[case]
    assert call(monkeypatch, *words.replace("URL", url).split()) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and f" {name} " in said and "must be a path of this machine" in said, said
    assert not list(tmp_path.iterdir())


def test_an_index_of_tars_in_a_store_goes_into_a_folder(
    s3: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "shard", "index", s3, "--into", f"{s3}/index") == 2
    assert "--into s3://turbomim/" in capfd.readouterr().err


def test_a_list_in_a_store(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "shard", "make", f"{URL}/list.csv", "shards") == 1
    assert "a list and its images must be files of this machine: copy them here" in capfd.readouterr().err
