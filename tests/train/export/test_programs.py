"""What all exports share: nothing of others' is overwritten, nothing half done is left, errors are one line.

The end of a run says what it exported; what docs/export.md has to type works.

Planted, each seen to fail the test named: the decoder left in, a call where there is none
(`test_any_encoder_by_its_own_names`); views saved with all of their storage, another wrapper
(`test_full_files_hold_tensors_alone_and_no_more_than_those`); READMEs not looked at, or in the folder alone
(`test_somebody_elses_readme_stays`); a killed export's files taken along
(`test_a_killed_export_is_no_hindrance`); a run that fails by its export, timm asked whatever the method
(`test_the_end_of_a_run_says_what_was_exported`); safetensors not offered
(`test_a_program_without_the_method_is_refused`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tests import ROOT
from tests.calls import call
from tests.exported import CONFIGS, make_run, snippets
from tests.finetuned import make_finetuning
from tests.runs import config_for, quiet
from tests.train.foreign.names import DECODER, ENCODER, weights

from turbomim import __version__
from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import load_run
from turbomim.train.export import programs as exporting
from turbomim.train.export.programs import PROGRAMS, export, export_at_end
from turbomim.train.export.weights import Trained
from turbomim.train.models.methods import METHODS
from turbomim.train.pretrain.pretrain import pretrain

DOCS = ROOT / "docs"


pytestmark = pytest.mark.usefixtures("here")


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": weights(ENCODER + DECODER)}, "file.pth")
    assert call(monkeypatch, "import", "file.pth", "--from", "mae", "--run.name", "r") == 0
    capsys.readouterr()
    assert call(monkeypatch, "export", "runs/r", "--to", "timm", "--out", "new/small") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("new/small: step 0; timm ") and "largest difference" in said[0]
    assert said[1] == '    timm.create_model("local-dir:new/small", pretrained=True)'
    encoder = eval(said[1].strip(), {"timm": timm})
    expected = weights(ENCODER + DECODER)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())
    assert sorted(p.name for p in Path("new/small").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    for to, key in (("mae", "model"), ("mmselfsup", "state_dict")):
        assert call(monkeypatch, "export", "runs/r", "--to", to) == 0
        said = capsys.readouterr().out.splitlines()
        count = len(ENCODER + DECODER)
        assert said[0] == f"runs/r/export-{to}/{to}.pth: step 0; read back: all {count} tensors bit for bit"
        assert f'weights_only=True)["{key}"]' in "".join(said)


@pytest.mark.parametrize(("to", "key"), [("mae", "model"), ("mmselfsup", "state_dict")])
def test_full_files_hold_tensors_alone_and_no_more_than_those(to: str, key: str) -> None:
    """Whoever loads them needs nothing but torch, and a slice of a large tensor takes no large file."""
    trained = make_run("mae")
    model = trained.model
    model.cls_token = torch.nn.Parameter(torch.zeros(1, 1, 48 * 10**5)[..., :48])
    export(trained, to, Path("out"))
    path = Path("out") / f"{to}.pth"
    tree = torch.load(path, weights_only=True)
    assert list(tree) == [key] and {t.dtype for t in tree[key].values()} == {torch.float32}
    assert len(tree[key]) == len(model.state_dict())
    assert path.stat().st_size < 4 * 1.2 * sum(t.numel() for t in tree[key].values()) + 50_000


@pytest.mark.parametrize("name", CONFIGS)
def test_any_encoder_by_its_own_names(name: str) -> None:
    trained = make_run(name)
    model = trained.model
    (exported,) = export(trained, "safetensors", Path("out"))
    assert (
        exported.checked
        == "read back: features of 3 random images are this run's, largest difference 0.0e+00"
    )
    found = load_file("out/model.safetensors")
    ours = model.state_dict()
    assert set(found) == {n for n in ours if not n.startswith(model.decoder_names)}
    assert all(torch.equal(tensor, ours[n]) for n, tensor in found.items())
    assert ("timm has no such model" in exported.note) == (name == "convmae")
    about = json.loads(Path("out/config.json").read_text())
    assert (about["method"], about["turbomim"]) == (trained.config.model.method, __version__)


def test_a_program_without_the_method_is_refused() -> None:
    for to, program in PROGRAMS.items():
        for name, config in CONFIGS.items():
            if program.methods and config.model.method not in program.methods:
                with pytest.raises(UserError, match=f"{to} has no model of method") as error:
                    exporting.check_method(config, to)
                said = re.fullmatch(r".*: give --to ([a-z0-9|]+)", str(error.value))
                assert said and "safetensors" in said[1].split("|")
                assert ("timm" in said[1].split("|")) == (name != "convmae")
            else:
                exporting.check_method(config, to)
    # a method with a line in the table that nobody thought of here
    assert {config.model.method for config in CONFIGS.values()} == set(METHODS)


def test_the_end_of_a_run_says_what_was_exported(trees: Path) -> None:
    """An encoder that timm has not comes with its names; a run does not fail by its export."""
    config = config_for(
        trees,
        Path("runs"),
        model={"method": "convmae", "patch": 16, "conv_widths": "8,12", "conv_depths": "1,1"},
        optim={"epochs": 0.24, "warmup_epochs": 0},
    )
    assert pretrain(config, console=quiet()).status == "done"
    log = Path("runs/r/train.log").read_text()
    line = 'runs/r/export/model.safetensors: safetensors.torch.load_file("runs/r/export/model.safetensors")'
    assert f"the encoder is in {line} (timm has no such model); read back: features of 3 random" in log
    assert json.loads(Path("runs/r/export/config.json").read_text())["method"] == "convmae"
    assert "| steps | 1 of 1 |" in Path("runs/r/export/README.md").read_text()

    Path("runs/r/export/README.md").write_text("mine")
    config, model, step = load_run(Path("runs/r"))
    said = export_at_end(Trained(run=Path("runs/r"), config=config, model=model, step=step))
    assert said.startswith("the encoder is not exported: ") and "weights are in runs/r/ckpt" in said


def test_a_run_of_timms_says_so(trees: Path) -> None:
    config = config_for(trees, Path("runs"), optim={"epochs": 0.24, "warmup_epochs": 0})
    pretrain(config, console=quiet())
    line = 'the encoder is in runs/r/export: timm.create_model("local-dir:runs/r/export", pretrained=True)'
    assert f"{line}; timm 1" in Path("runs/r/train.log").read_text()


@pytest.mark.parametrize("place", ["README.md", "mae/README.md"])
def test_somebody_elses_readme_stays(place: str) -> None:
    trained = make_run("mae")
    Path("mine", place).parent.mkdir(parents=True)
    Path("mine", place).write_text("# My project, which uses turbomim\n")
    with pytest.raises(UserError, match=f"mine/{place} is no model card of ours and would be overwritten"):
        export(trained, "hf", Path("mine"))
    assert [path for path in Path("mine").rglob("*") if path.is_file()] == [Path("mine", place)]
    export(trained, "hf", Path("out"))
    # one of ours is replaced, and what lies in other folders is nobody's business
    Path("out/notes").mkdir()
    Path("out/notes/README.md").write_text("mine")
    export(trained, "hf", Path("out"))
    if place != "README.md":
        export(trained, "timm", Path("mine"))


def test_what_fails_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None that it made; one that was there stays."""
    make_run("mae")
    Path("there").mkdir()
    for size, words in (("33", "must be a multiple of the patch"), ("-4", "must be above 0")):
        for out in ("new/deep", "there"):
            assert call(monkeypatch, "export", "runs/r", "--to", "mmseg", "--size", size, "--out", out) == 2
            assert f"--size {size}: {words}" in capsys.readouterr().err
            assert not Path("new").exists() and not list(Path("there").iterdir())


