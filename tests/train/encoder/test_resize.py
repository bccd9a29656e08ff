"""Encoders at another size than their training's: timm's features, textbook positions.

Planted, each seen to fail the test named: antialiasing
(`test_absolute_positions_are_resampled_as_published`); positions of the new size instead of resampled ones,
the class token's position resampled too, tables left at their initial values, windows that do not grow
(`test_features_are_timms_at_that_size`); positions measured in the new window
(`test_swinv2_measures_positions_in_the_windows_it_was_trained_with`); a table resized on an even grid
(`test_tables_are_resized_on_a_geometric_grid`); initial weights known by their seed alone
(`test_initial_weights_are_known_by_the_size_they_were_drawn_at`).
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tests import ROOT
from tests.exported import CONFIGS, stirred
from timm.layers.pos_embed import resample_abs_pos_embed
from torch.nn import functional

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.features import normalised
from turbomim.train.encoder.resize import at_size, resample_positions, resized
from turbomim.train.encoder.source import Source
from turbomim.train.export.timm import folder_config, load_folder, timm_arguments
from turbomim.train.export.weights import encoder_weights, write_weights
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim_swin import swin_arguments
from turbomim.train.models.vit import sincos_positions
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.finetune import tuned_size

# of models of 48 pixels with patches of 8 or 4, windows of 3
SIZES = (32, 64)


def images(size: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, size, size, 3), generator=g, dtype=torch.uint8)


def written_out(positions_1TD: torch.Tensor, side: int, prefix: int = 1) -> torch.Tensor:
    """Absolute positions for `side` patches a side, as torch's interpolate gives them."""
    old = int((positions_1TD.shape[1] - prefix) ** 0.5)
    grid_1DHW = positions_1TD[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    wanted_1DHW = functional.interpolate(
        grid_1DHW, (side, side), mode="bicubic", align_corners=False, antialias=False
    )
    return torch.cat([positions_1TD[:, :prefix], wanted_1DHW.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize(
    ("grid", "wanted", "prefix"), [(14, 24, 1), (14, 10, 1), (6, 4, 0), (3, 5, 0), (14, 14, 1)]
)
def test_absolute_positions_are_resampled_as_published(grid: int, wanted: int, prefix: int) -> None:
    positions_1TD = sincos_positions(64, grid)[:, 1 - prefix :]
    found = resample_positions(positions_1TD, wanted, prefix)
    assert torch.equal(found, written_out(positions_1TD, wanted, prefix))
    sides = [[wanted, wanted], [grid, grid]]
    antialiased = resample_abs_pos_embed(positions_1TD, *sides, num_prefix_tokens=prefix)
    assert grid == wanted or (found - antialiased).abs().max() > 1e-3


def test_positions_are_resampled_in_one_place() -> None:
    """No other resize of positions in what trains, evaluates, imports and exports."""
    places = set()
    for stage in ("pipeline", "kernels", "train"):
        for path in (ROOT / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node, "attr", getattr(node, "id", ""))
                if name in ("interpolate", "resample_abs_pos_embed", "grid_sample", "upsample", "zoom"):
                    places.add((path.parent.name, path.name, name))
    # the others resize photographs, and crops on the training device
    assert places == {
        (folder, name, "interpolate")
        for folder, name in (("encoder", "resize.py"), ("decoding", "resize.py"), ("pretrain", "smaller.py"))
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "convmae"])
def test_features_are_timms_at_that_size(kind: str, size: int, tmp_path: Path) -> None:
    """timm makes its model with img_size, and resizes what it finds in the export's file; or a loaded one.

    Absolute positions it antialiases: the published ones take their place.
    """
    config = CONFIGS[kind]
    model = stirred(config)
    write_weights(tmp_path / "model.safetensors", encoder_weights(model))
    write_json(tmp_path / "config.json", folder_config(config))
    arguments = timm_arguments(config) | {"img_size": size}
    if "swin" in kind:
        arguments["window_size"] = 3 * size // 48
    if kind == "swinv2":
        arguments["pretrained_window_sizes"] = (3, 3)
    arguments["pretrained_cfg_overlay"] = {"file": str(tmp_path / "model.safetensors")}
    theirs: Any = timm.create_model(**arguments, pretrained=True).eval()
    ours = resized(model, config, at_size(config, size)).eval()
    if "pos_embed" in model.state_dict():
        antialiased = theirs.pos_embed.detach().clone()
        theirs.pos_embed.data = written_out(model.state_dict()["pos_embed"], size // 8)
        assert (antialiased - theirs.pos_embed).abs().max() > (1e-3 if size < 48 else 0)
    with torch.no_grad():
        found = ours.features(images(size))
        expected = theirs.forward_features(normalised(images(size)))
    torch.testing.assert_close(found, expected.reshape(found.shape), rtol=0, atol=1e-5)
    assert float(found.std()) > 0.1
    if kind != "swinv2":
        loaded: Any = load_folder(tmp_path)
        loaded.set_input_size(img_size=(size, size))
        if "pos_embed" in model.state_dict():
            torch.testing.assert_close(loaded.pos_embed, antialiased)
            loaded.pos_embed.data = theirs.pos_embed.data
        with torch.no_grad():
            torch.testing.assert_close(loaded.forward_features(normalised(images(size))), expected)


def test_convmaes_positions_are_resampled_and_nothing_else() -> None:
    config = CONFIGS["convmae"]
    model = stirred(config)
    other = resized(model, config, at_size(config, 80))
    before, after = model.state_dict(), other.state_dict()
    torch.testing.assert_close(after["pos_embed"], written_out(before["pos_embed"], 5, prefix=0))
    same = [name for name in before if name not in ("pos_embed", "decoder_pos_embed")]
    assert all(torch.equal(before[name], after[name]) for name in same)
    with torch.no_grad():
        assert other.eval().features(images(80)).shape == (2, 25, 48)


def steps(before: int, after: int) -> np.ndarray[Any, Any]:
    """Where the entries of a table of `before` steps a side lie in one of `after`: 1, q, q^2 … apart."""
    low, high = 1.01, 1.5
    half = before // 2
    for _ in range(60):
        q = (low + high) / 2
        low, high = (low, q) if sum(q**n for n in range(half)) > after // 2 else (q, high)
    far = np.cumsum(q ** np.arange(half))
    return np.concatenate([-far[::-1], [0.0], far])


@pytest.mark.parametrize(("kind", "tokens"), [("simmim", 6), ("swin", 3)])
def test_tables_are_resized_on_a_geometric_grid(kind: str, tokens: int) -> None:
    """Along rows and columns in turn; rows of the class token, which follow the others, stay."""
    config = CONFIGS[kind]
    model = stirred(config)
    other = resized(model, config, at_size(config, 64))
    names = [name for name in model.state_dict() if name.endswith("relative_position_bias_table")]
    wider = tokens * 64 // 48
    sides = 2 * tokens - 1, 2 * wider - 1
    places, wanted = steps(*sides), np.arange(1 - wider, wider)
    for name in names:
        before, after = (each.state_dict()[name].double().numpy() for each in (model, other))
        square = before[: sides[0] ** 2].reshape(sides[0], sides[0], -1)
        for axis in (0, 1):
            square = np.apply_along_axis(lambda line: np.interp(wanted, places, line), axis, square)
        np.testing.assert_allclose(after[: sides[1] ** 2], square.reshape(sides[1] ** 2, -1), atol=2e-5)
        np.testing.assert_array_equal(after[sides[1] ** 2 :], before[sides[0] ** 2 :])
        assert len(after) - sides[1] ** 2 == (3 if kind == "simmim" else 0)
    assert names


def test_swinv2_measures_positions_in_the_windows_it_was_trained_with() -> None:
    """So the bias between two tokens is what it was, in a larger window too."""
    config = CONFIGS["swinv2"]
    model = stirred(config)
    other = resized(model, config, at_size(config, 64))
    for mine, theirs in zip(model.modules(), other.modules(), strict=True):
        if hasattr(mine, "cpb_mlp"):
            before, after = (
                each.cpb_mlp(each.relative_coords_table)[0]  # type: ignore[operator]
                for each in (mine, theirs)
            )
            assert before.shape[:2] == (5, 5) and after.shape[:2] == (7, 7)
            torch.testing.assert_close(after[1:-1, 1:-1], before)


@pytest.mark.parametrize(
    ("name", "size", "window", "trained"),
    [
        ("simmim-swin-b-100e", 224, 7, ""),
        ("simmim-swin-l-800e", 224, 14, ""),
        ("simmim-swinv2-b-800e", 224, 14, "12,12,12,6"),
        ("simmim-vit-b16-800e", 224, 6, ""),
        ("mae-vit-b16-800e", 224, 6, ""),
    ],
)
def test_swins_are_tuned_as_published(name: str, size: int, window: int, trained: str) -> None:
    config = recipe(name)
    wanted = at_size(config, tuned_size(config))
    assert (wanted.data.size, wanted.model.window, wanted.model.pretrained_windows) == (size, window, trained)
    if trained:
        assert swin_arguments(wanted)["pretrained_window_sizes"] == (12, 12, 12, 6)
    assert at_size(config, config.data.size) is config is at_size(config, None)


def test_a_swin_whose_windows_do_not_fit_224_keeps_its_size() -> None:
    config = recipe("simmim-swin-b-100e")
    assert tuned_size(replace(config, model=replace(config.model, window=8))) == 192
    assert tuned_size(replace(config, model=replace(config.model, stages="2,2,2,2,2", mask_unit=16))) == 192


def test_masks_refuse_no_size() -> None:
    """SimMIM's units of 2 x 2 patches do not divide 5 x 5, and no mask is drawn."""
    config = CONFIGS["simmim"]
    with pytest.raises(UsageError, match=r"model\.mask_unit"):
        replace(config, data=replace(config.data, size=40))
    assert at_size(config, "40").grid == 5


def test_targets_refuse_no_size() -> None:
    """40 cycles are beyond what 48 pixels have, and nothing is predicted of them."""
    config = recipe("pixmim-vit-b16-300e")
    with pytest.raises(UsageError, match=r"model\.radius"):
        replace(config, data=replace(config.data, size=48))
    assert at_size(config, 48).model.target == "raw"
    assert at_size(config, 256).model.target == "gaussian"


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("mae", 50, r"data\.size = 50: must be a multiple of model\.patch \(8\)"),
        ("mae", 8, r"data\.size = 8: must be at least 16 pixels"),
        ("mae", "large", r"data\.size = large: must be a whole number"),
        ("convmae", 40, r"a multiple of model\.patch \(16\)"),
        ("swin", 44, r"data\.size = 44: must be a multiple of 2 patches"),
        ("swin", 40, r"a multiple of 16, as windows of 3 tokens grow with the image from 48 pixels"),
    ],
)
def test_wrong_sizes_are_one_line(kind: str, size: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        at_size(CONFIGS[kind], size)
    assert "\n" not in str(error.value)


def test_initial_weights_are_known_by_the_size_they_were_drawn_at() -> None:
    """Files of one name share kept features, and those resized to 48 pixels are not those drawn for 48."""
    config = CONFIGS["mae"]
    known = []
    for drawn in (config, at_size(config, 64)):
        source = Source(path=Path("e.pth"), config=drawn, model=make_model(drawn), step=None, weights="ab")
        known.append(source.initial().at_size(48).weights)
    assert known[0] != known[1]
