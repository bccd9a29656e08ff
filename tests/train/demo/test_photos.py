"""The demo photographs: the table, the hold-out, the rectangles, and a small set cut for real."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from turbomim.pipeline.system.errors import UserError
from turbomim.train.demo.photos import GROUPS, cut_photos, heldout_groups, rectangle, sources, spread


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dst = tmp_path_factory.mktemp("photos") / "below" / "set"
    cut_photos(dst, images=24, seed=3)
    return dst


def test_table_has_enough_photographs_with_usable_names() -> None:
    names = [source.name for source in sources()]
    assert len(names) >= 50
    assert len(set(names)) == len(names)
    assert not any(set(". /") & set(name) for name in names)
    assert len({group for group, _, _ in GROUPS}) == len(GROUPS)


def test_some_but_not_most_photographs_are_held_out() -> None:
    heldout = heldout_groups()
    assert 8 <= sum(source.group in heldout for source in sources()) <= 12


def test_no_group_is_on_both_sides(cut: Path) -> None:
    group_of = {source.name: source.group for source in sources()}
    sides = {side: {group_of[p.name] for p in (cut / side).iterdir()} for side in ("train", "heldout")}
    assert sides["train"] and sides["heldout"]
    assert not sides["train"] & sides["heldout"]
    assert sides["heldout"] <= heldout_groups()


def test_set_has_the_asked_number_of_baseline_jpegs_of_photograph_size(cut: Path) -> None:
    counts = {side: len(list((cut / side).glob("*/*.jpg"))) for side in ("train", "heldout")}
    assert counts == {"train": 21, "heldout": 3}
    for path in cut.glob("*/*/*.jpg"):
        assert path.stem.rpartition("_")[0] == path.parent.name
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.mode == "RGB" and "progressive" not in image.info
            assert max(image.size) <= 500 and min(image.size) <= 375 and max(image.size) >= 200
            # a flat picture would mean that a rectangle missed the photograph
            extrema: Any = image.getextrema()
            assert max(high - low for low, high in extrema) > 40


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(cut: Path, tmp_path: Path) -> None:
    cut_photos(tmp_path / "same", images=24, seed=3)
    assert digests(tmp_path / "same") == digests(cut)
    cut_photos(tmp_path / "other", images=24, seed=4)
    # the very first draw of every source differs, so no picture is shared
    assert not set(digests(tmp_path / "other").values()) & set(digests(cut).values())


def test_a_complete_set_is_returned_untouched(cut: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*")}
    report = cut_photos(cut, images=24, seed=3)
    assert (report.train_images, report.heldout_images) == (21, 3)
    assert {path: path.stat().st_mtime_ns for path in cut.rglob("*")} == before


def test_other_arguments_or_a_lost_file_are_refused(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cut with images 24, seed 3: remove it"):
        cut_photos(cut, images=25, seed=0)
    dst = tmp_path / "set"
    cut_photos(dst, images=16)
    next(dst.glob("train/*/*.jpg")).unlink()
    with pytest.raises(UserError, match="holds 15 photographs"):
        cut_photos(dst, images=16)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"images": 16})])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "photos.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="holds no demo photographs"):
        cut_photos(tmp_path, images=16)
    assert [path.name for path in tmp_path.iterdir()] == ["photos.json"]


def test_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else real(name))
    with pytest.raises(
        UserError, match=r'scikit-image, which is not installed: pip install "turbomim\[demo\]"'
    ):
        cut_photos(tmp_path / "set", images=16)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        (tmp_path / f".set.part-{os.getpid()}" / "train").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("turbomim.train.demo.photos._cut_all", full)
    with pytest.raises(UserError, match="No space left on device"):
        cut_photos(tmp_path / "set", images=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [{"images": 15}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(arguments))} = "):
        cut_photos(tmp_path / "set", **arguments)


@pytest.mark.parametrize(
    "photograph", [(640, 426), (426, 640), (318, 238), (512, 512), (3264, 2448), (2548, 2520)]
)
def test_rectangles_lie_inside_and_are_never_enlarged(photograph: tuple[int, int]) -> None:
    ends = (0.0, 0.5, 0.999999)
    for draws in [(a, b, c, d) for a in ends for b in ends for c in ends for d in ends]:
        (left, top, right, bottom), (width, height) = rectangle(photograph, draws)
        assert 0 <= left < right <= photograph[0] and 0 <= top < bottom <= photograph[1]
        assert width <= right - left and height <= bottom - top
        assert max(width, height) <= 500 and min(width, height) <= 375
        # 4:3 within the rounding of one pixel, before and after
        for long, short in ((right - left, bottom - top), (width, height)):
            assert abs(max(long, short) * 3 / 4 - min(long, short)) <= 1.5


def test_a_rectangle_can_be_the_whole_photograph() -> None:
    assert rectangle((2000, 1500), (0.0, 1.0, 0.5, 0.5)) == ((0, 0, 2000, 1500), (500, 375))


def test_spread_is_exact_and_proportional() -> None:
    assert spread(10, [1, 1, 1]) in ([3, 4, 3], [3, 3, 4], [4, 3, 3])
    weights = [1.0, 4.0, 2.5, 1.0, 3.3]
    for count in (0, 1, 7, 400):
        shares = spread(count, weights)
        assert sum(shares) == count
        assert all(
            abs(share - count * w / sum(weights)) < 1 for share, w in zip(shares, weights, strict=True)
        )
