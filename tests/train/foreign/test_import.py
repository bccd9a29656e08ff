"""`turbomim import`: files that fit, and the run that it begins.

Each format by itself: test_formats.py.  Files that do not fit: test_placing.py.  Planted bugs and the test
that fails on each: weights never loaded (`test_a_run_goes_on_from_the_imported_weights`); a stand-in left
out (`test_what_programs_leave_beside_weights_is_passed_over`); a run overwritten
(`test_a_run_that_is_there_is_left_alone`); an empty fingerprint never or always accepted
(`test_only_an_import_may_lack_a_fingerprint`); a roll-back to the seed's weights, no moments, or moments of
one (`test_a_roll_back_to_the_start_is_to_the_imported_weights`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.calls import assert_one_line, call
from tests.exported import make_run
from tests.finetuned import make_finetuning
from tests.runs import config_for, outcome, quiet, run
from tests.train.foreign.imports import import_file, imported, same, save
from tests.train.foreign.names import (
    DECODER,
    ENCODER,
    weights,
)

import turbomim
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import load_run
from turbomim.train.export.programs import export
from turbomim.train.folder import checkpoint
from turbomim.train.loop.checkpoints import load_good_weights
from turbomim.train.loop.session import newest_checkpoint
from turbomim.train.models.methods import make_model
from turbomim.train.optim.average import Average
from turbomim.train.optim.make import make_optimizer
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run runs/old, a fine-tuning of it, and exports of both."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder):
        run = make_run("mae", "old").run
        tuned, _, _ = make_finetuning("mae", run / "eval")
        exports: tuple[tuple[Path, Any, str | Path], ...] = (
            (run, "timm", "timm"), (run, "hf", "hf"), (run, "mmseg", "mmseg"), (tuned, "hf", "tuned"),
            (run, "detectron2", "detectron2"), (tuned, "timm", tuned / "export"),
            (make_run("convmae", "c").run, "safetensors", "convmae"),
        )  # fmt: skip
        for source, to, out in exports:
            turbomim.export(source, to, out=out)
    return folder


FULL = ENCODER + DECODER
OURS = {name for name, _, _ in FULL}


def flags_of(config: Config) -> list[str]:
    """Every setting as a flag."""
    return [f"--{s}.{key}={value}" for s, values in to_dict(config).items() for key, value in values.items()]


@pytest.mark.parametrize("form", ["mae", "mmselfsup"])
def test_a_file_without_a_decoder_leaves_it_fresh(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = weights(ENCODER, theirs=form == "mmselfsup")
    more = ["--model.decoder_width=96", "--model.decoder_depth", "2", "--model.decoder_heads=3"]
    assert import_file(monkeypatch, save({"model": theirs}), form, *more) == 0
    said = capsys.readouterr().out
    assert f"with {len(ENCODER)} of {len(FULL)} tensors" in said and f"missing {len(DECODER)}" in said
    assert "initial values for" in said and "decoder_blocks.N.mlp.fc1.weight (2)" in said
    found, fresh = imported(), make_model(load_run(Path("runs/r"))[0]).state_dict()
    decoder = {name for name, _, _ in DECODER}
    same(found, {**{name: fresh[name] for name in decoder}, **weights(ENCODER)})


def test_a_mask_token_alone_is_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = weights([*ENCODER, DECODER[0]])
    more = ["--model.decoder_width=96", "--model.decoder_depth=1", "--model.decoder_heads=3"]
    assert import_file(monkeypatch, save({"model": theirs}), "mae", *more) == 0
    assert torch.equal(imported()["mask_token"], theirs["mask_token"])


def test_other_files_that_hold_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors, half precision, torch's old format, no wrapper, DDP's prefix."""
    theirs = weights(FULL)
    save_file(theirs, "a.safetensors")
    torch.save(theirs, "b.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": {f"module.{name}": torch.nn.Parameter(t) for name, t in theirs.items()}}, "c.pth")
    torch.save({name: tensor.half() for name, tensor in theirs.items()}, "d.pth")
    for file in ("a.safetensors", "b.pt", "c.pth", "d.pth"):
        assert call(monkeypatch, "import", file, "--from", "mae", f"--run.name={file[0]}") == 0
    for name in "abc":
        same(imported(name), theirs)
    same(imported("d"), {name: tensor.half().float() for name, tensor in theirs.items()})


