"""The loops under examples/, each run as its first lines say: killed, it goes on with the same samples.

Planted: Lightning given a DataLoader around the dataset, Hugging Face's Trainer without `ignore_data_skip` or
without KeepPosition, a loader that starts anew: each fails `test_killed_it_goes_on_with_the_same_samples`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import ROOT

import turbomim

STEPS, SAVED, KILLED = 7, 3, 4
# runs an example, and kills it right after it has printed that a step is done
KILL = f"""
import builtins, os, runpy, signal, sys
say = print
def say_and_die(*words, **how):
    say(*words, **how)
    if str(words[0]).startswith("step {KILLED}:"):
        os.kill(os.getpid(), signal.SIGKILL)
builtins.print = say_and_die
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(name: str, folder: Path, *arguments: object, killed: bool = False) -> list[str]:
    """The lines that an example prints on its steps or epochs."""
    example = [str(ROOT / "examples" / name), *map(str, arguments)]
    command = [sys.executable, *(["-c", KILL] if killed else []), *example]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("step", "epoch"))]


def samples(lines: list[str]) -> list[list[int]]:
    """The ids of each step."""
    return [json.loads(re.sub(".*samples ", "", line)) for line in lines]


LOOPS = ["plain_loop.py", "stateful_dataloader.py", "lightning_trainer.py", "hf_trainer.py"]


def refusal(name: str, folder: Path, *arguments: str) -> str:
    """What an example says that takes no step."""
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("name", [*LOOPS, "supervised_timm.py"])
def test_without_arguments_it_says_its_usage(name: str, tmp_path: Path) -> None:
    assert refusal(name, tmp_path).splitlines()[-1].startswith(f"usage: python {name} ")


@pytest.mark.parametrize("name", LOOPS)
def test_killed_it_goes_on_with_the_same_samples(name: str, trees: Path, tmp_path: Path) -> None:
    endless = name == "plain_loop.py"
    loader, expected = turbomim.Loader(trees, size=64, batch=8, endless=endless), list[list[int]]()
    while len(expected) < STEPS:
        for batch in loader:
            expected.append(batch.ids_B.tolist())
            if len(expected) == STEPS:
                break
    begun = run_example(name, tmp_path, trees, STEPS, SAVED, killed=True)
    assert samples(begun) == expected[:KILLED]
    resumed = run_example(name, tmp_path, trees, STEPS, SAVED)
    assert resumed[0].startswith(f"step {SAVED + 1}:")
    assert samples(resumed) == expected[SAVED:]
    # the weights are the same, too: so is the loss of the step that was taken twice
    assert resumed[0] == begun[-1]
    # all steps are saved already: none is taken
    assert run_example(name, tmp_path, trees, 2 * SAVED, SAVED) == []


def test_supervised_training_with_timm(trees: Path, tmp_path: Path) -> None:
    lines = run_example("supervised_timm.py", tmp_path, trees, trees, "resnet10t", 2)
    assert [re.sub(r"loss .*, \d+ of", "of", line) for line in lines] == [
        "epoch 1: of 33 right",
        "epoch 2: of 33 right",
    ]


def test_supervised_training_needs_labels(photo_folder: Path, tmp_path: Path) -> None:
    turbomim.shard(photo_folder / "ash", tmp_path / "shards")
    said = refusal("supervised_timm.py", tmp_path, "shards", "shards", "resnet10t", "1")
    assert said.splitlines()[-1] == "shards has no labels: see turbomim.shard"
