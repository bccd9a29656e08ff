"""Files for detectron2 and mmseg against lists of names written out here from those programs' sources.

detectron2: modeling/backbone/vit.py (ViT, Block, Attention, SimpleFeaturePyramid.net) and utils.py beside
it (PatchEmbed.proj).  mmseg: models/backbones/mae.py, beit.py, vit.py (TransformerEncoderLayer: ln1, ln2;
FFN of mmcv), models/utils/embed.py (PatchEmbed.projection), tools/model_converters/beit2mmseg.py.

Planted, each seen to fail the test named: the class token left in, the prefix `backbone.` alone
(`test_detectron2_finds_every_tensor_without_heuristics`); corners aligned, antialiasing, a wrapper, a
prefix, `norm2` left as it is, norms exchanged (`test_mmseg_finds_every_tensor_at_its_size`); the class
token's row of a patch (`test_vit_b_of_the_published_sizes`); any size taken
(`test_sizes_that_patches_do_not_divide`); prefixes, or names too many, not looked at
(`test_names_that_would_be_passed_over`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.exported import make_run
from timm.layers.pos_embed import resample_abs_pos_embed

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.resize import resample_positions
from turbomim.train.export import dense
from turbomim.train.export.check import same_names
from turbomim.train.export.dense import detectron2_shapes, mmseg_shapes
from turbomim.train.export.programs import export
from turbomim.train.foreign.formats import MMSELFSUP
from turbomim.train.foreign.names import Names
from turbomim.train.settings.config import Config

# (here, detectron2's, mmseg's) of what is not in a block
AROUND = [
    ("pos_embed", "backbone.net.pos_embed", "pos_embed"),
    ("patch_embed.proj.weight", "backbone.net.patch_embed.proj.weight", "patch_embed.projection.weight"),
    ("patch_embed.proj.bias", "backbone.net.patch_embed.proj.bias", "patch_embed.projection.bias"),
]
# the same of a block, without `blocks.N.`, `backbone.net.blocks.N.` and `layers.N.`
BLOCK = [
    ("norm1.weight", "norm1.weight", "ln1.weight"),
    ("norm1.bias", "norm1.bias", "ln1.bias"),
    ("attn.qkv.weight", "attn.qkv.weight", "attn.qkv.weight"),
    ("attn.qkv.bias", "attn.qkv.bias", "attn.qkv.bias"),
    ("attn.proj.weight", "attn.proj.weight", "attn.proj.weight"),
    ("attn.proj.bias", "attn.proj.bias", "attn.proj.bias"),
    ("norm2.weight", "norm2.weight", "ln2.weight"),
    ("norm2.bias", "norm2.bias", "ln2.bias"),
    ("mlp.fc1.weight", "mlp.fc1.weight", "ffn.layers.0.0.weight"),
    ("mlp.fc1.bias", "mlp.fc1.bias", "ffn.layers.0.0.bias"),
    ("mlp.fc2.weight", "mlp.fc2.weight", "ffn.layers.1.weight"),
    ("mlp.fc2.bias", "mlp.fc2.bias", "ffn.layers.1.bias"),
]
TO_DETECTRON2 = {ours: theirs for ours, theirs, _ in AROUND} | {
    f"blocks.{n}.{ours}": f"backbone.net.blocks.{n}.{theirs}" for n in range(3) for ours, theirs, _ in BLOCK
}
TO_MMSEG = {ours: theirs for ours, _, theirs in AROUND} | {
    f"blocks.{n}.{ours}": f"layers.{n}.{theirs}" for n in range(3) for ours, _, theirs in BLOCK
}


pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("name", ["mae", "mff", "lsmae"])
def test_detectron2_finds_every_tensor_without_heuristics(name: str) -> None:
    trained = make_run(name)
    model = trained.model
    (exported,) = export(trained, "detectron2", Path("out"))
    tree = torch.load("out/detectron2.pth", weights_only=True)
    assert list(tree) == ["model"]
    ours = model.state_dict()
    assert set(tree["model"]) == set(TO_DETECTRON2.values())
    for here_name, theirs in TO_DETECTRON2.items():
        assert torch.equal(tree["model"][theirs], ours[here_name]), theirs
    # with the class token's place, which ViTDet drops
    assert tree["model"]["backbone.net.pos_embed"].shape == (1, 37, 48)
    assert "model.backbone.net.pretrain_img_size = 48" in exported.load
    assert f"{len(TO_DETECTRON2)} names and shapes" in exported.checked


@pytest.mark.parametrize(("size", "grid"), [(0, 6), (48, 6), (64, 8), (40, 5)])
def test_mmseg_finds_every_tensor_at_its_size(size: int, grid: int) -> None:
    trained = make_run("mae")
    model = trained.model
    (exported,) = export(trained, "mmseg", Path("out"), size=size)
    # no wrapper but state_dict is looked into, and no prefix is taken off
    found = torch.load("out/mmseg.pth", weights_only=True)
    ours = model.state_dict()
    assert set(found) == {*TO_MMSEG.values(), "cls_token"}
    for here_name, theirs in TO_MMSEG.items():
        if theirs != "pos_embed":
            assert torch.equal(found[theirs], ours[here_name]), theirs
    assert torch.equal(found["cls_token"], ours["cls_token"])
    assert torch.equal(found["pos_embed"][:, 0], ours["pos_embed"][:, 0])
    expected = resample_abs_pos_embed(ours["pos_embed"], [grid, grid], [6, 6], antialias=False)
    torch.testing.assert_close(found["pos_embed"], expected, rtol=1e-6, atol=1e-6)
    assert f"img_size=({size or 48}, {size or 48})" in exported.load


def test_vit_b_of_the_published_sizes() -> None:
    assert detectron2_shapes(Config())["backbone.net.pos_embed"] == (1, 197, 768)
    assert mmseg_shapes(Config(), 512)["pos_embed"] == (1, 1025, 768)
    assert len(detectron2_shapes(Config())) == 3 + 12 * 12 and len(mmseg_shapes(Config(), 224)) == 4 + 12 * 12
    positions = torch.randn(1, 197, 8)
    at_512 = resample_positions(positions, 32)
    assert at_512.shape == (1, 1025, 8) and torch.equal(at_512[:, 0], positions[:, 0])
    # a constant map stays one
    torch.testing.assert_close(resample_positions(torch.ones(1, 197, 8), 32), torch.ones(1, 1025, 8))


@pytest.mark.parametrize("size", [500, 4])
def test_sizes_that_patches_do_not_divide(size: int) -> None:
    trained = make_run("mae")
    with pytest.raises(UsageError, match=f"--size {size}: must be a multiple of the patch, 8 pixels"):
        export(trained, "mmseg", Path("out"), size=size)
    with pytest.raises(UsageError, match="--size 512 is for --to mmseg alone"):
        export(trained, "detectron2", Path("out"), size=512)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"backbone.a": (1,), "backbone.b.c": (2,)},
            "begin with 'backbone', .* looks for 'backbone.net', and would",
        ),
        ({"a": (1,), "b.c": (2,)}, "begin with '', its program looks for 'backbone.net'"),
        ({"backbone.net.a": (1,)}, "missing: backbone.net.b.c: nothing was exported"),
        ({"backbone.net.a": (1,), "backbone.net.b.c": (2,), "x": (1,)}, "unexpected: x: "),
        (
            {"backbone.net.a": (7,), "backbone.net.b.c": (2,)},
            r"of another shape: backbone.net.a \(7,\) for \(1,\)",
        ),
    ],
)
def test_names_that_would_be_passed_over(found: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        same_names(found, {"backbone.net.a": (1,), "backbone.net.b.c": (2,)}, "FILE")


def test_a_wrong_map_is_refused_before_anything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run("mae")
    monkeypatch.setattr(dense, "DETECTRON2", "backbone.bottom_up.")
    with pytest.raises(
        UserError, match=r"begin with 'backbone.bottom_up', its program looks for 'backbone.net'"
    ):
        export(trained, "detectron2", Path("out"))
    assert not Path("out").exists()
    monkeypatch.setattr(dense, "MMSELFSUP", Names(begin=(("", "x."),)))
    with pytest.raises(UserError, match="would load nothing"):
        export(trained, "mmseg", Path("out"))
    without_norm2 = Names(
        begin=MMSELFSUP.begin, inside=tuple(pair for pair in MMSELFSUP.inside if pair[0] != ".norm2.")
    )
    monkeypatch.setattr(dense, "MMSELFSUP", without_norm2)
    with pytest.raises(
        UserError, match=r"missing: layers.N.ln2.bias \(3\), .*unexpected: layers.N.norm2.bias"
    ):
        export(trained, "mmseg", Path("out"))
