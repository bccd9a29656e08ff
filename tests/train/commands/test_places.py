"""Every command that takes a split takes a store of objects, and finds there what it finds in a folder.

Planted, each seen to fail: a Path made of the URL, images of a store handed out in reverse
(`test_the_same_of_a_store`), the environment written beside the settings (`test_a_run_on_a_store`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.calls import call
from tests.runs import config_for, outcome, quiet

from turbomim.benchmarks.stores.weed import FULL
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain

CPU = ("--device", "cpu")
SCORED = ("--train", "DATA", "--test", "DATA", "--samples", "25", *CPU)
COMMANDS = {
    "knn": ("eval", "knn", "RUN", *SCORED, "--json", "OUT/a.json"),
    "embed": ("embed", "RUN", "DATA", "--out", "OUT/a.npz", *CPU),
    "frequency": ("analyze", "frequency", "RUN", "--data", "DATA", "--images", "8", *CPU, "--out", "OUT"),
    "coverage": (
        *("analyze", "coverage", "--data", "DATA", "--size", "64", "--mask-unit", "16", "--crops", "rrc:0.2"),
        *("--out", "OUT"),
    ),
    "show": ("show", "RUN", "--data", "DATA", "--images", "2", "--out", "OUT/a.png"),
    "inspect": ("shard", "inspect", "DATA"),
}


def train(data: str, runs: Path) -> Path:
    """A few steps, with held-out loss and scores, all on one split."""
    config = config_for(
        Path("unused"), runs, data={"path": data, "heldout": data},
        optim={"epochs": 0.5, "warmup_epochs": 0.0},
        eval={"train": data, "test": data, "every_epochs": 0.5, "samples": 20, "probe": False},
    )  # fmt: skip
    return pretrain(config, console=quiet()).folder


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder."""
    return train(str(tiny_split.folder), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def remote(trees: Path, s3: str) -> str:
    """The URL of the same split in the store."""
    place = open_place(s3)
    for path in trees.iterdir():
        place.put(path.name, path)
    return s3


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_of_a_store(
    name: str,
    run: Path,
    trees: Path,
    remote: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, data in enumerate((str(trees), remote)):
        out = tmp_path / str(number)
        out.mkdir()
        places = {"DATA": data, "RUN": str(run), "OUT": str(out)}
        words = [word.replace("OUT", str(out)) for word in COMMANDS[name]]
        assert call(monkeypatch, *(places.get(word, word) for word in words)) == 0
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "1").iterdir())
    for each in names:
        local, of_store = (tmp_path / number / each for number in "01")
        if each.endswith(".json"):
            text = of_store.read_text().replace(remote, str(trees))
            assert json.loads(text) == json.loads(local.read_text())
        elif not each.endswith(".npz"):
            assert of_store.read_bytes() == local.read_bytes(), each


def test_a_run_on_a_store(
    run: Path,
    remote: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_store = train(remote, tmp_path / "runs")
    assert outcome(of_store) == outcome(run)
    assert call(monkeypatch, "report", str(of_store), "--out", str(tmp_path / "r.html")) == 0
    assert call(monkeypatch, "compare", str(of_store), str(run), "--out", str(tmp_path / "c.png")) == 0
    assert remote in (tmp_path / "r.html").read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    for key in (FULL.access, FULL.secret):
        assert not [path for path in written if key.encode() in path.read_bytes()]
    said = capsys.readouterr()
    assert FULL.secret not in said.out + said.err
