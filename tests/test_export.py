"""What is exported: timm loads the encoder by the printed call, and its features are ours; others' files are
theirs.

Planted bugs and the test that fails on each: the decoder left in timm's file, or one fixed name for the card
(`test_the_command`); timm asked whatever the method
(`test_an_encoder_that_timm_has_not_is_written_all_the_same`); another wrapper, or views saved with all of
their storage (`test_full_files_hold_tensors_alone_and_no_more_than_those`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from foreign_names import DECODER, ENCODER, weights
from safetensors.torch import load_file, save_file
from test_cli import call

from turbomim.pipeline.errors import UserError
from turbomim.train.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig, ModelConfig
from turbomim.train.export import check, check_method, create_call, export_encoder, write_full
from turbomim.train.models.mae import MAE

CONFIG = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        patch=8, width=48, depth=3, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=2
    ),
)


def test_timm_gives_our_features(tmp_path: Path) -> None:
    model = MAE(CONFIG)
    with torch.no_grad():
        # a trained encoder has biases; without them a swapped norm would go unnoticed
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = export_encoder(model, CONFIG, tmp_path)
    encoder = eval(create_call(CONFIG, path), {"timm": timm}).eval()
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    every = torch.arange(36).expand(2, -1).contiguous()
    with torch.no_grad():
        visible, _ = model.patchify(images, every, every)
        ours = model.forward_encoder(visible, every)
        pixels = (images / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        theirs = encoder.forward_features(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_file_holds_the_encoder_only_and_says_how_to_load_it(tmp_path: Path) -> None:
    path = export_encoder(MAE(CONFIG), CONFIG, tmp_path)
    names = set(load_file(path))
    assert not any(name.startswith(("decoder", "mask_token")) for name in names)
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.2.mlp.fc2.bias",
        "norm.weight",
    } <= names
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["load"] == create_call(CONFIG, path)
    assert card["mean"] == list(IMAGENET_MEAN)


@pytest.mark.parametrize("name", ["vit_base_patch16_224"])
def test_recipe_sizes_have_timms_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
        from test_mae import meta_mae

        ours = meta_mae(Config())
    shapes = {n: t.shape for n, t in ours.state_dict().items() if not n.startswith(("decoder", "mask_token"))}
    assert shapes == {n: t.shape for n, t in encoder.state_dict().items()}


def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = export_encoder(MAE(CONFIG), CONFIG, tmp_path)
    weights = load_file(path)
    del weights["norm.weight"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"does not take it: .*norm.weight") as error:
        check(path, CONFIG)
    assert "\n" not in str(error.value)


def of_method(method: str) -> Config:
    return Config(model=ModelConfig(method=method))


def test_an_encoder_that_timm_has_not_is_written_all_the_same(tmp_path: Path) -> None:
    """With its own names; timm is not asked, so that such a run can end."""
    model = MAE(CONFIG)
    model.blocks = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 5)])
    with pytest.raises(UserError, match="does not take it"):
        export_encoder(model, CONFIG, tmp_path)
    path = export_encoder(model, of_method("convmae"), tmp_path)
    assert load_file(path)["blocks.0.weight"].shape == (4, 3, 5, 5)
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["load"] is None and card["timm"] is None and card["method"] == "convmae"


@pytest.mark.parametrize(("to", "method"), [("timm", "convmae"), ("mae", "mff"), ("mmselfsup", "simmim")])
def test_a_program_without_the_method_is_refused(to: str, method: str) -> None:
    with pytest.raises(UserError, match=f"a run of method {method} has no --to {to}") as error:
        check_method(of_method(method), to)
    assert ("but --to timm and --to mmselfsup;" in str(error.value)) == (method == "mff")
    check_method(of_method("mff"), "mmselfsup")


@pytest.mark.parametrize(("to", "key"), [("mae", "model"), ("mmselfsup", "state_dict")])
def test_full_files_hold_tensors_alone_and_no_more_than_those(tmp_path: Path, to: str, key: str) -> None:
    """Whoever loads them needs nothing but torch, and a slice of a large tensor takes no large file."""
    model = MAE(CONFIG)
    model.cls_token = torch.nn.Parameter(torch.zeros(1, 1, 48 * 10**5)[..., :48])
    path = tmp_path / "x.pth"
    assert write_full(model, to, path) == len(model.state_dict())
    tree = torch.load(path, weights_only=True)
    assert list(tree) == [key] and {t.dtype for t in tree[key].values()} == {torch.float32}
    assert path.stat().st_size < 4 * 1.2 * sum(t.numel() for t in tree[key].values()) + 50_000
    assert [path] == list(tmp_path.iterdir())


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": weights(ENCODER + DECODER)}, "file.pth")
    assert call(monkeypatch, "import", "file.pth", "--from", "mae", "--run.name", "r") == 0
    capsys.readouterr()
    assert call(monkeypatch, "export", "runs/r", "--to", "timm", "--out", "new/small.safetensors") == 0
    said = capsys.readouterr().out
    encoder = eval(said.split("; ", 1)[1], {"timm": timm})
    expected = weights(ENCODER + DECODER)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())
    assert sorted(p.name for p in Path("new").iterdir()) == ["small.json", "small.safetensors"]
    for to, key in (("mae", "model"), ("mmselfsup", "state_dict")):
        assert call(monkeypatch, "export", "runs/r", "--to", to) == 0
        said = capsys.readouterr().out
        count = len(ENCODER + DECODER)
        assert said == f"runs/r/export/{to}.pth: step 0; {count} tensors, torch.load(FILE)[{key!r}]\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["export", "/nowhere", "--to", "timm"], 1, "/nowhere is not a run"),
        (["export", "/nowhere", "--to", "mae", "--out", "a.safetensors"], 2, "ends in .pth or .pt"),
        (["export", "/nowhere", "--to", "timm", "--out", "a.pth"], 2, "ends in .safetensors"),
        (["export", "/nowhere", "--to", "tim"], 2, "invalid choice 'tim'"),
        (["export", "/nowhere"], 2, "--to"),
        (["import", "/nowhere", "--from", "mae", "--run.name", "r"], 1, "/nowhere is not a file"),
        (["import", "/nowhere", "--from", "beit", "--run.name", "r"], 2, "invalid choice 'beit'"),
        (["import", "--help"], 0, "--from"),
        (["export", "--help"], 0, "--out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_words_of_import_and_export(
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words) == code
    out, err = capsys.readouterr()
    assert message in out + err
    assert err.count("\n") == (code != 0) and "Traceback" not in err
