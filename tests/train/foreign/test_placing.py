"""Files that do not fit: the format, the settings or the tensors that would are named, and no run is begun.

Planted bugs and the test that fails on each: half a decoder taken as none, tensors left over, NaN
(`test_tensors_that_do_not_fit_are_named`); settings not compared
(`test_settings_that_do_not_fit_name_those_that_do`); two tensors for one name
(`test_two_tensors_for_one_place_are_refused`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.calls import assert_one_line
from tests.train.foreign.imports import import_file, save
from tests.train.foreign.names import DECODER, ENCODER, MFF, TOKENS, WIDTH, weights
from torch import Tensor

pytestmark = pytest.mark.usefixtures("here")

FULL = ENCODER + DECODER


def refused(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """One line with these parts, and no run."""
    assert_one_line(capsys, *parts)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("rows", "theirs", "form", "fitting"),
    [
        (FULL, True, "mae", "mmselfsup"),
        (FULL, False, "mmselfsup", "mae or lsmae"),
        (FULL + MFF, True, "mmselfsup", "mff"),
        (FULL, True, "mff", "mmselfsup"),
        (ENCODER, False, "simmim", "mae or lsmae"),
        (FULL, False, "convmae", "mae or lsmae"),
    ],
)
def test_a_wrong_format_names_the_right_one(
    rows: list[Any],
    theirs: bool,
    form: str,
    fitting: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = save({"model": weights(rows, theirs=theirs)})
    assert import_file(monkeypatch, file, form) == 1
    refused(capsys, f"{file} is not of --from {form}", f"those of {fitting}\n")


def test_other_names_are_of_no_known_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save({"model": {"vit.embeddings.cls_token": torch.ones(1, 1, 8)}})
    assert import_file(monkeypatch, file, "mae") == 1
    refused(capsys, file, "no known program", "'vit.embeddings.cls_token'")
    for form, sign in (("simmim", "encoder.mask_token"), ("convmae", "patch_embed1.proj.weight")):
        assert import_file(monkeypatch, save({"model": {sign: torch.ones(1, 3, 4, 4)}}), form) == 2
        refused(capsys, f"--from {form} needs --recipe NAME")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (
            ["--recipe", "cifar10-vit-t4"],
            ["model.patch 4", "model.depth 6", "--model.patch 8 --model.width 192"],
        ),
        (["--data.size", "64"], ["data.size 64", "--data.size 32"]),
        (["--model.width", "384", "--model.heads", "6"], ["model.width 384", "--model.width 192"]),
        (["--model.decoder_depth", "4"], ["model.decoder_depth 4", "--model.decoder_depth 2"]),
        (["--model.heads", "5"], ["model.width = 192: must be a multiple of 4 x its 5 heads"]),
        (["--recipe", "mae-vit-b16"], ["unknown recipe 'mae-vit-b16': did you mean mae-vit-b16-800e"]),
        (["--model.wdth", "3"], ["unknown flag '--model.wdth': did you mean --model.width"]),
        (["--to", "mae"], ["unknown flag '--to': known: --from, --recipe"]),
    ],
)
def test_settings_that_do_not_fit_name_those_that_do(
    more: list[str],
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert import_file(monkeypatch, save({"model": weights(FULL)}), "mae", *more) == 2
    refused(capsys, *parts)


def damaged(**changes: Tensor | None) -> str:
    """A file of an MAE with tensors exchanged, added, or removed where they are None."""
    tree = {**weights(FULL), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    return save({"model": {name: tensor for name, tensor in tree.items() if tensor is not None}})


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"blocks__0__norm1__weight": None, "blocks__2__norm1__weight": None},
            ["missing: blocks.N.norm1.weight (2);"],
        ),
        ({"decoder_norm__bias": None}, ["missing: decoder_norm.bias;"]),
        ({"pos_embed": None}, ["missing: pos_embed;"]),
        (
            {"extra__weight": torch.ones(3), "gamma__bias": torch.ones(3)},
            ["unexpected: extra.weight, gamma.bias"],
        ),
        ({"norm__bias": torch.ones(5)}, ["of another shape: norm.bias (5,) for (192,)"]),
        ({"norm__bias": torch.ones(WIDTH, dtype=torch.int64)}, ["of another shape: norm.bias"]),
        ({"pos_embed": torch.ones(1, TOKENS + 1, WIDTH)}, [f"pos_embed (1, {TOKENS + 1}, 192) for"]),
        ({"norm__bias": torch.full((WIDTH,), torch.nan)}, ["not finite in norm.bias"]),
        ({f"blocks__{n}__x": torch.ones(1) for n in range(9000)}, ["too few for the sizes they give"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    changes: dict[str, Tensor | None],
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = damaged(**changes)
    assert import_file(monkeypatch, file, "mae", *(["--data.size=32"] if "pos_embed" in changes else [])) == 1
    refused(capsys, file, *parts)


def test_two_tensors_for_one_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {**weights(FULL, theirs=True), "cls_token": torch.ones(1, 1, WIDTH)}
    assert import_file(monkeypatch, save({"state_dict": theirs}), "mmselfsup") == 1
    refused(capsys, "file.pth: two tensors are cls_token")
