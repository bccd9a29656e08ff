"""Every flag of every command is known, and a misspelt one is refused with the one that was meant.

Planted bugs: a flag left out of `flags_of` (`test_the_flags_are_those_of_help`); `parse` that leaves unknown
flags to tyro (`test_every_command_names_the_flag_that_was_meant`); settings compared before a command's own
flags (`test_a_misspelt_flag_is_told`).
"""

from __future__ import annotations

import re

import pytest
from tests.calls import assert_one_line, call

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.commands.completion import flags_by_command
from turbomim.train.commands.pretrain import OWN
from turbomim.train.commands.table import options_of
from turbomim.train.settings.config import Config
from turbomim.train.settings.known_flags import Flags, check_flags, flags_of, settings_of

FLAGS = flags_by_command()


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_are_those_of_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *command.split(), "--help") == 0
    lines = re.findall(r"^(?:│ |  )(--[a-z][\w.-]*(?:, --[\w.-]+)*)", capsys.readouterr().out, re.M)
    shown = {flag for line in lines for flag in line.split(", ")} - {"--help"}
    assert shown == set(flags_of(options_of(command)))


@pytest.mark.parametrize("command", FLAGS)
def test_every_command_names_the_flag_that_was_meant(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meant = next(iter(FLAGS[command]), "")
    recipe = ("demo",) if command == "pretrain" else ()
    assert call(monkeypatch, *command.split(), *recipe, f"{meant or '--flag'}x", "1") == 2
    assert_one_line(capsys, f"did you mean {meant}" if meant else "there are none but --help")


@pytest.mark.parametrize("command", FLAGS)
def test_a_misspelt_flag_is_told(command: str) -> None:
    known = FLAGS[command]
    for flag in known:
        wrong = flag[:-1] + "w"
        if len(flag) > 6 and wrong not in known:
            with pytest.raises(UsageError, match=rf"^unknown flag '{wrong}': did you mean .*{flag}( or |\?)"):
                check_flags([f"{wrong}=1"], known)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dat", "x"], "did you mean --data?"),
        (["--epochs", "3"], "did you mean --optim.epochs?"),
        (["--rrc_scale=3"], "did you mean --data.rrc-scale?"),
        (["--no-chek"], "did you mean --no-check?"),
        (["--modl.heads", "3"], "did you mean --model.heads?"),
        (["--model.epochs", "3"], "did you mean --optim.epochs?"),
        (["--epoch", "3"], "did you mean --optim.epochs?"),
        (["--data-path", "x"], "did you mean --data.path?"),
        (["--optim.lr", "1"], "did you mean --optim.base-lr or --optim.min-lr?"),
        (["--lr", "1"], "did you mean --optim.base-lr or --optim.min-lr?"),
        (["--xyz"], "'--xyz': known: --data, --check"),
    ],
)
def test_what_is_meant(words: list[str], said: str) -> None:
    known: Flags = dict.fromkeys(
        (
            "--data",
            "--check",
            "--no-check",
            "--data.path",
            "--optim.epochs",
            "--optim.base-lr",
            "--optim.min-lr",
            "--data.rrc-scale",
            "--model.heads",
        ),
        (),
    )
    with pytest.raises(UsageError, match=rf"^unknown flag .*{re.escape(said)}$"):
        check_flags(words, known)


def test_values_and_both_spellings_pass() -> None:
    check_flags(["run", "-1", "--", "--", "--rrc_scale", "--rrc-scale=-1"], {"--rrc-scale": ()})


def test_pretrain_knows_its_own_flags_without_tyro() -> None:
    assert set(OWN) | set(settings_of(Config)) == set(FLAGS["pretrain"])


def test_values_that_a_flag_takes() -> None:
    assert FLAGS["export"]["--to"][:2] == ("timm", "hf")
    assert set(FLAGS["shard make"]["--resampling"]) == {"bilinear", "bicubic"}
    assert FLAGS["shard make"]["--lock"] == ("true", "false") and FLAGS["import"]["--from"][0] == "mae"
    assert FLAGS["eval finetune"]["--finetune.layer-decay"] == FLAGS["embed"]["--model.depth"] == ()
    assert (
        FLAGS["pretrain"]["--step.compile"] == ("true", "false") and "--no-random" in FLAGS["eval finetune"]
    )
