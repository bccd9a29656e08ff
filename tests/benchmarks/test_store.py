"""What a bucket costs: the comparison runs, and its counts and its table are right."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from turbomim.benchmarks.loader.process import ask
from turbomim.benchmarks.options import BenchStore
from turbomim.benchmarks.stores import bench, job, reading
from turbomim.benchmarks.stores.bench import FILLS, FOLDER, S3, compare
from turbomim.benchmarks.stores.job import ReadJob, Served
from turbomim.benchmarks.stores.table import EPOCHS, EXACT, TRAINED, Row, tables
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands.cli import call

BATCH, SIZE = 2, 32
COUNT = bench.SHARDS * BATCH


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many JPEGs as there are samples."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(COUNT):
        Image.fromarray(texture(number, 40, 48)).save(folder / f"{number:02d}.jpg", quality=90)
    return folder


def test_whole_comparison(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_here(request: dict[str, Any], seconds: float, module: str) -> dict[str, Any]:
        return reading.answer(request, ReadJob(**request["job"]))

    monkeypatch.setattr(bench, "ask", ask_here)
    by_name = {entrant.name: entrant for entrant in bench.ENTRANTS}
    absent = bench.Entrant(name="LitData", function="litdata", package="no_such_package")
    monkeypatch.setattr(bench, "ENTRANTS", (*(by_name[name] for name in (FOLDER, S3, FILLS)), absent))
    options = BenchStore(
        images=photographs,
        work=tmp_path,
        count=COUNT,
        size=SIZE,
        batch=BATCH,
        rounds=1,
        train_images=0,
        cores=1,
    )
    rows = {row.name: row for row in compare(options)}
    assert rows["LitData"].failure == "not installed: pip install 'turbomim[bench]'"
    for name in (FOLDER, S3, FILLS):
        assert [epoch["images"] for epoch in rows[name].answers[EPOCHS][0]["epochs"]] == [COUNT, COUNT]
    assert EXACT not in rows[FILLS].answers and list((tmp_path / "server" / "ours").rglob("*.tar"))
    answers = rows[S3].answers
    streamed = answers[EXACT][0]
    assert streamed["hits"] == 0 and 0 < streamed["requests"] <= COUNT
    assert 1 <= streamed["sent_bytes"] / streamed["wanted_bytes"] < 3
    for share in bench.SHARES:
        cached = answers[f"{share:.0%} cached"][0]
        assert cached["hits"] == share * COUNT
        assert 0 < cached["sent_bytes"] < streamed["sent_bytes"]
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    assert {(line["name"], line["what"]) for line in lines} >= {(FOLDER, EPOCHS), (S3, EPOCHS), (S3, EXACT)}
    assert "AWS_SECRET_ACCESS_KEY" not in "".join(map(json.dumps, lines))
    assert f"| {S3}, 50% cached | " in (tmp_path / "store.md").read_text()


def test_counts_of_the_server() -> None:
    text = (
        'SeaweedFS_s3_request_total{bucket="a",code="206",type="GET"} 1.2e+03\n'
        'SeaweedFS_s3_request_total{bucket="a",code="200",type="LIST"} 3\n'
        'SeaweedFS_s3_bucket_traffic_received_bytes_total{bucket="a"} 5\n'
        'SeaweedFS_s3_bucket_traffic_sent_bytes_total{bucket="a"} 2.5e+08\n'
    )
    assert job.counts(text) == (1203, 250_000_000)
    assert Served(requests=7, sent_bytes=9, cpu_s=2).since(Served(requests=4, cpu_s=0.5)) == Served(
        requests=3, sent_bytes=9, cpu_s=1.5
    )


def epoch(rate: float, sent: int = 0) -> dict[str, Any]:
    facts = {"images": 100, "cpu_s": 0.5, "server_cpu_s": 0.25, "requests": 90, "memory_mb": 400}
    return facts | {"images_per_s": rate, "sent_bytes": sent}


def test_table() -> None:
    counts = {"images": 100, "requests": 90, "hits": 25, "wanted_bytes": 1000, "sent_bytes": 1010}
    base = Row(name=FOLDER)
    base.answers = {
        EPOCHS: {number: {"epochs": [epoch(100 * 2**number), epoch(100)]} for number in range(3)},
        TRAINED: {0: epoch(50) | {"wait_pct": 0}},
    }
    streamed = Row(name=S3)
    streamed.answers = {
        EXACT: {0: counts},
        # of the medians 0.5, of the rounds 0.9
        EPOCHS: {
            number: {"epochs": [epoch(rate, 1020), epoch(90, 1000)]}
            for number, rate in enumerate((90, 100, 360))
        },
        TRAINED: {0: epoch(49) | {"wait_pct": 1.25}},
    }
    text = tables([base, streamed, Row(name="LitData", failure="not installed")], FOLDER)
    assert f"| {S3} | 1 | 100 (90 to 360) | 0.90 | 0.50 | 0.25 | 900 | 1.010 | 400 |" in text
    assert f"| {S3} | 49 (49 to 49) | 0.980 | 1.25 % | 0.50 | 0.25 |" in text
    assert f"| {S3} | 900 | 1.0100 | 25.0 % |" in text
    assert text.endswith("- LitData: not installed")


def test_a_broken_reader_is_one_line(tmp_path: Path) -> None:
    asked = ReadJob(where=str(tmp_path / "none"), samples=2, cores=1, batch=2, side=SIZE)
    with pytest.raises(RuntimeError, match=r"^[\w.]*UserError: .*none.*$"):
        ask({"count": True, "job": asked.to_json()}, 60, bench.READING)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "1500"], "--count 1500: take a multiple of 1024"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--readers", "nosuch"], "--readers has 'nosuch': choose among turbomim: folder"),
    ],
)
def test_what_a_user_gets_wrong(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        call(["bench", "store", "--images", str(tmp_path), "--work", str(tmp_path / "work"), *flags])
    assert message in str(error.value) and "\n" not in str(error.value)