@pytest.mark.parametrize(
    ("to", "form"),
    [
        ("timm", "mae"),
        ("mae", "mae"),
        ("mmselfsup", "mmselfsup"),
    ],
)
def test_an_export_comes_back_with_its_heads(
    to: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four and two, where widths 48 and 32 would be taken for one and one; a flag may not say otherwise."""
    trained = make_run("mae", "old")
    (exported,) = export(trained, to, Path("out"))
    file = str(exported.path)
    assert import_file(monkeypatch, file, form) == 0
    told = capsys.readouterr().out.split("not in the tensors: ")[1]
    card = "out/config.json" if to == "timm" else exported.path.with_suffix(".json")
    assert "//" not in told and f"heads as {card} has them" in told
    found, _, _ = load_run(Path("runs/r"))
    assert found.model.heads == 4 and (to == "timm" or found.model.decoder_heads == 2)
    assert call(monkeypatch, "import", file, "--from", form, "--run.name", "s", "--model.heads", "3") == 2
    assert_one_line(capsys, f"--model.heads 3: {card} says 4", "leave it out")


def test_the_sizes_that_would_fit_are_those_of_a_convmae(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Followed, they give the run's features; planted: the guess, one head, or no sizes of convolutions."""
    trained = make_run("convmae", "old")
    (exported,) = export(trained, "safetensors", Path("out"))
    of_recipe = [str(exported.path), "convmae", "--recipe", "convmae-b-1600e"]
    assert import_file(monkeypatch, *of_recipe) == 2
    fitting = capsys.readouterr().err.split("it would fit ")[1].split()
    assert import_file(monkeypatch, *of_recipe, *fitting) == 0
    _, model, _ = load_run(Path("runs/r"))
    pixels_BHWC = torch.arange(48 * 48 * 3).reshape(1, 48, 48, 3).remainder(251).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.eval().features(pixels_BHWC), trained.model.eval().features(pixels_BHWC))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("import runs/old", "runs/old is a run: `turbomim pretrain --from runs/old --run.name NAME`"),
        ("import runs/old/eval/tuned", "it can be imported as its export for timm"),
        ("import mmseg/mmseg.pth", "the final norm is not there, as in exports for mmseg: give the run"),
        ("import detectron2/detectron2.pth", "is an export for detectron2"),
        ("import tuned", "is a BEiT of transformers, as `export FINETUNING --to hf` writes it"),
        ("export timm", "timm is an export: give the run"),
        ("export runs/old/ckpt/step-00000003", "is not a run, but in the folder of one: give runs/old"),
        ("export runs/old/eval/tuned/export", "in the folder of one: give runs/old/eval/tuned"),
        ("predict runs/old/eval/tuned/export", "in the folder of one: give runs/old/eval/tuned"),
        ("embed convmae", "--from convmae --recipe NAME --run.name NAME"),
        ("export runs/old --to", "export needs --to; see"),
    ],
)
def test_a_refusal_names_what_helps(
    words: str, parts: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of folders and files that people take for another thing."""
    monkeypatch.chdir(made)
    more = {
        "import": ["--run.name", "new"],
        "export": ["--to", "timm"],
        "predict": ["photographs", "--out", "p.csv"],
        "embed": ["photographs", "--out", "F.npz"],
    }
    command, *given = words.split()
    if given[-1] == "--to":
        assert call(monkeypatch, command, given[0]) == 2
    else:
        assert call(monkeypatch, command, *given, *more[command]) == 1
    assert_one_line(capsys, parts)


def test_the_whole_mae_is_named_where_its_encoder_is_taken(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "import", f"{made}/hf", "--run.name", "new") == 0
    assert f"{made}/hf/mae has one: turbomim import {made}/hf/mae --run.name NAME" in capsys.readouterr().out
    assert call(monkeypatch, "import", f"{made}/hf/mae", "--run.name", "whole") == 0
    assert "has one" not in capsys.readouterr().out


def test_what_programs_leave_beside_weights_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, settings and logs of classes that are not here, as MAE, SimMIM and mmengine save them."""
    theirs = weights(FULL)
    with monkeypatch.context() as patch:
        for name in (
            "yacs",
            "yacs.config",
            "mmengine",
            "mmengine.logging",
            "mmengine.logging.history_buffer",
        ):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
        log = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer"})
        patch.setattr(sys.modules["yacs.config"], "CfgNode", node, raising=False)
        patch.setattr(sys.modules["mmengine.logging.history_buffer"], "HistoryBuffer", log, raising=False)
        config, history = node({"MODEL": node({"TYPE": "vit"})}), log()
        config.__dict__["__immutable__"] = True
        history.__dict__.update(_max_length=10, _log_history=np.array([1.0, 2.0]), last=np.float64(3.0))
        args = argparse.Namespace(lr=1e-3, output_dir=Path)
        args.output_dir = "out"
        beside = {"args": args, "config": config, "message_hub": {"loss": history}, "epoch": 7}
        save({"model": theirs, **beside}, "new.pth")
        torch.save({"model": theirs, **beside}, "old.pth", _use_new_zipfile_serialization=False)
    for file in ("new", "old"):
        assert call(monkeypatch, "import", f"{file}.pth", "--from", "mae", "--run.name", file) == 0
        same(imported(file), theirs)
    assert "yacs" not in sys.modules and "mmengine" not in sys.modules
    assert not any("turbomim" in str(allowed) for allowed in torch.serialization.get_safe_globals())


def test_a_run_goes_on_from_the_imported_weights(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial weights through a file: the run is that of the same weights without one, bit for bit."""
    config = config_for(trees, Path("fresh"), optim={"epochs": 1.5})
    run(config)
    begun = dataclasses.replace(config, run=dataclasses.replace(config.run, folder="runs"))
    file = save({"model": make_model(config).state_dict()})
    assert call(monkeypatch, "import", file, "--from", "mae", *flags_of(begun)) == 0
    run(begun)
    assert outcome(Path("runs/r")) == outcome(Path("fresh/r"))
    log = Path("runs/r/train.log").read_text()
    assert "a new run from the weights in runs/r/ckpt/step-00000000: step 0 of" in log
    other = dataclasses.replace(begun, run=dataclasses.replace(config.run, folder="other"))
    seed = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=7))
    file = save({"model": make_model(seed).state_dict()})
    assert call(monkeypatch, "import", file, "--from", "mae", *flags_of(other)) == 0
    run(other)
    assert outcome(Path("other/r"))[1] != outcome(Path("fresh/r"))[1]


def test_steps_are_of_what_trains(
    trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many epochs they are follows from shards: a run that is told them here cannot be gone on with."""
    config = config_for(trees, Path("runs"), optim={"epochs": 1.5})
    file = save({"model": make_model(config).state_dict()})
    assert call(monkeypatch, "import", file, *flags_of(config), "--optim.steps", "4") == 2
    assert_one_line(capsys, "--optim.steps are steps over shards", "turbomim pretrain --from runs/NAME")
    assert not Path("runs").exists()


def begin(monkeypatch: pytest.MonkeyPatch, trees: Path, seed: int = 7) -> Config:
    """A run of `config_for` begun with the initial weights of another seed."""
    config = config_for(trees, Path("runs"), optim={"epochs": 1.5})
    seeded = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed))
    file = save({"model": make_model(seeded).state_dict()})
    assert call(monkeypatch, "import", file, "--from", "mae", *flags_of(config)) == 0
    return config


