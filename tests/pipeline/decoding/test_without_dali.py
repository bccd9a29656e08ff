"""Without NVIDIA DALI: all works but random resized crops and GPUs, which say what to install.

Planted bug: `from nvidia.dali import fn` at the head of a module of `pipeline/` fails
`test_dali_is_imported_in_one_place` and `test_an_installation_without_dali_imports_and_trains`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import ROOT
from tests.runs import config_for, finish, launch, outcome
from tests.runs import run as run_attempt
from tests.test_direction import MODULES, SOURCES

from turbomim.pipeline.decoding import dali_package
from turbomim.pipeline.decoding.dali_package import import_dali, remedy, wheel_problem
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands.cli import main
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

ONE_PLACE = ROOT / "pipeline" / "decoding" / "dali_package.py"
# they measure DALI itself
ABOUT_DALI = {"benchmarks.loader.reader", "benchmarks.faults.damage_images"}
LINE = (
    "NVIDIA DALI, which cuts random resized crops and feeds GPUs, is not installed: "
    "pip install 'turbomim[cuda1"
)
OLD, NEW = "nvidia-dali-cuda120", "nvidia-dali-cuda130"


class Hidden:
    """A finder that raises for nvidia.dali, as Python does where it is not installed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or ModuleNotFoundError("No module named 'nvidia.dali'", name="nvidia.dali")

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "nvidia.dali":
            raise self.error


def hide_dali() -> None:
    """Make this process one in whose Python DALI is not installed."""
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Hidden())
    real = importlib.metadata.version

    def version(distribution_name: str) -> str:
        if "dali" in distribution_name:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return real(distribution_name)

    importlib.metadata.version = version


def imports_of_dali(node: ast.AST, in_function: bool = False) -> Iterator[tuple[int, bool]]:
    """Line, and whether in a function, of each import of nvidia.dali that runs."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        before = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        if any(f"{before}{alias.name}.".startswith("nvidia.dali.") for alias in node.names):
            yield node.lineno, in_function
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from imports_of_dali(child, inside)


def test_dali_is_imported_in_one_place() -> None:
    """At the head of none of our modules, and in functions of benchmarks and of one module alone."""
    wrong = []
    for path in SOURCES:
        free = path == ONE_PLACE or path.relative_to(ROOT).parts[0] == "benchmarks"
        found = imports_of_dali(ast.parse(path.read_text(encoding="utf-8")))
        if ".".join(path.relative_to(ROOT).with_suffix("").parts) not in ABOUT_DALI:
            wrong += [f"{path}:{line}" for line, in_function in found if not (free and in_function)]
    assert not wrong, f"call `import_dali()` where DALI is needed, not at {wrong}"


@pytest.fixture(scope="module")
def raw(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photo_folder` as a raw store of a short side of 32 pixels."""
    folder = tmp_path_factory.mktemp("raw") / "trees"
    make_shards(photo_folder, folder, ShardSettings(store="raw", short_side=32, resampling="bicubic"))
    return folder


def short_run(data: Path, runs: Path) -> Config:
    return config_for(data, runs, optim={"epochs": 1, "warmup_epochs": 0})


def import_all_and_train(data: str, runs: str) -> None:
    """In an interpreter of its own: import every module, then train on a raw store."""
    import torch

    assert "nvidia.dali" not in sys.modules
    hide_dali()
    for module in MODULES:
        if module.removeprefix("turbomim.") not in ABOUT_DALI:
            importlib.import_module(module)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pretrain(short_run(Path(data), Path(runs)))
    assert "nvidia.dali" not in sys.modules


