"""The loop and its data: damaged photographs, stores, and errors that one rank meets.

Processes and settings are those of tests/runs.py.  Planted, and seen to fail: every rank hashing what changed
(`test_one_rank_hashes_for_all`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.pipeline.test_bad_samples import damage
from tests.runs import (
    attempt,
    config_for,
    finish,
    free_port,
    keep_float32,
    launch,
    launch_ranks,
    outcome,
    quiet,
    ranked,
    records,
)

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.system.errors import UserError, never
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.pipeline.tars import manifest
from turbomim.pipeline.tars.manifest import MANIFEST
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.folder import rundir
from turbomim.train.loop import data
from turbomim.train.loop.data import check_store, open_loader, store_in_words
from turbomim.train.machine.measurements import Tuned, machine_name
from turbomim.train.machine.tuned_loader import TUNED_LOADER, default_speed
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig

pytestmark = pytest.mark.usefixtures("one_thread")

BAD = (4, 12)


def spoil(split: Split, samples: Iterable[int], how: str) -> None:
    """Damage photographs as a bad disk does: nothing tells that the shards changed."""
    for sample in samples:
        damage(split, sample, how)
    os.utime(split.folder / MANIFEST)


def test_damaged_photographs_are_replaced_counted_and_named(own_split: Split, tmp_path: Path) -> None:
    """As many steps as without damage, every stand-in accounted for, the same losses on two ranks."""
    sections: dict[str, dict[str, Any]] = {"optim": {"epochs": 3}, "data": {"max_bad_share": 0.5}}
    assert finish(launch(attempt, config_for(own_split.folder, tmp_path / "whole", **sections))) == 0
    spoil(own_split, BAD, "cut")
    sections["data"]["heldout"] = str(own_split.folder)
    assert finish(launch(attempt, config_for(own_split.folder, tmp_path / "one", **sections))) == 0
    port = free_port()
    two = config_for(own_split.folder, tmp_path / "two", **sections)
    assert [finish(p) for p in [launch(ranked, two, rank, 2, port) for rank in (0, 1)]] == [0, 0]

    whole, one, both = (records(tmp_path / name / "r") for name in ("whole", "one", "two"))
    assert [r["step"] for r in one] == [r["step"] for r in whole]
    assert [r["loss"] for r in both] == pytest.approx([r["loss"] for r in one], abs=1e-6)
    assert both[-1]["heldout_loss"] == pytest.approx(one[-1]["heldout_loss"], abs=1e-6)
    _, ids = sample_ids(np.arange(one[-1]["position"], dtype=np.int64), own_split.manifest.samples, 0)
    expected = np.isin(ids, BAD).reshape(len(one), -1).sum(1).tolist()
    assert [r["replaced"] for r in one] == [r["replaced"] for r in both] == expected
    assert [r["replaced_total"] for r in one] == np.cumsum(expected).tolist()
    assert whole[-1]["replaced_total"] == 0
    for name in ("one", "two"):
        lines = (tmp_path / name / "r" / "train.log").read_text().splitlines()
        for sample in BAD:
            named = [line for line in lines if f"  {own_split.locate(sample)} cannot be decoded" in line]
            ranks = [
                line
                for line in lines
                if re.search(rf"rank [01]: {re.escape(own_split.locate(sample))}", line)
            ]
            assert (len(named), len(ranks)) == (1, 0) if name == "one" else (not named and ranks), name
            assert sum(f"held-out: {own_split.locate(sample)} cannot" in line for line in lines) >= 1
        assert any(f"{sum(expected)} of {one[-1]['position']} samples could not be" in line for line in lines)
        steps = [line for line in lines if "  step " in line]
        totals = np.cumsum(expected).tolist()
        assert all(f"  replaced {n}  " in line for n, line in zip(totals, steps, strict=True))


def test_a_third_of_bad_photographs_ends_the_run(own_split: Split, tmp_path: Path) -> None:
    spoil(own_split, range(0, own_split.manifest.samples, 3), "cut")
    with pytest.raises(UserError) as error:
        pretrain(config_for(own_split.folder, tmp_path), console=quiet())
    text = str(error.value)
    assert re.search(r"of 20\d samples \(3\d\.\d%\), the limit is max_bad_share 5.0%, cannot", text), text
    assert ".tar:" in text and "max_bad_share" in text and "remake the split" in text and "\n" not in text
    assert json.loads((tmp_path / "r" / "status.json").read_text())["status"] == "failed"


def test_no_usable_photograph_ends_the_run(own_split: Split, tmp_path: Path) -> None:
    spoil(own_split, range(own_split.manifest.samples), "zeros")
    with pytest.raises(UserError, match="all 33 samples of the split cannot be decoded") as error:
        pretrain(config_for(own_split.folder, tmp_path), console=quiet())
    assert "\n" not in str(error.value)


def failing(config: Config, rank: int, port: int, where: str) -> None:
    """One of two ranks; rank 1 cannot read a shard, at once or at the fourth batch."""
    calls = 0
    real = Loader.__next__

    def fail(self: Loader, *_: object, **__: object) -> Any:
        nonlocal calls
        calls += 1
        if where == "opening" or calls == 4:
            raise UserError("shard x.tar: gone")
        return real(self)

    if rank == 0:
        # a slow disk: the other rank must not be gone before, or torchrun would end this one unheard
        real_status = rundir.set_status

        def slow_status(*status: Any) -> None:
            time.sleep(0.5)
            real_status(*status)

        # the process is this test's own
        setattr(rundir, "set_status", slow_status)  # noqa: B010
    if rank == 1:
        setattr(Loader, "__init__" if where == "opening" else "__next__", fail)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        pretrain(config, console=quiet())
    except UserError as error:
        (Path(config.run.folder) / f"said-{rank}").write_text(str(error))
        os._exit(1)
    except SystemExit:
        shutil.copy(Path(config.run.folder) / "r" / "status.json", Path(config.run.folder) / f"left-{rank}")
        raise


@pytest.mark.parametrize("where", ["opening", "reading"])
def test_what_one_rank_meets_ends_every_rank_with_one_message(
    tiny_split: Split, tmp_path: Path, where: str
) -> None:
    config, port = config_for(tiny_split.folder, tmp_path), free_port()
    begun = time.monotonic()
    assert [finish(p) for p in [launch(failing, config, rank, port, where) for rank in (0, 1)]] == [1, 1]
    assert time.monotonic() - begun < 60
    assert [(tmp_path / f"said-{rank}").exists() for rank in (0, 1)] == [True, False]
    assert (tmp_path / "said-0").read_text() == "rank 1: shard x.tar: gone"
    assert json.loads((tmp_path / "r" / "status.json").read_text())["status"] == "failed"
    assert json.loads((tmp_path / "left-1").read_text())["status"] == "failed", "it left before rank 0"
    assert "rank 1: shard x.tar: gone" in (tmp_path / "r" / "train.log").read_text().splitlines()[-1]
    assert len(records(tmp_path / "r")) == (3 if where == "reading" else 0)


def counting(config: Config, rank: int, world: int, port: int) -> None:
    """A rank that notes what it hashes of splits whose manifests it may not write to."""
    real = file_sha256

    def noted(path: Path) -> str:
        with open(Path(config.run.folder) / f"hashed-{rank}", "a", encoding="utf-8") as file:
            file.write(f"{path.parent.name}\n")
        return real(path)

    setattr(manifest, "file_sha256", noted)  # noqa: B010
    setattr(manifest, "_mark_checked", lambda *_: None)  # noqa: B010
    ranked(config, rank, world, port)


def test_one_rank_hashes_for_all(tiny_split: Split, tmp_path: Path) -> None:
    for name in ("data", "heldout", "train", "test"):
        folder = Path(shutil.copytree(tiny_split.folder, tmp_path / name))
        for path in folder.glob("*-00000[12].tar"):
            os.utime(path, (time.time() + 100,) * 2)
    config = config_for(
        tmp_path / "data", tmp_path, optim={"epochs": 0.5, "warmup_epochs": 0},
        data={"heldout": str(tmp_path / "heldout")},
        eval={"every_epochs": 1, "samples": 20}
        | {name: str(tmp_path / name) for name in ("train", "test")},
    )  # fmt: skip
    assert [finish(process) for process in launch_ranks(counting, 2, config)] == [0, 0]
    hashed = (tmp_path / "hashed-0").read_text().split()
    assert sorted(hashed) == sorted(2 * ["data", "heldout", "train", "test"])
    assert not (tmp_path / "hashed-1").exists()


def elsewhere(config: Config, rank: int, world: int, port: int) -> None:
    """A rank on a machine of its own."""
    os.chdir(Path(config.run.folder) / str(rank))
    ranked(config, rank, world, port)


def test_another_split_on_another_machine_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    for rank, shard_count in ((0, 3), (1, 2)):
        make_shards(photo_folder, tmp_path / str(rank) / "data", ShardSettings(shard_count=shard_count))
    config = config_for(Path("data"), tmp_path)
    assert [finish(process) for process in launch_ranks(elsewhere, 2, config)] == [1, 1]
    said = (tmp_path / "said-0").read_text()
    assert "rank 1: --data.path data holds another split" in said and "\n" not in said
    assert not (tmp_path / "r").exists()


def test_a_run_of_a_version_before_resumes(tiny_split: Split, tmp_path: Path) -> None:
    """config.yaml of 0.1 knew neither shuffle nor limits nor automatic readers."""
    old = config_for(tiny_split.folder, tmp_path, optim={"epochs": 2}, data={"readers": 2, "prefetch": 2})
    pretrain(old, console=quiet())
    folder = tmp_path / "r"
    finished = outcome(folder)
    latest = (folder / "ckpt" / "latest").read_text().strip()
    shutil.rmtree(folder / "ckpt" / latest)
    (folder / "status.json").unlink()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for name in ("shuffle", "window", "decode", "hw_decoder_load", "max_bad_share", "max_bad_row"):
        del settings["data"][name]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    now = config_for(tiny_split.folder, tmp_path, optim={"epochs": 2}, data={"readers": 0})
    result = pretrain(now, console=quiet())
    assert result.status == "done" and outcome(folder) == finished
    other = config_for(tiny_split.folder, tmp_path, optim={"epochs": 2}, data={"shuffle": "window"})
    with pytest.raises(UserError, match=r"data.shuffle: full -> window"):
        pretrain(other, console=quiet())


def stored(split: Split, kind: str = "resized") -> Split:
    """The split as if its store were of another kind."""
    made = {"kind": kind, "short_side": 64, "resampling": "bicubic"}
    if kind == "resized":
        made |= {"quality": 95, "subsampling": "4:4:4"}
    manifest = dataclasses.replace(split.manifest, made={**split.manifest.made, "store": made})
    return dataclasses.replace(split, manifest=manifest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 64}, None),
        ({"size": 32, "crop": "rrc"}, None),
        ({"size": 64, "crop": "rrc", "interpolation": "bilinear"}, None),
        ({"size": 32}, r"--data.path .*remake .*--short-side 32.*data.size 64, data.interpolation bicubic"),
        ({"size": 64, "interpolation": "bilinear"}, r"--data.path .*data.interpolation bicubic"),
        ({"size": 96, "crop": "rrc"}, r"--data.path .*remake .*--short-side 96.*data.size 64\)"),
    ],
)
def test_crops_that_a_store_cannot_give_are_refused(
    tiny_split: Split, settings: dict[str, Any], message: str | None
) -> None:
    if message is None:
        check_store(DataConfig(**settings), stored(tiny_split), "--data.path", "cpu")
        return
    with pytest.raises(UserError, match=message) as error:
        check_store(DataConfig(**settings), stored(tiny_split), "--data.path", "cpu")
    assert "\n" not in str(error.value)


def test_the_plan_says_what_is_stored(tiny_split: Split) -> None:
    assert store_in_words(DataConfig(crop="rrc"), tiny_split) == "original photographs"
    resized, raw = stored(tiny_split), stored(tiny_split, "raw")
    facts = "resized store (short side 64, bicubic, JPEG quality 95, 4:4:4)"
    assert store_in_words(DataConfig(size=64), resized) == facts
    assert store_in_words(DataConfig(size=64, crop="rrc"), resized) == (
        f"{facts}: random crops come from images resized to 64, not from the originals"
    )
    assert store_in_words(DataConfig(size=64), raw) == "raw store (short side 64, bicubic)"


def test_a_store_is_checked_before_anything_starts(
    own_split: Split, tiny_split: Split, tmp_path: Path
) -> None:
    (own_split.folder / MANIFEST).write_text(stored(own_split).manifest.to_json())
    open_split(own_split.folder)
    other = {"size": 64, "interpolation": "bilinear"}
    for name in ("path", "heldout"):
        config = config_for(tiny_split.folder, tmp_path, data={**other, name: str(own_split.folder)})
        with pytest.raises(UserError, match=rf"--data\.{name} .*short side 64"):
            pretrain(config, console=quiet(), dry_run=True)
    assert not (tmp_path / "r").exists()


def test_every_setting_of_the_data_reaches_the_loader(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[object] = []
    monkeypatch.setattr(data, "Loader", lambda *given, **named: passed.extend((*given, named)))
    own: dict[str, Any] = {
        "crop": "rrc", "rrc_scale": 0.3, "interpolation": "bilinear", "shuffle": "window", "window": 3,
        "max_bad_share": 0.2, "max_bad_row": 7,
    }  # fmt: skip
    config = config_for(tiny_split.folder, tmp_path, data=own, run={"seed": 5})
    speed = LoaderSpeed(threads=3, readers=4, prefetch=5, decode="cpu", hw_decoder_load=0.25)
    cut = BatchCut(global_batch=8, micro_batch=4, start=16)
    open_loader(config, tiny_split, cut, speed, device="cpu", groups=2, notify=print)
    assert passed == [
        tiny_split,
        Crop(kind="rrc", size=32, scale=0.3, interpolation="bilinear"),
        SampleStream(seed=5, shuffle="window", window=3, groups=2, cut=cut),
        speed,
        BadSampleLimits(max_share=0.2, max_row=7),
        {"device": "cpu", "journal": None, "notify": print, "stopping": never},
    ]


def test_a_run_says_where_its_settings_come_from(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    keep_float32()
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}, data={"threads": 0, "readers": 0})
    pretrain(config, console=quiet())
    found = LoaderSpeed(threads=1, readers=3, prefetch=4)
    tuned = Tuned(settings=found, img_per_s=1.0, date="2026-01-02")
    path = TUNED_LOADER.write(machine_name(torch.device("cpu")), tuned, {})
    pretrain(dataclasses.replace(config, run=dataclasses.replace(config.run, name="s")), console=quiet())
    first, second = ((tmp_path / name / "train.log").read_text() for name in ("r", "s"))
    assert f"loader of a rank: {default_speed().in_words('cpu')}; automatic ones are defaults" in first
    assert (
        "loader of a rank: threads 1, readers 3, prefetch 4; automatic ones were tuned on this machine on "
        f"2026-01-02, see {path}"
    ) in second
