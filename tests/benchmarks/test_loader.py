"""The comparison of loaders: every peer of the development set gives the right pictures, the numbers are
summed up as stated, and a peer that is missing, wrong or broken costs one line."""

import io
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from tests.runs import finish, launch

from turbomim.benchmarks.loader import bench as bench_loader
from turbomim.benchmarks.loader import sets as bench_loader_sets
from turbomim.benchmarks.loader.bench import compare, measure_all
from turbomim.benchmarks.loader.entrants import Entrant, missing
from turbomim.benchmarks.loader.job import PEERS, REFERENCE, Job, endless, peer_module, sorted_files
from turbomim.benchmarks.loader.peers import pil_files
from turbomim.benchmarks.loader.process import ask, reason
from turbomim.benchmarks.loader.run import Stretch, check, definition, measure
from turbomim.benchmarks.loader.sets import Encoding, Sets, members
from turbomim.benchmarks.loader.table import Measurement, Row, plot, ratio, table
from turbomim.benchmarks.options import BenchLoader
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.store import Kind
from turbomim.train.commands.cli import call

SIZE, PHOTOGRAPHS = 32, 12


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 JPEGs in two folders, of even and odd sides."""
    folder = tmp_path_factory.mktemp("bench") / "photographs"
    for number in range(PHOTOGRAPHS):
        path = folder / f"class{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(texture(number, 12, 9)).resize((64 + number, 96), Image.Resampling.BICUBIC)
        smooth.save(path, quality=98, subsampling=0)
    return folder


def make_sets(images: Path, work: Path, **changes: Any) -> Sets:
    encoding = Encoding.parse("96:4:4:4")
    options = {"count": 0, "reencode": encoding, "size": SIZE, "resized": encoding, "cores": 2}
    return Sets(images=images, work=work, **cast(Any, options | changes))


@pytest.fixture(scope="module")
def sets(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(photographs, tmp_path_factory.mktemp("work"))


IN_DEV = (REFERENCE, "torchvision v2", "webdataset", "DALI", "turbomim")


@pytest.mark.parametrize(
    ("name", "store"),
    [*((name, "original") for name in IN_DEV), ("turbomim", "resized"), ("turbomim", "raw")],
)
def test_peer_gives_the_right_pictures(name: str, store: Kind, sets: Sets, tmp_path: Path) -> None:
    folder, _ = sets.get(store, PEERS[name])
    originals, _ = sets.get("original", PEERS[REFERENCE])
    job = Job(folder=folder, cores=1, batch=8, size=SIZE)
    # libraries leave threads and workers behind; fresh processes are begun in the whole comparison
    assert finish(launch(write_deviation, PEERS[name], job, originals, tmp_path / "deviation")) == 0
    assert 0 < float((tmp_path / "deviation").read_text()) < 3


def write_deviation(peer: str, job: Job, originals: Path, out: Path) -> None:
    # of a fresh process, which this one is not
    multiprocessing.set_start_method("fork", force=True)
    out.write_text(str(check(peer_module(peer), job, sorted_files(originals))))


def test_whole_comparison(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module("litdata_chunks"), "PACKAGE", "no_such_package")
    options = BenchLoader(
        images=photographs,
        work=tmp_path,
        peers="LitData,turbomim",
        stores="original",
        size=SIZE,
        batch=8,
        rounds=1,
        seconds=0.1,
        min_images=20,
    )
    rows = {row.name: row for row in compare(options)}
    assert set(rows) == {REFERENCE, "LitData", "turbomim"}
    for name in (REFERENCE, "turbomim"):
        assert len(rows[name].rounds) == 1, rows[name].failure
        assert all(
            m.images >= 20 and m.memory_mb > 10 and m.cpu_s_per_1000 > 0 for m in rows[name].rounds.values()
        )
    assert rows["LitData"].failure == "not installed: pip install 'turbomim[bench]'"
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["round"], line["name"]) for line in lines] == [
        (0, name) for name in (REFERENCE, "turbomim")
    ]
    assert "| turbomim |" in (tmp_path / "table.md").read_text()


def test_rounds_alternate_and_a_failure_ends_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask_fake(request: dict[str, Any], seconds: float) -> dict[str, float]:
        asked.append(request["peer"])
        if asked.count("b") == 2 and request["peer"] == "b":
            raise RuntimeError("out of memory")
        return asdict(row("", 100.0 * len(asked)).rounds[0])

    monkeypatch.setattr(bench_loader, "ask", ask_fake)
    entrants = [
        Entrant(
            row=Row(name=name, store="original", failure=failure),
            module=name,
            job=Job(folder=Path(), cores=1),
        )
        for name, failure in (("a", ""), ("b", ""), ("c", "not installed"))
    ]
    measure_all(entrants, BenchLoader(images=tmp_path, rounds=3), tmp_path / "results.jsonl")
    assert asked == ["a", "b", "a", "b", "a"]
    assert [list(entrant.row.rounds) for entrant in entrants] == [[0, 1, 2], [0], []]
    assert entrants[1].row.failure == "failed in round 2: out of memory"
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["round"], line["name"], line["images_per_s"]) for line in lines] == [
        (0, "a", 100),
        (0, "b", 200),
        (1, "a", 300),
        (2, "a", 500),
    ]


def test_sample_numbers_are_the_same_in_every_set(sets: Sets) -> None:
    files = sorted_files(sets.get("original", "pil_files")[0])
    shards, _ = sets.get("original", "turbomim_shards")
    assert [file.read_bytes() for file in files] == [content for _, content in members(shards)]
    assert len(files) == PHOTOGRAPHS
    # a context manager of its own type: Pillow before 13 annotates that of its base class
    with closing(JpegImageFile(files[0])) as image:
        # the tables of quality 96, not those of the photographs' 98
        assert image.quantization[0] == quantization(96) != quantization(98)


def quantization(quality: int) -> list[int]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return JpegImageFile(buffer).quantization[0]


def test_sets_are_kept_and_what_was_cut_short_is_made_again(photographs: Path, tmp_path: Path) -> None:
    sets = make_sets(photographs, tmp_path, count=3, reencode=None)
    folder, seconds = sets.get("original", "turbomim_shards")
    assert sets.get("original", "turbomim_shards") == (folder, seconds)
    (folder / "manifest.json").unlink()
    folder.with_name(f"{folder.name}.seconds.json").unlink()
    sets.get("original", "turbomim_shards")
    assert (folder / "manifest.json").exists()
    assert make_sets(photographs, tmp_path, count=4).get("original", "turbomim_shards")[0] != folder


def fake(images: torch.Tensor) -> ModuleType:
    def batches(job: Job) -> Iterator[torch.Tensor]:
        yield images

    return cast(ModuleType, SimpleNamespace(batches=batches))


@pytest.mark.parametrize("wrong", ["flipped", "shifted", "float", "small"])
def test_wrong_pictures_are_refused(wrong: str, sets: Sets) -> None:
    originals = sorted_files(sets.get("original", "pil_files")[0])
    right = torch.from_numpy(
        np.stack([definition(path, SIZE).round() for path in originals]).astype(np.uint8)
    )
    job = Job(folder=Path(), cores=1, batch=PHOTOGRAPHS, size=SIZE)
    assert check(fake(right), job, originals) < 0.5
    spoilt = {
        "flipped": right.flip(2),
        "shifted": right.roll(2, dims=1),
        "float": right.float(),
        "small": right[:, 1:],
    }
    with pytest.raises(ValueError, match=r"of 255|crops of"):
        check(fake(spoilt[wrong]), job, originals)


def test_measure_discards_and_counts() -> None:
    def batches() -> Iterator[torch.Tensor]:
        for number in itertools.count():
            yield torch.zeros(1 if number < 5 else 4, 2, 2, 3, dtype=torch.uint8)

    answer = measure(batches(), Stretch(discard=5, seconds=0.05, images=100))
    assert answer["images"] >= 100 and answer["seconds"] >= 0.05
    # any of the first five would leave a remainder
    assert answer["images"] % 4 == 0
    assert answer["images_per_s"] == answer["images"] / answer["seconds"]


def test_endless_gives_each_sample_once_an_epoch() -> None:
    order = endless(5, train=True)
    epochs = [sorted(next(order) for _ in range(5)) for _ in range(3)]
    assert epochs == [[0, 1, 2, 3, 4]] * 3


def row(name: str, *speeds: float, store: str = "original", **facts: Any) -> Row:
    made = Row(name=name, store=store, **facts)
    for number, speed in enumerate(speeds):
        made.rounds[number] = Measurement(
            images_per_s=speed, cpu_s_per_1000=2000 / speed, memory_mb=500, images=100, seconds=100 / speed
        )
    return made


def test_ratio_is_the_median_of_the_rounds() -> None:
    # the medians, 300 and 100, would give 3
    assert ratio(row("a", 100, 300, 400), row("b", 100, 50, 200)) == 2
    assert ratio(row("a"), row("b", 100)) is None


def test_table() -> None:
    reference = row(REFERENCE, 100, 110, 120)
    rows = [
        reference,
        row("turbomim", 300, 310, 330, conversion_s=4.2, deviation=0.25, note="a note"),
        row("ffcv", failure="not installed"),
        row("turbomim", 900, store="raw"),
    ]
    text = table(rows, reference, cores=2)
    original, raw = text.split("**Resized before (raw")
    lines = original.splitlines()
    assert lines[4] == "| turbomim | 310 (300 to 330) | 2.82 | 155 | 6.45 | 500 | 4.2 | 0.25 |"
    assert lines[5] == f"| {REFERENCE} | 110 (100 to 120) | 1.00 | 55 | 18.18 | 500 | none | 0.00 |"
    assert lines[7:9] == ["- turbomim: a note", "- ffcv: not installed"]
    assert "| turbomim | 900 (900 to 900) | 9.00 |" in raw


def test_plot(tmp_path: Path) -> None:
    rows = [row(REFERENCE, 100, 110), row("turbomim", 300, 310), row("turbomim", 900, store="raw")]
    plot(rows, tmp_path / "images" / "bench.png", cores=2)
    with Image.open(tmp_path / "images" / "bench.png") as image:
        assert image.width > 800


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("pil_files") == ""
    monkeypatch.setattr(pil_files, "PACKAGE", "no_such_package.io")
    assert missing("pil_files") == "not installed: pip install 'turbomim[bench]'"
    # no part of that extra: it holds other packages back
    monkeypatch.setattr(peer_module("streaming_mds"), "PACKAGE", "no_such_package")
    assert missing("streaming_mds").startswith("not installed: pip install 'turbomim[bench,mosaic]', which ")


def test_a_broken_peer_is_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"^ModuleNotFoundError: .*no_such_peer"):
        ask({"peer": "no_such_peer"}, 10)
    assert reason("Traceback\nValueError: bad\n  hint\n") == "ValueError: bad"
    assert reason("Killed\n") == "Killed"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--peers", "nosuch"], "--peers has 'nosuch': choose among"),
        (["--stores", "cooked"], "--stores has 'cooked': choose among original, resized, raw"),
        (["--cores", "0"], "--cores 0 is outside 1 to"),
        (["--reencode", "96"], "'96' is no encoding: write QUALITY:SUBSAMPLING"),
        ([], "no JPEG files in"),
    ],
)
def test_what_a_user_gets_wrong(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        call(["bench", "loader", "--images", str(tmp_path), "--work", str(tmp_path / "work"), *flags])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bench_needs_a_name() -> None:
    with pytest.raises(UsageError, match="bench needs a command: loader, groups, kernels"):
        call(["bench"])
    with pytest.raises(UsageError, match="unknown bench command 'kernel': did you mean kernels"):
        call(["bench", "kernel"])


def test_sets_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").write_bytes(bytes(1000))
    assert bench_loader_sets.read_all(tmp_path) == 1000
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(UserError, match="--count"):
        bench_loader.warm({tmp_path})
