"""`turbomim shard make` as people see it: flags, progress, and what is said at the end.

Planted: "already whole" wherever every shard was kept, which
`test_a_run_that_only_moved_files_into_place_says_so` fails.
"""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.pipeline.making.test_pack import save_image

from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.store import Store
from turbomim.train.commands.shard.make import ShardMake, pack, shard_make_command
from turbomim.train.settings.flags import parse
from turbomim.train.terminal.progress import ImageProgress, progress_text


def said(options: ShardMake) -> str:
    out = io.StringIO()
    pack(options, Console(file=out))
    return out.getvalue()


def test_flags_reach_the_shards(photo_folder: Path, tmp_path: Path) -> None:
    words = "--store resized --short-side 32 --resampling bilinear --quality 80 --subsampling 4:2:0"
    words += " --shard-count 3 --check full --min-side 41 --seed 3 --split val --name oaks --workers 1"
    shard_make_command([str(photo_folder), str(tmp_path / "out"), *words.split()])
    manifest = open_split(tmp_path / "out").manifest
    assert Store.of(manifest.made) == Store(
        kind="resized", short_side=32, resampling="bilinear", quality=80, subsampling="4:2:0"
    )
    wanted = {"shard_count": 3, "samples_per_shard": None, "check": "full", "min_side": 41, "seed": 3}
    assert {key: manifest.made[key] for key in wanted} == wanted
    assert manifest.shards[0].name == "oaks-val-000000.tar"


def test_a_raw_store_has_no_quality() -> None:
    options = parse(ShardMake, ["a", "b", "--store", "raw"], "test")
    assert options.stored_as().to_json() == {"kind": "raw", "short_side": 224, "resampling": "bicubic"}


@pytest.mark.parametrize("flags", [["--short-side", "256"], ["--store", "raw", "--quality", "80"]])
def test_a_flag_that_the_store_has_no_use_for_is_refused(
    flags: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="a store of kind"):
        shard_make_command([str(photo_folder), str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_sizes_exclude_each_other(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        shard_make_command(
            [str(photo_folder), str(tmp_path / "out"), "--shard-size", "3", "--shard-count", "3"]
        )


def test_what_is_said(tmp_path: Path) -> None:
    for number in range(6):
        save_image(tmp_path / "src" / "a\x1b[31m" / f"{number}.jpg", seed=number)
    (tmp_path / "src" / "a\x1b[31m" / "bad\n\x1b[31m.jpg").touch()
    (tmp_path / "src" / "a\x1b[31m" / "x.\x1b[31m").touch()
    (tmp_path / "src" / "empty\x1b[0m").mkdir()
    options = ShardMake(src=str(tmp_path / "src"), dst=str(tmp_path / "out"), shard_size=2, workers=1)
    text = said(options)
    assert "6 images of 2 classes in " in text and "img/s)" in text
    assert r"first: 'a\x1b[31m/bad\n\x1b[31m.jpg', empty file" in text
    assert r"not images by their names: 1 .\x1b[31m" in text
    assert r"classes without an image: 'empty\x1b[0m'" in text
    assert "\x1b" not in text and text.count("\n") == 4
    assert said(options).startswith("already whole, nothing to do: 6 images of 2 classes")


def test_a_resumed_run_says_what_it_kept(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ShardMake(src=str(photo_folder), dst=str(tmp_path / "out"), shard_size=9, workers=1)

    def interrupt(self: ImageProgress, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(ImageProgress, "show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pack(options, Console(file=out))
    assert out.getvalue() == "finished shards are kept: the same command resumes\n"
    assert "(1 shard kept from an earlier run)" in said(options)


def test_a_run_that_only_moved_files_into_place_says_so(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when all shards were written and none was published."""
    options = ShardMake(src=str(photo_folder), dst=str(tmp_path / "out"), shard_size=9, workers=1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("turbomim.pipeline.making.journal.FolderDestination.publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            said(options)
    assert not list((tmp_path / "out").glob("*.tar"))
    text = said(options)
    assert text.startswith("33 images of ") and "(4 shards kept from an earlier run)" in text
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4
    assert said(options).startswith("already whole, nothing to do: 33 images of ")


def test_one_of_each_is_no_plural(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "a" / "0.jpg", seed=0)
    (tmp_path / "src" / "a" / "bad.jpg").touch()
    text = said(ShardMake(src=str(tmp_path / "src"), dst=str(tmp_path / "out"), workers=1))
    assert text.startswith("1 image of 1 class in 1 shard, ") and "left out: 1 image, named in " in text


def test_without_a_terminal_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), iter([100.0, 104.0, 111.0, 112.0, 122.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    console = Console(file=out)
    pace = ImageProgress(console, lambda **_: None, lines=True)
    # a resumed run: 500 images were there
    for done in (500, 900, 1600, 1700, 2700):
        pace.show(done, 4900)
    assert out.getvalue().splitlines() == [
        "1,600 of 4,900 images, 100 img/s, 0:33 left",
        "2,700 of 4,900 images, 100 img/s, 0:22 left",
    ]


def test_the_first_moment_has_no_rate() -> None:
    assert progress_text(5, 10, 0, 0.0) == "5 of 10 images, 0 img/s"
