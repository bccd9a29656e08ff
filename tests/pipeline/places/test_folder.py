"""A folder as a place: what is listed while others write.

Planted, each seen to fail: a listing that ends at a file that has just gone, or leaves out a link to nothing.
"""

from pathlib import Path

import pytest

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Status


def test_a_file_that_goes_meanwhile_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", ".b.tmp", "c"):
        (tmp_path / name).write_bytes(b"123")
    status = Folder.status

    def renamed(self: Folder, name: str) -> Status:
        (tmp_path / ".b.tmp").unlink(missing_ok=True)
        return status(self, name)

    monkeypatch.setattr(Folder, "status", renamed)
    assert list(Folder(tmp_path).files()) == ["a", "c"]


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(FileNotFoundError, match=r"a\.tar"):
        Folder(tmp_path).files()
