"""Forms in which other programs keep the same weights: wrapped, averaged, alone, fine-tuned, transformers'.

Each is made of one model's weights, and must give back its tensors bit for bit and its features.  Planted
bugs and the test that fails on each: a prefix left out, or looked for at the beginning alone
(`test_a_wrapped_model_is_the_model`, `test_wrapped_layers_are_the_layers`); the averages taken first
(`test_the_trained_weights_are_taken_and_that_is_said`); keys and queries exchanged, version 5's names left
out (`test_transformers_files_are_taken`); a fresh norm in place of fc_norm
(`test_a_fine_tuned_mae_is_an_encoder`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.exported import images, make_run
from tests.train.foreign.imports import import_file, imported, same, save
from torch import Tensor

from turbomim.train.encoder.features import load_run, normalised
from turbomim.train.encoder.source import load_source
from turbomim.train.export.programs import export
from turbomim.train.foreign.formats import MMSELFSUP
from turbomim.train.models.classifier import Encoder
from turbomim.train.models.mae import MAE

pytestmark = pytest.mark.usefixtures("here")

Weights = dict[str, Tensor]
# heads of the model, which no tensor tells
HEADS = ["--model.heads=4", "--model.decoder_heads=2"]


@pytest.fixture
def model() -> MAE:
    """An MAE none of whose tensors is at its initial value."""
    return make_run("mae", "old").model.eval()


def encoder(model: MAE) -> Weights:
    return {name: t for name, t in model.state_dict().items() if not name.startswith(model.decoder_names)}


def check(model: MAE, *, whole: bool = True) -> None:
    """Run r has this model's tensors, all of them or the encoder's, and its features."""
    expected = dict(model.state_dict()) if whole else encoder(model)
    same({name: tensor for name, tensor in imported().items() if whole or name in expected}, expected)
    with torch.no_grad():
        assert torch.equal(load_run(Path("runs/r"))[1].eval().features(images()), model.features(images()))


def inside(part: str, weights: Weights) -> Weights:
    """A part in the names of blocks and of one layer in them, as wrapping modules one by one leaves it."""
    named = {re.sub(r"blocks\.(\d+)\.", rf"blocks.\1.{part}.", name): t for name, t in weights.items()}
    return {name.replace("mlp.fc1.", f"mlp.{part}.fc1.{part}."): t for name, t in named.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "_orig_mod.",
            "module.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.",
            "_fsdp_wrapped_module.",
        ),
        *("model._orig_mod.", "model.module._orig_mod.", "_fsdp_wrapped_module.module._fsdp_wrapped_module."),
        "_orig_mod.model._checkpoint_wrapped_module.",
    ],
)
def test_a_wrapped_model_is_the_model(prefix: str, model: MAE, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert import_file(monkeypatch, save({"state_dict": state}), "mae", *HEADS) == 0
    check(model)
    save({prefix + name: tensor for name, tensor in encoder(model).items()}, "encoder.pth")
    source = load_source(Path("encoder.pth"), {"model.heads": "4"})
    with torch.no_grad():
        assert torch.equal(source.model.eval().features(images()), model.features(images()))


@pytest.mark.parametrize("form", ["mae", "mmselfsup"])
@pytest.mark.parametrize(
    "part", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrapped_layers_are_the_layers(
    part: str, form: str, model: MAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = inside(part, dict(model.state_dict()))
    if form == "mmselfsup":
        theirs = MMSELFSUP.to_theirs(model.state_dict())
        state = {re.sub(r"layers\.(\d+)\.", rf"layers.\1.{part}.", name): t for name, t in theirs.items()}
    assert import_file(monkeypatch, save({"model": state}), form, *HEADS) == 0
    check(model)


def test_two_names_of_one_tensor_are_refused(
    model: MAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {**model.state_dict(), "module.norm.bias": torch.zeros(48)}
    assert import_file(monkeypatch, save({"model": state}), "mae") == 1
    said = capsys.readouterr().err
    assert "two tensors are 'norm.bias': 'module.norm.bias' is one of them" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "key", ["model_state_dict", "state_dict", "model", "module", "model_ema", "ema", "bare"]
)
def test_weights_are_found_under_every_name(
    key: str, model: MAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = dict(model.state_dict())
    # a wrapper without tensors is none
    beside = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "args": {"model": "vit"}, "epoch": 3}
    averaged = {**state, "n_averaged": torch.tensor(9)}
    tree = state if key == "bare" else {"model": {"type": "vit"}, **beside, key: averaged}
    assert import_file(monkeypatch, save(tree), "mae", *HEADS) == 0
    check(model)
    average = f"  taken are the tensors under {key}, an average over training: there are no others\n"
    assert (average in capsys.readouterr().out) == (key in ("model_ema", "ema"))


@pytest.mark.parametrize("average", ["model_ema", "ema", "state_dict_ema"])
@pytest.mark.parametrize("trained", ["model", "state_dict", "model_state_dict", "module"])
def test_the_trained_weights_are_taken_and_that_is_said(
    trained: str,
    average: str,
    model: MAE,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = dict(model.state_dict())
    tree = {average: {name: tensor * 0.5 for name, tensor in state.items()}, trained: state}
    assert import_file(monkeypatch, save(tree), "mae", *HEADS) == 0
    check(model)
    told = f"  taken are the tensors under {trained}; left out are those under {average}\n"
    assert told in capsys.readouterr().out
    assert f"under {trained}; left out" in load_source(Path("file.pth"), {"model.heads": "4"}).assumed


def test_a_backbone_alone_is_an_encoder(model: MAE, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {name.removeprefix("backbone."): t for name, t in MMSELFSUP.to_theirs(encoder(model)).items()}
    assert "layers.0.ln1.weight" in theirs and "ln1.weight" in theirs
    assert import_file(monkeypatch, save({"state_dict": theirs}), "mmselfsup", HEADS[0]) == 0
    check(model, whole=False)


def of_version_5(weights: Weights) -> Weights:
    """transformers 5's names in memory for those of version 4."""
    begin = {"vit.encoder.layer.": "vit.layers.", "encoder.layer.": "layers."}
    parts = {
        ".attention.attention.query.": ".attention.q_proj.",
        ".attention.attention.key.": ".attention.k_proj.",
        ".attention.attention.value.": ".attention.v_proj.",
        ".attention.output.dense.": ".attention.o_proj.",
        ".intermediate.dense.": ".mlp.fc1.", ".output.dense.": ".mlp.fc2.",
    }  # fmt: skip
    named = {}
    for name, tensor in weights.items():
        new = next((to + name[len(old) :] for old, to in begin.items() if name.startswith(old)), name)
        for old, to in parts.items():
            new = new.replace(old, to)
        named[new] = tensor
    return named


