"""Every format that `turbomim import` takes, from lists of its names to a run that goes on training.

Names and shapes of the other programs are written out in names.py.  Planted bugs and the test that
fails on each: a position embedding made anew (`test_stored_position_embeddings_are_kept_and_used`); the
decoder's norm under the encoder's name (`test_mmselfsup_both_ways`); the zeros of the keys' bias at the end
(`test_lsmae_has_mask_units_and_may_have_no_bias_of_keys`); Swin's merging left where it was
(`test_simmim_and_convmae_names`); heads by the decoder's rule (`test_mae_both_ways`); the class token
counted as a patch (`test_sizes_of_published_models`); Swin's merging left where it was, its masks not
dropped, weights never loaded (`test_from_a_file_to_a_step_of_training`).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.calls import call
from tests.train.foreign.imports import import_file, imported, same, save
from tests.train.foreign.names import (
    CONV_WIDTHS,
    CONVMAE,
    DECODER,
    DECODER_HEADS,
    DEPTH,
    ENCODER,
    HEADS,
    MFF,
    NARROW,
    PATCH,
    SHALLOW,
    SIMMIM,
    SIMMIM_COMPUTED,
    SIZE,
    SWIN,
    SWIN_COMPUTED,
    SWIN_PATCH,
    SWIN_STAGES,
    SWIN_WIDTH,
    SWIN_WINDOW,
    WIDTH,
    Row,
    weights,
)
from torch import Tensor

from turbomim.train.encoder.features import load_run
from turbomim.train.foreign.formats import FORMATS, MMSELFSUP, from_lsmae
from turbomim.train.foreign.settings import guess_heads, why_heads
from turbomim.train.foreign.sizes import sizes_of
from turbomim.train.models.mae import MAE
from turbomim.train.models.vit import sincos_positions
from turbomim.train.recipes.command_line import parse_config
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

pytestmark = pytest.mark.usefixtures("here")

FULL = ENCODER + DECODER

# settings of the formats that name a recipe, besides what the tensors tell
ONE_STEP = [
    "--step.compile=false", "--step.device=cpu", "--optim.global_batch=8", "--optim.epochs=0.24",
    "--optim.warmup_epochs=0", "--optim.min_lr=0", "--data.threads=1", "--data.readers=1",
]  # fmt: skip
VIT = [f"--model.width={WIDTH}", f"--model.depth={DEPTH}", f"--model.heads={HEADS}"]
FLAGS = {
    "mff": ["--model.fuse=0,1,2"],
    "simmim": [
        "--recipe=simmim-vit-b16-800e", f"--data.size={SIZE}", f"--model.patch={PATCH}", *VIT,
        "--model.mask_unit=2",
    ],
    "swin": [
        "--recipe=simmim-swin-b-100e", f"--data.size={SIZE}", f"--model.patch={SWIN_PATCH}",
        f"--model.width={SWIN_WIDTH}", "--model.heads=2", f"--model.window={SWIN_WINDOW}",
        f"--model.stages={SWIN_STAGES[0]},{SWIN_STAGES[1]}", "--model.mask_unit=2",
    ],
    "convmae": [
        "--recipe=convmae-b-1600e", f"--data.size={SIZE}", *VIT,
        f"--model.conv_widths={CONV_WIDTHS[0]},{CONV_WIDTHS[1]}", "--model.conv_depths=1,1",
        f"--model.decoder_width={NARROW}", f"--model.decoder_depth={SHALLOW}",
        f"--model.decoder_heads={DECODER_HEADS}",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "form", "rows", "computed"),
    [
        ("mff", "mff", FULL + MFF, ["data_preprocessor.mean", "data_preprocessor.std"]),
        ("simmim", "simmim", SIMMIM, SIMMIM_COMPUTED),
        ("swin", "simmim", SWIN, SWIN_COMPUTED),
        ("convmae", "convmae", CONVMAE, []),
    ],
)
def test_from_a_file_to_a_step_of_training(
    case: str,
    form: str,
    rows: list[Row],
    computed: list[str],
    trees: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every tensor in its place and no other, then one step by the printed command from these weights."""
    ours, theirs = weights(rows), weights(rows, theirs=True)
    file = save({"model": {**theirs, **{name: torch.ones(2) for name in computed}}})
    assert import_file(monkeypatch, file, form, *FLAGS[case], *ONE_STEP) == 0
    said = capsys.readouterr().out
    assert f"with {len(rows)} of {len(rows)} tensors" in said
    assert json.loads(Path("runs/r/import.json").read_text())["dropped"] == [
        name.removeprefix("encoder.") for name in computed
    ]
    same(imported(), ours)
    _, model, _ = load_run(Path("runs/r"))
    same(dict(model.state_dict()), ours)
    words = said.split("go on: turbomim ")[1].replace("SHARDS", str(trees)).split()
    assert call(monkeypatch, *words) == 0
    assert json.loads(Path("runs/r/status.json").read_text())["status"] == "done"
    trained = load_file("runs/r/ckpt/step-00000001/model.safetensors")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    changed = {name for name, tensor in ours.items() if not torch.equal(tensor, trained[name])}
    assert changed == ours.keys() - frozen
    # a step from these weights, and from no others
    apart = max(float((trained[name] - tensor).abs().max()) for name, tensor in ours.items())
    assert 0 < apart < 0.02
    assert "the encoder is in runs/r/export" in Path("runs/r/train.log").read_text()