def test_the_first_run_says_what_the_data_is(
    trees: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_shards(photo_folder, tmp_path / "other", ShardSettings(shard_size=5))
    config = begin(monkeypatch, trees)
    assert checkpoint.read_state(Path("runs/r/ckpt/step-00000000")).fingerprint == ""
    # nothing was seen yet, so any data will do
    data = dataclasses.replace(config.data, path=str(tmp_path / "other"))
    pretrain(dataclasses.replace(config, data=data), console=quiet())
    with pytest.raises(UserError, match="is not the data set of"):
        pretrain(config, console=quiet())


def test_only_an_import_may_lack_a_fingerprint(
    trees: Path, monkeypatch: pytest.MonkeyPatch, tiny_split: Any
) -> None:
    config = begin(monkeypatch, trees)
    found, _ = newest_checkpoint(Path("runs/r"), tiny_split)
    assert found == Path("runs/r/ckpt/step-00000000")
    state = dataclasses.replace(checkpoint.read_state(found), step=3, position=24)
    model = make_model(config)
    optimizer = make_optimizer(model, config.optim)
    checkpoint.write(Path("runs/r/ckpt"), checkpoint.capture(model, optimizer, state), 2)
    with pytest.raises(UserError, match="is not the data set of"):
        newest_checkpoint(Path("runs/r"), tiny_split)


def test_a_roll_back_to_the_start_is_to_the_imported_weights(
    trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begin(monkeypatch, trees)
    model = make_model(config)
    optimizer = make_optimizer(model, config.optim)
    good = load_good_weights(Path("runs/r/ckpt"), 0, config, model, optimizer, Average(model, 0))
    assert "step-00000000" in good
    same(dict(model.state_dict()), imported())
    assert {value["step"].item() for value in optimizer.state.values()} == {0}
    assert not any(value["exp_avg_sq"].any() for value in optimizer.state.values())


def test_everything_that_takes_a_run_takes_it(
    trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(monkeypatch, trees)
    words = ["--train", str(trees), "--test", str(trees), "--samples", "20"]
    assert call(monkeypatch, "eval", "knn", "runs/r", *words) == 0
    assert call(monkeypatch, "show", "runs/r", "--images", "1") == 0
    assert call(monkeypatch, "export", "runs/r", "--to", "timm") == 0
    said = capsys.readouterr()
    assert "trained: mean of patch tokens" in said.out and "reconstruction-00000000.png" in said.out
    assert "runs/r/export: step 0; timm 1" in said.out and not said.err


def test_a_run_that_is_there_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_file(monkeypatch, save({"model": weights(FULL)}), "mae") == 0
    before = {path: path.read_bytes() for path in Path("runs/r").rglob("*") if path.is_file()}
    assert import_file(monkeypatch, save({"model": weights(FULL, seed=1)}), "mae") == 1
    assert "runs/r holds a run already: give another --run.name" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in Path("runs/r").rglob("*") if path.is_file()}
    assert call(monkeypatch, "import", "file.pth", "--from", "mae") == 2
    assert "import needs --run.name NAME" in capsys.readouterr().err
