"""Fixtures of the whole suite: a folder of small photographs, and the same as a split of uneven shards.

What is in tests/gpu needs torch, Triton, numpy, timm, rich, safetensors, PyYAML and pytest alone: it runs on
a bare machine with a GPU.  With `--device cpu` it rehearses on this CPU.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import keep_float32
from turbomim.benchmarks.stores import weed
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.split import Split, open_split

with contextlib.suppress(ModuleNotFoundError):
    from hypothesis import settings

    # the same cases every time, and no limit on a busy machine
    settings.register_profile("steady", deadline=None, derandomize=True)
    settings.load_profile("steady")

    import hypothesis.internal.conjecture.providers as of_cases

    # nor do cases depend on the constants of what happens to be imported
    setattr(of_cases, "is_local_module_file", lambda path: False)  # noqa: B010

CLASSES = ("ash", "birch", "cedar")
PER_CLASS = 11
SAMPLES_PER_SHARD = 9


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "where tests/gpu runs; on a CPU it only rehearses (default: cuda)"
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in tests/gpu, and skip it where there is no GPU."""
    absent = config.getoption("--device") == "cuda" and not torch.cuda.is_available()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if absent:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where tests/gpu runs; a CPU gets smaller sizes."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees, or changes, what was tuned on this machine; runs are float32, on every processor."""
    os.environ["TURBOMIM_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    keep_float32()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 class folders with 11 images each: JPEG of 40 to 200 pixels, one PNG a class, and one WebP in all."""
    folder = tmp_path_factory.mktemp("photos") / "trees"
    sizes = np.random.default_rng(0).integers(40, 200, (len(CLASSES) * PER_CLASS, 2))
    for number, (height, width) in enumerate(sizes.tolist()):
        label, place = divmod(number, PER_CLASS)
        extension = "png" if place == 3 else "webp" if number == 5 else "jpg"
        path = folder / CLASSES[label] / f"tree_{number:02d}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(number, height, width)).save(path, quality=90)
    return folder


@pytest.fixture(scope="session")
def tiny_split(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """`photo_folder` as a split of 33 samples in shards of 9, 9, 9 and 6.  Do not change its files."""
    folder = tmp_path_factory.mktemp("shards") / "trees"
    make_shards(photo_folder, folder, ShardSettings(shard_size=SAMPLES_PER_SHARD))
    return open_split(folder)


@pytest.fixture(scope="session")
def trees(tiny_split: Split) -> Path:
    """The folder of `tiny_split`."""
    return tiny_split.folder


@pytest.fixture
def own_trees(tiny_split: Split, tmp_path: Path) -> Path:
    """A copy of `tiny_split`'s folder that keeps the times, free to be damaged."""
    return Path(shutil.copytree(tiny_split.folder, tmp_path / "split"))


@pytest.fixture
def own_split(own_trees: Path) -> Split:
    """The split in `own_trees`."""
    return open_split(own_trees)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[weed.Weed]:
    """A running S3 server, this process's own: a test may kill it, and starts it again."""
    folder = tmp_path_factory.mktemp("store")
    with weed.weed_server(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def s3(store: weed.Weed, monkeypatch: pytest.MonkeyPatch, numbers: Iterator[int]) -> str:
    """The URL of this test's own place in the store's bucket; the environment has the keys."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{weed.BUCKET}/test-{next(numbers)}"


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    """0, 1, 2, …"""
    return itertools.count()
