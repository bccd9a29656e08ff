"""A folder of a few photographs that lists name."""

from pathlib import Path

import pytest
from tests.pipeline.making.test_pack import save_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with x/a.jpg, x/b.jpg, y/c.jpg and 'd, e.jpg'."""
    for number, name in enumerate(("x/a.jpg", "x/b.jpg", "y/c.jpg", "d, e.jpg")):
        save_image(tmp_path / "photos" / name, seed=number)
    return tmp_path / "photos"