@pytest.mark.parametrize("to", ["timm", "safetensors", "mae"])
def test_modes_follow_the_umask(to: str) -> None:
    trained = make_run("mae")
    for mask, mode in ((0o022, 0o644), (0o007, 0o660)):
        before = os.umask(mask)
        try:
            export(trained, to, Path(f"out-{mode}"))
        finally:
            os.umask(before)
        assert {p.stat().st_mode & 0o777 for p in Path(f"out-{mode}").iterdir()} == {mode}


def test_a_killed_export_is_no_hindrance() -> None:
    trained = make_run("mae")
    Path("out/.tmp-export/mae").mkdir(parents=True)
    Path("out/.tmp-export/mae/junk").write_text("")
    export(trained, "hf", Path("out"))
    assert not Path("out/.tmp-export").exists() and Path("out/mae/config.json").exists()
    assert not list(Path("out").rglob("junk"))


def test_the_words_and_snippets_of_the_docs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `turbomim export` line of docs/export.md is run on small models, then every Python snippet.

    What is pushed is pushed in test_push.py.
    """
    make_run("mae", name="mae-b")
    tuned, _, _ = make_finetuning("mae", Path("runs/mae-b/eval"))
    tuned.rename("runs/mae-b/eval/finetune")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save("photo.jpg")
    text = (DOCS / "export.md").read_text()
    commands = re.findall(r"^    turbomim (export (?!.*--push).*)$", text, re.MULTILINE)
    assert {words.split("--to ")[1].split()[0] for words in commands} == set(PROGRAMS)
    for command in commands:
        assert call(monkeypatch, *shlex.split(command.partition("#")[0])) == 0, command
    capsys.readouterr()
    found = snippets(text)
    assert len(found) >= 3 and "timm" in "".join(found) and "transformers" in "".join(found)
    for snippet in found:
        exec(snippet, {})