def test_an_installation_without_dali_imports_and_trains(raw: Path, tmp_path: Path) -> None:
    """Every module can be imported, and on raw pixels the losses are those with DALI."""
    code = (
        "from tests.pipeline.decoding.test_without_dali import import_all_and_train as go; "
        f"go({str(raw)!r}, {str(tmp_path / 'without')!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    run_attempt(short_run(raw, tmp_path / "with"))
    tensors, losses = outcome(tmp_path / "without" / "r")
    assert len(losses) == 5
    assert (tensors, losses) == outcome(tmp_path / "with" / "r")


def command(said: Path, words: list[str]) -> None:
    """One command in a process without DALI; what it says goes to a file."""
    hide_dali()
    sys.argv = ["turbomim", *words]
    with said.open("w", encoding="utf-8") as file:
        sys.stderr = sys.stdout = file
        main()


def call(tmp_path: Path, *words: str) -> tuple[int | None, str]:
    """The exit code of a command without DALI, and what it said."""
    code = finish(launch(command, tmp_path / "said", list(words)))
    return code, (tmp_path / "said").read_text(encoding="utf-8")


def pretrain_words(data: Path, runs: Path, *more: str) -> list[str]:
    settings = {
        "data.path": data, "data.size": 32, "model.patch": 8, "model.width": 32, "model.depth": 2,
        "model.heads": 2, "optim.epochs": 1, "optim.warmup_epochs": 0, "optim.global_batch": 8,
        "step.compile": "false", "step.device": "cpu", "run.folder": runs,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["pretrain", "demo", *flags, *more]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_random_crops_are_one_line(trees: Path, tmp_path: Path, more: list[str]) -> None:
    code, said = call(tmp_path, *pretrain_words(trees, tmp_path / "runs", "--data.crop", "rrc", *more))
    last = said.splitlines()[-1]
    assert code == 1
    assert last.startswith(f"turbomim: {LINE}") and said.count("DALI, which") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_photographs_are_trained_on(trees: Path, tmp_path: Path) -> None:
    code, said = call(tmp_path, *pretrain_words(trees, tmp_path / "runs"))
    assert code == 0, said


def test_a_random_crop_of_raw_pixels_is_one_line(raw: Path, tmp_path: Path) -> None:
    code, said = call(tmp_path, *pretrain_words(raw, tmp_path, "--data.crop", "rrc"))
    assert code == 1 and said.splitlines()[-1].startswith(f"turbomim: {LINE}")


@pytest.mark.parametrize("more", [["--store", "raw", "--short-side", "32"], ["--check", "full"]])
def test_shards_that_are_decoded(photo_folder: Path, tmp_path: Path, more: list[str]) -> None:
    words = ["shard", "make", str(photo_folder), str(tmp_path / "out"), "--workers", "1", *more]
    code, said = call(tmp_path, *words)
    assert code == 0, said


def test_original_bytes_are_packed_and_verified(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(tmp_path, "shard", "make", str(photo_folder), str(out), "--workers", "1")[0] == 0
    assert json.loads((out / "manifest.json").read_text())["samples"] == 33
    assert call(tmp_path, "shard", "verify", str(out), "--workers", "1")[0] == 0
    assert call(tmp_path, "shard", "verify", str(out), "--images", "--workers", "1")[0] == 0


def test_raw_pixels_are_verified(raw: Path, tmp_path: Path) -> None:
    assert call(tmp_path, "shard", "verify", str(raw), "--images", "--workers", "1")[0] == 0


def import_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """What `import_dali` says where the import fails with an error."""
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(error), *sys.meta_path])
    with pytest.raises(UserError) as caught:
        import_dali.__wrapped__()
    return str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError("libnvjpeg.so.13: cannot open\nshared object file"),
        ImportError("libnvjpeg.so.13: cannot open\nshared object file"),
        # something that DALI imports
        ModuleNotFoundError("No module named 'makefun'", name="makefun"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_dali_that_cannot_be_imported_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = import_again(monkeypatch, error)
    reason = f"{type(error).__name__}: {str(error).replace(chr(10), ' ')}"
    assert f"cannot be imported ({reason}): pip uninstall -y nvidia-dali-cuda1" in said
    assert "\n" not in said


def test_files_that_went_with_the_other_wheel_are_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two wheels one was uninstalled: pip believes the other to be whole."""
    monkeypatch.setattr(dali_package, "installed_wheels", lambda: {NEW: "2.4.0"})
    said = import_again(monkeypatch, ModuleNotFoundError("No module", name="nvidia.dali"))
    assert "is not installed: pip uninstall -y nvidia-dali-cuda130; pip install 'turbomim[cuda1" in said


def test_remedy_is_for_the_cuda_of_torch() -> None:
    assert remedy({}, "12.8") == "pip install 'turbomim[cuda12]'"
    assert remedy({}, "13.0") == remedy({}, None) == "pip install 'turbomim[cuda13]'"


@pytest.mark.parametrize(
    ("wheels", "torch_cuda", "gpu", "problem"),
    [
        ([], "13.0", True, None),
        ([NEW], "13.0", True, None),
        ([OLD], "12.9", True, None),
        ([OLD], None, True, None),
        ([OLD], "13.0", False, None),
        (
            [OLD], "13.0", True,
            "nvidia-dali-cuda120 is for CUDA 12, torch for CUDA 13.0: a driver that runs one may not run the "
            "other; pip uninstall -y nvidia-dali-cuda120; pip install 'turbomim[cuda13]'",
        ),
        (
            [NEW], "12.8", True,
            "nvidia-dali-cuda130 is for CUDA 13, torch for CUDA 12.8: a driver that runs one may not run the "
            "other; pip uninstall -y nvidia-dali-cuda130; pip install 'turbomim[cuda12]'",
        ),
        (
            [OLD, NEW], "12.8", False,
            "nvidia-dali-cuda120 2.4.0 and nvidia-dali-cuda130 2.4.0 are both installed, over each other's "
            "files: pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130; pip install 'turbomim[cuda12]'",
        ),
    ],
)  # fmt: skip
def test_wheel_problem(wheels: list[str], torch_cuda: str | None, gpu: bool, problem: str | None) -> None:
    assert wheel_problem(dict.fromkeys(wheels, "2.4.0"), torch_cuda, gpu=gpu) == problem


def test_wheels_that_do_not_fit_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dali_package, "installed_wheels", lambda: {OLD: "2.4.0", NEW: "2.4.0"})
    import_dali.__wrapped__()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("turbomim: nvidia-dali-cuda120 2.4.0 and nvidia-dali-cuda130 2.4.0 are both")
