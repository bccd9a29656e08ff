"""Terminals and pipes of any encoding, and ones that go away while a run prints.

Each was seen to fail: streams left strict (`test_every_command_prints_in_every_encoding`,
`test_a_run_on_a_terminal`); a title that is wider than its panel was drawn for
(`test_the_panel_is_as_wide_as_it_was_drawn`); an error of a stream or of the panel let through
(`test_a_terminal_that_is_closed`, `test_a_run_outlives_its_stream`, `test_a_panel_that_cannot_be_drawn`).
"""

from __future__ import annotations

import errno
import io
import os
import pty
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from tests.calls import call
from tests.runs import config_for, finish, launch, quiet, status
from tests.train.folder.test_seeing import RECORD

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.system.errors import one_line
from turbomim.train.commands.cli import main
from turbomim.train.commands.table import COMMANDS
from turbomim.train.demo.demo import print_stage
from turbomim.train.folder.log import RunLog, parts_of
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.terminal import panel
from turbomim.train.terminal.streams import drawable

ENCODINGS = ["iso-8859-1", "gbk", "ascii"]
TINY = """
    --data.size 32 --data.threads 1 --data.readers 1 --model.patch 8 --model.width 32 --model.depth 1
    --model.heads 2 --model.decoder-width 16 --model.decoder-depth 1 --model.decoder-heads 2
    --optim.global-batch 16 --optim.epochs 1 --optim.warmup-epochs 0
    --step.device cpu --step.compile false --run.log-every 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no encoding of the tests has the name of, with photographs, shards and a run in it."""
    folder = tmp_path_factory.mktemp("x") / "林 • … é"
    photos = folder / "photos"
    for number in range(24):
        path = photos / ("ß", "•")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((48, 40), 90).convert("RGB").save(path)
    # no text in any encoding but ISO-8859-1, and no image
    Path(os.fsdecode(os.fsencode(photos / "ß") + b"/\xff\xfe.jpg")).write_bytes(b"no image")
    make_shards(photos, folder / "shards", workers=1)
    settings = {"epochs": 1, "warmup_epochs": 0}
    pretrain(config_for(folder / "shards", folder / "runs", optim=settings), console=quiet())
    shutil.copytree(folder / "runs" / "r", folder / "runs" / "r2")
    return folder


def commands(place: Path, out: Path) -> list[tuple[str, ...]]:
    """What prints, without the help: each with its words."""
    run, shards = str(place / "runs" / "r"), str(place / "shards")
    splits = ("--train", shards, "--test", shards, "--device", "cpu")
    return [
        ("recipes",),
        ("doctor",),
        ("shard", "make", str(place / "photos"), str(out / "made •"), "--workers", "1"),
        ("shard", "verify", shards),
        ("shard", "inspect", shards),
        ("shard", "inspect", str(place / "not • there")),
        ("pretrain", "demo", "--data.path", shards, "--dry-run", *TINY.split()),
        ("pretrain", "demo", "--data.path", shards, "--run.folder", str(out / "runs •"), *TINY.split()),
        ("pretrain", "mae-vit-b16-800e", "--data.path", shards, "--dry-run", "--world-size", "8"),
        ("show", run, "--out", str(out / "•.png")),
        ("eval", "knn", run, *splits),
        ("report", run, "--out", str(out / "•.html")),
        ("compare", run, f"{run}2", "--out", str(out / "c.png")),
        ("export", run, "--to", "timm", "--out", str(out / "export •")),
        ("embed", run, shards, "--out", str(out / "•.npz"), "--device", "cpu"),
        ("analyze", "avgdist", "--size", "32", "--units", "8", "--samples", "2", "--out", str(out / "a •")),
        ("tune", "step", "--help"),
    ]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_prints_in_every_encoding(
    encoding: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    helped = [(*command.split(), "--help") for command in COMMANDS]
    named = {words[0] for words in (*helped, *commands(place, tmp_path))}
    assert named == {command.split()[0] for command in COMMANDS}
    for words in (("--help",), *helped, *commands(place, tmp_path)):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = call(monkeypatch, *words)
        said, complained = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
        absent = "not • there" in words[-1]
        assert code == absent, (words, complained)
        assert (complained if absent else said).strip() and "Traceback" not in complained, words
    assert status(tmp_path / "runs •" / "demo")["status"] == "done"


def at_terminal(name: str, encoding: str, words: tuple[str, ...]) -> None:
    """A command on the terminal of that name, which draws an encoding."""
    handle = os.open(name, os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        os.dup2(handle, number)
    os.environ.update(TERM="xterm", COLUMNS="80")
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(handle, "w"), encoding) for handle in (1, 2))
    sys.argv = ["turbomim", *words]
    main()


def watched(
    words: tuple[str, ...], encoding: str, enough: Callable[[bytes], bool]
) -> tuple[int | None, bytes]:
    """The exit code of a command on a new terminal, and what it drew there until that was enough."""
    master, terminal = pty.openpty()
    shown = b""

    def look() -> None:
        nonlocal shown
        while not enough(shown):
            try:
                shown += os.read(master, 65536)
            # the terminal's other end was closed
            except OSError:
                break
        os.close(master)

    process = launch(at_terminal, os.ttyname(terminal), encoding, words)
    looker = threading.Thread(target=look)
    looker.start()
    # it is there while a process has it
    while not shown and process.is_alive():
        looker.join(0.05)
    os.close(terminal)
    code = finish(process)
    looker.join(20)
    return code, shown


