"""The commands as a user types them: exit codes and one-line errors.

Planted bugs: `find_command` in train/commands/cli.py that imports the files of all verbs before it knows the
word, and options of a command in a file that imports torch, fail
`test_what_needs_no_torch_does_not_wait_for_it`; help as tyro has it of itself, and its mark on what is parsed
too, fail `test_help_shows_what_an_optional_flag_takes`; a docstring of two lines fails
`test_no_line_of_help_is_broken_in_its_middle`.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.calls import assert_one_line, call

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands import cli
from turbomim.train.commands.eval.options import Eval
from turbomim.train.commands.pretrain import OWN
from turbomim.train.commands.recipes import published
from turbomim.train.commands.table import COMMANDS, GROUPS, options_of, verbs
from turbomim.train.settings.flags import parse


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turbomim", *words], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage: turbomim COMMAND"),
        (["--help"], 0, "usage: turbomim COMMAND"),
        (["--version"], 0, "0."),
        (["pretran"], 2, "unknown command 'pretran': did you mean pretrain"),
        (
            ["recipes"],
            0,
            "  ideal 40      224  300     83.1, 63.3\n",
        ),
        (["recipes", "mae-vit-b16-800e"], 0, "    Source: the MAE repository's PRETRAIN.md."),
        (
            ["recipes", "mae-vit-b16-80e"],
            2,
            "unknown recipe 'mae-vit-b16-80e': did you mean mae-",
        ),
        (["recipes", "--help"], 0, "Recipe to tell all about"),
        (["doctor", "--help"], 0, "--measure"),
        (["show", "--help"], 0, "--targets"),
        (["show"], 2, "show needs a run folder, runs/NAME, or --targets IMAGE"),
        (["show", "r", "--targets", "x.jpg"], 2, "--targets draws one photograph: leave the run, --data and"),
        (["eval"], 2, "eval needs a command: knn, linear, finetune; see turbomim eval --help"),
        (["pretrain", "demo", "--data.path", "/nowhere"], 1, "/nowhere"),
        (["pretrain", "pixmin"], 2, "unknown recipe 'pixmin': did you mean pixmim"),
        (["shard", "mak"], 2, "unknown shard command 'mak': did you mean make?"),
        (["shard", "inspect", "/nowhere"], 1, "/nowhere"),
        (["show", "/nowhere"], 1, "/nowhere is not a run"),
        (["export", "/nowhere", "--to", "timm"], 1, "/nowhere is not a run"),
        (["export", "/dev/null", "--to", "timm"], 1, "/dev/null/config.yaml cannot be read"),
        (["export", __file__, "--to", "timm"], 1, "is a file and no run: give a run folder, runs/NAME"),
        (["export", "/nowhere", "--to", "mae", "--out", "a.pth"], 2, "out a.pth: must be a folder"),
        (
            ["export", "/nowhere", "--to", "timm", "--out", "/dev/null"],
            2,
            "out /dev/null: must be a folder",
        ),
        (
            ["export", "/nowhere", "--to", "timm", "--license", "My own"],
            2,
            "license 'My own': must be as the Hub",
        ),
        (["export", "/nowhere", "--to", "tim"], 2, "invalid choice 'tim'"),
        (["export", "/nowhere"], 2, "--to"),
        (["import", "/nowhere", "--from", "mae", "--run.name", "r"], 1, "/nowhere is not a file"),
        (["import", "/nowhere", "--from", "beit", "--run.name", "r"], 2, "invalid choice 'beit'"),
        (
            ["import", "/n", "--from", "beit"],
            2,
            "'--from': must be one of convmae, hf, lsmae, mae, mff, mmselfsup, ",
        ),
        (["import", "--help"], 0, "--from PROGRAM"),
        (["import", "--help"], 0, "usage: turbomim import [-h] FILE"),
        (["tune", "step", "--help"], 0, "RECIPE"),
        (["show", "--help"], 0, "[RUN]"),
        (["recipes", "--help"], 0, "[NAME]"),
        (["export", "--help"], 0, "--out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes_and_messages(
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words) == code
    if code and words:
        assert_one_line(capsys, message)
    else:
        out, err = capsys.readouterr()
        assert message in out + err and "Traceback" not in err
        assert code or not err


def fails_with(error: BaseException) -> Callable[[str, list[str]], None]:
    def fail(function: str, argv: list[str]) -> None:
        assert (function, argv) == ("train.commands.doctor:doctor_command", ["word"])
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), UserError("no such thing"), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("words", [["doctor", "word"], ["--traceback", "doctor", "word"]])
def test_the_whole_error_is_said_if_asked_for(
    words: list[str],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "import_and_call", fails_with(error))
    code = call(monkeypatch, *words)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("turbomim: ")
    assert ("--traceback" in last) == isinstance(error, OSError)
    if words[0] == "--traceback":
        assert "Traceback" in before[0] and any("raise error" in line for line in before)
    else:
        assert not before


def test_shard_commands(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(monkeypatch, "shard", "make", str(photo_folder), str(tmp_path / "s"), "--shard-size", "8") == 0
    )
    assert "33 images of 3 classes in 5 shards" in capsys.readouterr().out
    assert call(monkeypatch, "shard", "make", str(photo_folder), str(tmp_path / "s")) == 1
    assert "(8, now 1000)" in capsys.readouterr().err
    assert call(monkeypatch, "shard", "inspect", str(tmp_path / "s")) == 0
    assert "33" in capsys.readouterr().out


def test_dry_run_prices_a_run_and_trains_nothing(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(tiny_split.folder)
    assert call(monkeypatch, "pretrain", "demo", "--data.path", path, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "lr 0.00" in out and "x 32/256" in out and "nothing was trained" in out
    assert list(tmp_path.iterdir()) == []


def test_module_runs_from_any_folder(tmp_path: Path) -> None:
    """`python -m turbomim`, the form that torchrun uses, without a traceback when something is wrong."""
    done = run("pretrain", "demo", "--data.path", "shards", "--run.seed", "-1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "turbomim: run.seed = -1: must be 0 to 2^63 - 1\n")


WITHOUT_TORCH = """
import contextlib, io, sys
from turbomim.train.commands.cli import main

