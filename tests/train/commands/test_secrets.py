"""No key and no token in anything that a run writes or says, be it well or ill.

Planted, each seen to fail: the environment in env.json; a key in the words of a refusal.
"""

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tests.calls import call
from tests.runs import config_for, keep_float32

from turbomim.benchmarks.stores import weed
from turbomim.benchmarks.stores.fault_proxy import fault_proxy
from turbomim.benchmarks.stores.faults import Fault, first
from turbomim.pipeline.places import retries
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain

TOKEN = "distinct-session-token-0123456789"
SECRETS = (weed.FULL.secret, TOKEN, weed.BAD.secret)


def test_no_secret_is_written_or_said(
    store: weed.Weed,
    s3: str,
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "home"))
    keep_float32()
    monkeypatch.setattr(retries, "LIMIT_NEW", 0.4)
    place = open_place(f"{s3}/shards")
    for path in sorted(tiny_split.folder.iterdir()):
        place.put(path.name, path)
    where = str(place)
    data = {"path": where, "heldout": where, "cache": str(tmp_path / "cache"), "cache_gb": 1.0}
    config = config_for(
        Path(), tmp_path / "runs", data=data, optim={"epochs": 1}, run={"mirror": f"{s3}/runs"}
    )
    evaluation = ("eval", "knn", str(tmp_path / "runs" / "r"), "--train", where, "--test", where)
    with (
        fault_proxy(store.endpoint, first(1, Fault.ERROR, below=".tar")) as proxy,
        (tmp_path / "console").open("w") as out,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        pretrain(config, console=Console(file=out, width=200))
        assert call(monkeypatch, *evaluation) == 0
        # and where nothing works: answers that repeat the request, then none
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.BAD.secret)
        assert call(monkeypatch, *evaluation) == 1
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert call(monkeypatch, *evaluation) == 1
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, store.environment[name])
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    mirror = open_place(f"{s3}/runs")
    (tmp_path / "mirror").mkdir()
    for number, name in enumerate(mirror.files()):
        (tmp_path / "mirror" / f"{number}").write_bytes(mirror.read(name))
    said = capfd.readouterr()
    (tmp_path / "said").write_text(said.out + said.err)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).parts[0] for path in written} >= {"runs", "cache", "mirror", "console"}
    assert "nobody listens there" in said.err
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
    shutil.rmtree(tmp_path / "runs")