def test_mae_both_ways(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = weights(FULL)
    assert import_file(monkeypatch, save({"model": theirs, "epoch": 799}), "mae") == 0
    said = capsys.readouterr().out
    assert f"with {len(FULL)} of {len(FULL)} tensors" in said
    assert "unexpected 0, of another shape 0, missing 0" in said and "no decoder" not in said
    same(imported(), theirs)
    config = load_run(Path("runs/r"))[0]
    model = config.model
    assert (model.patch, model.width, model.depth, model.heads) == (PATCH, WIDTH, DEPTH, HEADS)
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == (NARROW, SHALLOW, DECODER_HEADS)
    # the printed command has the settings of the run
    words = said.split("go on: turbomim pretrain ")[1].split()
    data = dataclasses.replace(config.data, path="SHARDS")
    assert parse_config(words) == (dataclasses.replace(config, data=data), False)
    assert call(monkeypatch, "export", "runs/r", "--to", "mae") == 0
    same(torch.load("runs/r/export-mae/mae.pth", weights_only=True)["model"], theirs)


def test_mmselfsup_both_ways(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours = weights(FULL, theirs=True), weights(FULL)
    others = {
        "target_generator.low_pass_filter": torch.ones(3, SIZE, SIZE),
        "data_preprocessor.mean": torch.ones(3, 1, 1),
        "data_preprocessor.std": torch.ones(3, 1, 1),
    }
    file = save({"meta": {"epoch": 300}, "state_dict": {**theirs, **others}, "optimizer": {"state": {}}})
    # 40 cycles are beyond what so small an image has
    assert import_file(monkeypatch, file, "mmselfsup", "--model.radius=6") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in others)
    same(imported(), ours)
    assert json.loads(Path("runs/r/import.json").read_text())["dropped"] == list(others)
    config = load_run(Path("runs/r"))[0]
    assert config.model.target == "ideal" and not config.optim.decay_tokens
    assert call(monkeypatch, "export", "runs/r", "--to", "mmselfsup", "--out", "out") == 0
    same(torch.load("out/mmselfsup.pth", weights_only=True)["state_dict"], theirs)


def test_mff_names_both_ways() -> None:
    theirs, ours = weights(FULL + MFF, theirs=True), weights(FULL + MFF)
    same(FORMATS["mff"].ours(theirs), ours)
    same(MMSELFSUP.to_theirs(ours), theirs)


def test_lsmae_has_mask_units_and_may_have_no_bias_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = weights(FULL)
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.endswith("attn.qkv.bias"):
            query, key, value = tensor.chunk(3)
            key.zero_()
            stem = name.removesuffix("qkv.bias")
            theirs |= {f"{stem}q_bias": query.clone(), f"{stem}v_bias": value.clone()}
        else:
            theirs[name] = tensor
    same(from_lsmae(ours), ours)
    assert import_file(monkeypatch, save({"model": theirs}), "lsmae") == 0
    same(imported(), ours)
    assert load_run(Path("runs/r"))[0].model.mask_unit == 2


def test_simmim_and_convmae_names() -> None:
    """The encoder's prefix goes, tables that are computed may be left out, ConvMAE's names stay."""
    theirs = {"encoder.blocks.0.attn.q_bias": torch.ones(3), "decoder.0.weight": torch.ones(2)}
    assert set(FORMATS["simmim"].ours(theirs)) == {"blocks.0.attn.q_bias", "decoder.0.weight"}
    assert set(FORMATS["convmae"].ours({"patch_embed1.proj.weight": torch.ones(1)})) == {
        "patch_embed1.proj.weight"
    }
    # timm's Swin merges patches at the beginning of a stage
    merging = {f"encoder.layers.{n}.downsample.norm.weight": torch.full((1,), n) for n in (0, 1, 2)}
    moved = FORMATS["simmim"].ours({**merging, "encoder.layers.0.blocks.1.norm1.bias": torch.ones(1)})
    assert set(moved) == {
        "layers.0.blocks.1.norm1.bias",
        *(f"layers.{n}.downsample.norm.weight" for n in (1, 2, 3)),
    }
    assert all(moved[f"layers.{n + 1}.downsample.norm.weight"] == n for n in (0, 1, 2))
    assert sizes_of(moved) == {"model": {}, "data": {}}
    table = torch.ones((2 * 14 - 1) ** 2 + 3, 12)
    shapes = {
        "cls_token": torch.ones(1, 1, 768),
        "patch_embed.proj.weight": torch.ones(768, 3, 16, 16),
        "rel_pos_bias.relative_position_bias_table": table,
        "blocks.0.norm1.weight": torch.ones(768),
        "blocks.1.norm1.weight": torch.ones(768),
    }
    assert sizes_of(shapes) == {
        "model": {"patch": 16, "width": 768, "depth": 2, "heads": 12},
        "data": {"size": 224},
    }
    convs = {
        f"patch_embed{n}.proj.weight": torch.ones(8, 3, side, side) for n, side in ((1, 4), (2, 2), (3, 2))
    }
    blocks = {f"blocks{n}.{m}.norm1.weight": torch.ones(8) for n, m in ((1, 0), (3, 0), (3, 1))}
    found = sizes_of({**convs, **blocks, "pos_embed": torch.ones(1, 196, 768)})
    assert found == {
        "model": {"patch": 16, "width": 768, "depth": 2, "conv_widths": "8,8"},
        "data": {"size": 224},
    }


def test_stored_position_embeddings_are_kept_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmselfsup's halves are swapped against ours: timm's ViT with the stored ones gives our features."""
    theirs = weights(FULL, theirs=True)
    halves = sincos_positions(WIDTH, SIZE // PATCH).chunk(2, dim=2)
    theirs["backbone.pos_embed"] = torch.cat(halves[::-1], dim=2)
    assert import_file(monkeypatch, save({"state_dict": theirs}), "mmselfsup") == 0
    assert torch.equal(imported()["pos_embed"], theirs["backbone.pos_embed"])
    _, model, _ = load_run(Path("runs/r"))
    arguments: dict[str, Any] = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
    }
    encoder: Any = timm.create_model("vit_base_patch16_224", num_classes=0, **arguments)
    encoder.load_state_dict({ours: theirs[other] for ours, other, _ in ENCODER})
    images = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    pixels = (images / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    with torch.no_grad():
        expected = encoder.eval().forward_features(pixels.permute(0, 3, 1, 2))
        torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-5)
        model.pos_embed.copy_(torch.cat(halves, dim=2))
        assert (model.features(images) - expected).abs().max() > 1e-2


def test_sizes_of_published_models() -> None:
    """ViT-B, L and H of MAE, by shapes alone, with their numbers of heads."""
    for width, depth, patch, heads in ((768, 12, 16, 12), (1024, 24, 16, 16), (1280, 32, 14, 16)):
        with torch.device("meta"):
            shapes = {
                "cls_token": torch.ones(1, 1, width),
                "pos_embed": torch.ones(1, 1 + (224 // patch) ** 2, width),
                "patch_embed.proj.weight": torch.ones(width, 3, patch, patch),
                "decoder_embed.weight": torch.ones(512, width),
                **{f"blocks.{n}.norm1.weight": torch.ones(width) for n in range(depth)},
                **{f"decoder_blocks.{n}.norm1.weight": torch.ones(512) for n in range(8)},
            }
        found = sizes_of(shapes)
        assert found["data"] == {"size": 224}
        assert found["model"] == {
            "patch": patch, "width": width, "depth": depth, "decoder_width": 512, "decoder_depth": 8,
        }  # fmt: skip
        assert guess_heads(found) == {"heads": heads, "decoder_heads": 16}
        assert (
            why_heads(found, "heads")
            == why_heads(found, "decoder_heads")
            == "as published models of that width have"
        )
    other = {"model": {"width": 256, "decoder_width": 256}, "data": {}}
    assert guess_heads(other) == {"heads": 4, "decoder_heads": 8}
    assert (why_heads(other, "heads"), why_heads(other, "decoder_heads")) == ("width // 64", "width // 32")


def test_names_of_the_model_are_those_written_out() -> None:
    config = Config(
        data=dataclasses.replace(Config().data, size=SIZE),
        model=dataclasses.replace(
            Config().model, patch=PATCH, width=WIDTH, depth=DEPTH, heads=3, decoder_width=NARROW,
            decoder_depth=SHALLOW, decoder_heads=3,
        ),
    )  # fmt: skip
    assert {n: tuple(t.shape) for n, t in MAE(config).state_dict().items()} == {n: s for n, _, s in FULL}