for words in sys.stdin.read().splitlines():
    sys.argv = ["turbomim", *words.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main()
    if "torch" in sys.modules:
        sys.exit(f"turbomim {words} imports torch")
"""


def test_what_needs_no_torch_does_not_wait_for_it(photo_folder: Path, tmp_path: Path) -> None:
    words = [
        "--help", "pretran", "pretrain pixmin", "eval kn", "recipes",
        f"shard make {photo_folder} {tmp_path}/out", f"shard verify {tmp_path}/out",
        *(f"{name} --help" for name in (*COMMANDS, *GROUPS)),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input="\n".join(words),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("words", ["", "shard", "shard make", "pretrain demo"])
def test_help_is_a_command_too(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for argv in (["help", *words.split()], [*words.split(), "--help"]):
        assert call(monkeypatch, *argv) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_help_shows_what_an_optional_flag_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--samples INT` and not `--samples {None}|INT`; None may be typed all the same."""
    for name in COMMANDS:
        assert call(monkeypatch, *name.split(), "--help") == 0
        said = capsys.readouterr().out
        assert "usage: turbomim" in said and "{None" not in said and "None}" not in said, name
    words = ["a", "--train", "b", "--test", "c", "--samples"]
    assert [parse(Eval, [*words, text], "x").samples for text in ("None", "9")] == [None, 9]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_help_is_broken_in_its_middle(name: str) -> None:
    """tyro keeps the line breaks of a field's docstring: a long text is an `arg(help=…)` or a comment."""
    options = options_of(name)
    for each in options.__mro__[:-1] if isinstance(options, type) else ():
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(found, ast.ClassDef)
        texts = [
            node.value.value
            for node in found.body[1:]
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ]
        assert not [text for text in texts if "\n" in str(text)]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_commands(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs(group) and call(monkeypatch, group, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for verb in verbs(group):
        assert any(line.startswith(f"  {verb} ") for line in lines)
    assert lines[0] == f"usage: turbomim {group} COMMAND …" and max(map(len, lines)) <= 110


def test_scores_that_a_recipe_quotes() -> None:
    assert published("Published there: fine-tune 83.1, linear 63.3 (in float16).") == "83.1, 63.3"
    assert published("with the slips: fine-tune\n    82.8.") == "82.8"
    assert published("No published result.") == ""


def test_a_refused_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert call(monkeypatch, "shard", "inspect", str(tmp_path / "file" / "below")) == 1
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert call(monkeypatch, "pretrain", "demo", "--config", str(tmp_path / "binary.yaml")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "is not YAML" in err and "Traceback" not in err


def test_output_that_nobody_takes(tiny_split: Split) -> None:
    words = [sys.executable, "-m", "turbomim", "shard", "inspect", str(tiny_split.folder)]
    # buffered, so that the write fails at the end
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=env, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("turbomim: No space left on device; ")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, env=env, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("bench step --rouns 3", "unknown flag '--rouns': did you mean --rounds?"),
        ("bench step --models a b", "Unrecognized options: b; see turbomim bench step --help"),
        ("show x --images many", "--images many: must be a whole number; see turbomim show --help"),
        ("bench step --device gpu", "invalid choice 'gpu' for argument '--device'"),
        ("shard verify", "turbomim: shard verify needs PATH; see turbomim shard verify --help"),
        ("shard make", "turbomim: shard make needs SRC and DST; see turbomim shard make --help"),
        ("predict", "turbomim: predict needs FINETUNING, SOURCE and --out; see turbomim predict --help"),
        ("bench loader", "turbomim: bench loader needs --images; see turbomim bench loader --help"),
        ("-v", "unknown flag '-v': a command comes first; without one: --help or --version"),
        ("--foo", "unknown flag '--foo': a command comes first; without one: --help or --version"),
        ("pretrain demo --preset b200", "unknown preset 'b200': known: a100-40g, a100-80g, h100, h200"),
        (
            "pretrain",
            "pretrain needs a recipe first, as demo or pixmim-vit-b16-300e, or --config FILE or --from",
        ),
        (
            "pretrain demo --model.encoder resnet50",
            "'resnet50': use one like vit_tiny_patch16_224, vit_small",
        ),
        ("pretrain demo --model.mask_ratio 0", "model.mask_ratio = 0.0: must be above 0 and below 1"),
        ("pretrain demo --data x", "unknown flag '--data': did you mean --data.path?"),
    ],
)
def test_wrong_flags_of_small_commands_are_one_line(
    argv: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *argv.split()) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and "─" not in said


def test_the_help_of_pretrain_begins_with_what_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with a line, and the recipe's values behind the settings."""
    assert call(monkeypatch, "pretrain", "demo", "--help") == 0
    own, _, settings = capsys.readouterr().out.partition("data options")
    # a line that begins with the flag, in a box or, in plain letters, in none
    first = [(line.strip(" │|").split() or [""])[0] for line in own.splitlines()]
    assert [word for word in first if word in OWN] == list(OWN)
    # where a line of the box ends depends on tyro and rich
    assert "--data.size INT" in settings
    assert "(default: 96)" in " ".join(word for word in settings.split() if word not in "│|")
    assert "--config" not in settings and "None" not in own
