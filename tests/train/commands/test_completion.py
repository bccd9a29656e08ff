"""Completion at TAB, asked of the shells themselves.

Planted bugs: `--flag=` taken for one word in bash, and the second word of a group left out of the name, fail
`test_what_a_shell_offers`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.calls import assert_one_line, call

from turbomim.train.commands.completion import LISTED, completion_script
from turbomim.train.models.methods import METHODS

# words of the line, the last one is completed; what is offered first, and how much in all (0: not counted)
CASES = [
    (["ev"], ["eval"], 1),
    ([""], ["demo", "shard", "pretrain"], 0),
    (["--v"], ["--version"], 1),
    (["--p"], ["--print-completion"], 1),
    (["--t"], ["--traceback"], 1),
    (["help", "do"], ["doctor"], 1),
    (["pretrain", "demo", "--preset", "h1"], ["h100"], 1),
    (["pretrain", "demo", "--model.method", "simmim-"], ["simmim-swin", "simmim-swinv2"], 2),
    (["pretrain", "demo", "--optim.base_"], ["--optim.base-lr"], 1),
    (["pretrain", "demo", "--step.compile_mode", "red"], ["reduce-overhead"], 1),
    (["pretrain", "demo", "--run.rec"], [], 0),
    (["--print-completion", ""], ["bash", "zsh"], 2),
    (["eval", ""], ["knn", "linear", "finetune"], 3),
    (["shard", "ver"], ["verify"], 1),
    (["eval", "knn", "runs/a", "--sa"], ["--samples"], 1),
    (["shard", "verify", "--images", "--w"], ["--workers"], 1),
    (["pretrain", "pixmim-ideal"], ["pixmim-ideal-vit-b16-300e", "pixmim-ideal-vit-b16-800e"], 2),
    (["tune", "step", "de"], ["demo"], 1),
    (["pretrain", "demo", "--"], ["--config", "--from", "--preset"], 0),
    (["pretrain", "demo", "--model.dep"], ["--model.depth"], 1),
    (["pretrain", "demo", "--data.crop", ""], ["src", "rrc"], 2),
    (["eval", "finetune", "runs/a", "--finetune.lay"], ["--finetune.layer-decay"], 1),
    (["export", "runs/a", "--to", "ti"], ["timm"], 1),
    (["export", "runs/a", "--to", ""], ["timm", "hf"], 0),
    (["import", "x.pth", "--recipe", "mae-vit-h"], ["mae-vit-h14-800e"], 1),
    # files, by the shell
    (["show", ""], [], 0),
    (["embed", "runs/a", "--out", ""], [], 0),
    (["nonsense", "--x"], [], 0),
]

IN_BASH = """
source "$1"; shift
COMP_WORDS=(turbomim "$@"); COMP_CWORD=$#
_turbomim
printf '%s\\n' "${COMPREPLY[@]}"
complete -p turbomim >&2
"""
# of what zsh has for widgets alone, the part that is used
IN_ZSH = """
compdef() {}
compset() {}
_files() {}
compadd() {
    [[ $1 == -M && $2 == m:_=- && $typed == --* ]] && typed=${typed//_/-}
    while [[ $1 != -- ]]; do shift; done; shift
    for each in "$@"; do if [[ $each == $typed* ]]; then print -r -- $each; fi; done
}
source "$1"; shift
words=(turbomim "$@"); CURRENT=$(($# + 1)); typed=${words[CURRENT]#--*=}
_turbomim
"""


def offered(shell: str, script: Path, words: list[str]) -> list[str]:
    """What a shell offers for the last word."""
    program = {"bash": ["bash", "--norc", "-c", IN_BASH], "zsh": ["zsh", "-f", "-c", IN_ZSH]}[shell]
    done = subprocess.run(
        [*program, shell, str(script), *words], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stderr == "complete -o default -F _turbomim turbomim\n") == (shell == "bash"), done.stderr
    return done.stdout.split()


# the script is the same but for a few lines; not every machine has zsh
@pytest.mark.parametrize("shell", ["bash", *filter(shutil.which, ["zsh"])])
def test_what_a_shell_offers(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(completion_script(shell))
    cases = [
        *CASES,
        (["export", "r", "--to", "=", "h"] if shell == "bash" else ["export", "r", "--to=h"], ["hf"], 1),
    ]
    for words, first, count in cases:
        found = offered(shell, script, words)
        assert found[: len(first)] == first and (not count or len(found) == count), (words, found)
        assert first or not found, (words, found)


def test_the_methods_are_those_there_are() -> None:
    assert LISTED["--model.method"] == tuple(METHODS)


@pytest.mark.parametrize("words", [["--print-completion", "bash"], ["--print-completion=zsh"]])
def test_the_script_is_printed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) == 0
    assert capsys.readouterr().out == completion_script("bash" if "bash" in words else "zsh") + "\n"


def test_other_shells_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--print-completion", "fish") == 2
    assert_one_line(capsys, "--print-completion fish: must be bash or zsh")