def words_of(place: Path, tmp_path: Path) -> tuple[str, ...]:
    """A training of a few steps, whose folder no encoding has the name of."""
    folder = str(tmp_path / "林 … runs")
    return ("pretrain", "demo", "--data.path", str(place / "shards"), "--run.folder", folder, *TINY.split())


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-8"])
def test_a_run_on_a_terminal(encoding: str, place: Path, tmp_path: Path) -> None:
    code, shown = watched(words_of(place, tmp_path), encoding, lambda shown: False)
    text = shown.decode(encoding)
    assert code == 0, text
    assert status(tmp_path / "林 … runs" / "demo")["status"] == "done"
    assert "step" in text and ("╭" in text) == (encoding == "utf-8") and "\x1b[" in text, "a panel"


def test_a_terminal_that_is_closed(place: Path, tmp_path: Path) -> None:
    """As that of a window that is shut, or a connection that is lost, under a run that lives on."""
    words = (*words_of(place, tmp_path), "--optim.epochs", "40")
    code, _ = watched(words, "utf-8", lambda shown: b"loss" in shown)
    folder = tmp_path / "林 … runs" / "demo"
    log = (folder / "train.log").read_text()
    assert (code, status(folder)["status"]) == (0, "done"), log
    assert log.count("the terminal cannot be written (Input/output error)") == 1
    assert "the encoder is in" in log.splitlines()[-1], "what is said after it is there"


class Broken(io.StringIO):
    """A stream that raises once the first line is through."""

    def __init__(self, error: Exception, *, terminal: bool) -> None:
        super().__init__()
        self.error, self.terminal = error, terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        if self.getvalue():
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file."),
        UnicodeEncodeError("latin-1", "…", 0, 1, "ordinal not in range(256)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_run_outlives_its_stream(error: Exception, terminal: bool, tmp_path: Path) -> None:
    stream = Broken(error, terminal=terminal)
    console = Console(file=stream, width=80, force_terminal=terminal)
    log = RunLog(tmp_path, console, config=Config())
    with log.open(0), log.bar(0, 10):
        for step in range(5):
            log.advance(step)
            log.record(RECORD | {"step": step})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 5
    plain = (tmp_path / "train.log").read_text()
    assert plain.count("the terminal cannot be written") == 1 and one_line(error) in plain
    assert plain.count("loss 0.4231") == 5
    assert console.file is stream, "the console is as it was"


def test_a_panel_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("odd terminal")

    monkeypatch.setattr(panel, "run_panel", fail)
    log = RunLog(tmp_path, Console(file=io.StringIO(), width=80, force_terminal=True), config=Config())
    with log.open(0), log.bar(0, 10):
        log.record(RECORD)
    plain = (tmp_path / "train.log").read_text()
    assert plain.count("the terminal cannot be written (odd terminal)") == 1 and "loss 0.4231" in plain


def test_the_demo_outlives_its_stream(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=Broken(OSError(errno.EIO, "Input/output error"), terminal=False))
    for number in ("1/4", "2/4", "3/4"):
        print_stage(console, number, "text")
    assert "the demo goes on, but cannot print" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-8"])
def test_the_panel_is_as_wide_as_it_was_drawn(encoding: str, tmp_path: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=stream, width=60, force_terminal=True, color_system=None)
    with panel.live_panel(console, "runs/林 … \udcff", 1, 10, lambda error: pytest.fail(str(error))) as shown:
        shown.show(2, parts_of(RECORD))
        stream.flush()
        lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) > 3
    drawn = [line.split("\x1b[2K")[-1].removeprefix("\x1b[?25l") for line in lines]
    assert {len(line) + line.count("林") for line in drawn} == {60}, drawn


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "Åre 林"), ("iso-8859-1", "Åre \\u6797"), ("ascii", "\\xc5re \\u6797")]
)
def test_names_are_shown_as_they_are_but_for_what_a_terminal_obeys(
    encoding: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes, files and folders, by the commands that print them."""
    photos = tmp_path / "photos"
    for number, label in enumerate(("Åre 林", "a")):
        (photos / label).mkdir(parents=True)
        Image.effect_noise((48, 40), 90).convert("RGB").save(photos / label / f"{number}.jpg")
    (photos / "Åre 林" / "x\x1b[31m.jpg").write_bytes(b"no image")
    printed = ""
    shards = str(tmp_path / "Åre 林 shards")
    for words in (
        ("shard", "make", str(photos), shards, "--workers", "1"),
        ("shard", "inspect", shards, "--sheet", str(tmp_path / "Åre 林.png")),
        ("shard", "cat", shards, "nothing/Åre 林"),
    ):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            assert call(monkeypatch, *words) == (words[1] == "cat"), printed
        said = stream.buffer.getvalue().decode(encoding)
        assert shown in said, said
        printed += said
    assert f"{shown} 1" in printed, "the class, counted"
    assert "\x1b" not in printed and "x\\x1b[31m.jpg" in printed


def test_a_name_that_is_no_text_is_in_the_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path, quiet(), config=Config())
    with log.open(0):
        log.say("data: path /x/\udcff")
    assert "/x/\\udcff" in (tmp_path / "train.log").read_text()


def test_a_run_folder_that_is_not_utf_8_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.fsdecode(b"/x/\xff")
    assert call(monkeypatch, "pretrain", "demo", "--run.folder", folder) == 2
    assert capsys.readouterr().err == (
        "turbomim: run.folder = '/x/\\udcff': must be a name in UTF-8, as safetensors wants it\n"
    )


def test_what_stands_for_what() -> None:
    text = "│…•×µ林\udcff"
    assert drawable(text, "ascii") == "|...*xu\\u6797\\udcff"
    assert drawable(text, "iso-8859-1") == "|...*×µ\\u6797\\udcff"
    assert drawable(text, "gbk") == "│…*×u林\\udcff"
    assert drawable(text, "utf-8") == text[:-1] + "\\udcff"
