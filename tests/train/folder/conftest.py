"""A run that nothing befell, and runs with a mirror that tests may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.runs import finish
from tests.train.folder.mirroring import hurried, mirrored, start

from turbomim.pipeline.tars.split import Split
from turbomim.train.settings.config import Config


@pytest.fixture(scope="session")
def whole(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing befell, without a mirror."""
    runs = tmp_path_factory.mktemp("whole")
    assert finish(start(hurried, mirrored(tiny_split.folder, runs, ""))) == 0
    return runs / "r"


@pytest.fixture(scope="session")
def ended(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that is done, r, and its mirror, mirror/r."""
    runs = tmp_path_factory.mktemp("ended")
    config = mirrored(tiny_split.folder, runs, runs / "mirror", keep=4, picture_every=10)
    assert finish(start(hurried, config)) == 0
    return runs


@pytest.fixture
def done(ended: Path, trees: Path, tmp_path: Path) -> Config:
    """A run that is done, with its mirror, free to be damaged."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    return mirrored(trees, tmp_path, tmp_path / "mirror", keep=4)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where mirrors are."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "mirror")