@pytest.mark.parametrize(
    "form", ["export", "5 in memory", "5 on disk", "installed in memory", "installed on disk"]
)
@pytest.mark.parametrize("kind", ["mae", "encoder"])
def test_transformers_files_are_taken(form: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By version 4's names, version 5's, and those of the version that is installed."""
    trained = make_run("mae", "old")
    model = trained.model.eval()
    export(trained, "hf", Path("out"))
    folder = "out/mae" if kind == "mae" else "out"
    file = f"{folder}/model.safetensors"
    weights = load_file(file)
    if form == "5 in memory":
        save_file(of_version_5(weights), file)
    elif form == "5 on disk":
        save_file(
            {n.replace("decoder_layers.", "decoder_encoder.layer."): t for n, t in weights.items()}, file
        )
    elif form != "export":
        loader: Any = transformers.ViTMAEForPreTraining if kind == "mae" else transformers.ViTModel
        theirs = loader.from_pretrained(folder)
        theirs.save_pretrained(folder)
        if form == "installed in memory":
            save_file({n: t.detach().clone().contiguous() for n, t in theirs.state_dict().items()}, file)
    # heads are those of config.json
    assert import_file(monkeypatch, file, "hf", "--model.decoder_heads=2") == 0
    with torch.no_grad():
        # in the export the class token has no position in the decoder, where nothing reads it
        model.decoder_pos_embed[:, 0] = 0
    check(model, whole=kind == "mae")
    dropped = json.loads(Path("runs/r/import.json").read_text())["dropped"]
    assert sorted(dropped) == (["pooler.dense.bias", "pooler.dense.weight"] if kind == "encoder" else [])


SIZES: dict[str, Any] = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4}


@pytest.mark.parametrize("form", ["mae", "mmselfsup"])
def test_a_fine_tuned_mae_is_an_encoder(
    form: str, model: MAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm's ViT that pools, as facebookresearch/mae fine-tunes it: fc_norm and head, no norm."""
    tuned: Any = timm.create_model("vit_base_patch16_224", **SIZES, num_classes=7, global_pool="avg").eval()
    state = {name: t for name, t in encoder(model).items() if not name.startswith("norm.")}
    norm = {"weight": torch.rand(48) + 0.5, "bias": torch.rand(48)}
    head = {"head.weight": torch.rand(7, 48), "head.bias": torch.rand(7)}
    state |= {f"fc_norm.{kind}": tensor for kind, tensor in norm.items()}
    tuned.load_state_dict({**state, **head})
    file = save({"model": {**state, **head}})
    if form == "mmselfsup":
        theirs = {
            n.replace("backbone.fc_norm.", "backbone.ln2."): t for n, t in MMSELFSUP.to_theirs(state).items()
        }
        file = save(
            {"state_dict": {**theirs, **{n.replace("head.", "head.fc."): t for n, t in head.items()}}}
        )
    assert import_file(monkeypatch, file, form, HEADS[0]) == 0
    said = capsys.readouterr().out
    assert "fc_norm, which normalised the mean of the patch tokens, stands for it" in said
    names = ("head.bias, head.weight", "head.fc.bias, head.fc.weight")[form == "mmselfsup"]
    assert f"  left out, as a run has no place for them: {names}\n" in said
    found = imported()
    assert all(torch.equal(found[f"norm.{kind}"], tensor) for kind, tensor in norm.items())
    assert all(torch.equal(found[name], t) for name, t in state.items() if not name.startswith("fc_norm."))
    sources: list[Encoder] = [load_run(Path("runs/r"))[1]]
    if form == "mae":
        source = load_source(Path(file), {"model.heads": "4"})
        assert "fc_norm, which normalised the mean" in source.assumed
        sources.append(source.model)
    with torch.no_grad():
        expected = tuned.fc_norm(tuned.forward_features(normalised(images())))
        for each in sources:
            torch.testing.assert_close(each.eval().features(images()), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_beside_fc_norm_is_kept(
    model: MAE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {f"fc_norm.{kind}": torch.rand(48) for kind in ("weight", "bias")}
    assert import_file(monkeypatch, save({"model": {**encoder(model), **more}}), "mae", HEADS[0]) == 0
    check(model, whole=False)
    said = capsys.readouterr().out
    assert "no place for them: fc_norm.bias, fc_norm.weight\n" in said and "stands for it" not in said
