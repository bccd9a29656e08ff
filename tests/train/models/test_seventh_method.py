"""A method that turbomim does not have is a class and a line: it trains, is logged, drawn, priced and scored.

Planted, each seen to fail it: an MAE made whatever the method; its numbers left out of the log; MAE's decoder
names used for every export; every method's parameters counted as MAE's.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests import ROOT
from tests.runs import config_for, quiet, records
from torch import Tensor, nn

from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.source import load_source
from turbomim.train.evaluate.scores import evaluate_model
from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.folder import checkpoint
from turbomim.train.machine.predicted_memory import count_parameters
from turbomim.train.models.initial import Draw, convolution_draws, linear_draws, normal
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import METHODS, make_model
from turbomim.train.models.vit import block_flops
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config


class Place(MAE):
    """Every masked patch from the mean visible token and its own place: a decoder without attention."""

    decoder_names = ("place", "head")

    def make_decoder(self, config: Config) -> None:
        self.place = nn.Parameter(torch.zeros(config.patches, config.model.width))
        self.head = nn.Linear(config.model.width, 3 * config.model.patch**2)

    def initial_weights(self) -> dict[str, Draw]:
        embed = convolution_draws("patch_embed.proj", self.patch_embed.proj)
        return {**linear_draws(self), **embed, "place": normal(0.02)}

    def forward_decoder(self, latent_BTD: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
        pred_BMP: Tensor = self.head(latent_BTD.mean(1, keepdim=True) + self.place[ids_mask_BM])
        return pred_BMP

    def blocks_to_split(self) -> list[nn.Module]:
        return list(self.blocks)

    def logged(self) -> dict[str, Tensor]:
        return {"place_size": self.place.detach().norm()}

    @classmethod
    def flops_per_image(cls, config: Config) -> float:
        return 3 * config.model.depth * block_flops(config.keep + 1, config.model.width)


def test_a_class_and_a_line_are_a_method(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "place", Place)
    sections: dict[str, dict[str, Any]] = {
        "data": {"heldout": str(tiny_split.folder)},
        "model": {"method": "place"},
        # 33 samples, 8 a step
        "optim": {"epochs": 0.48, "warmup_epochs": 0, "base_lr": 0.3},
        "run": {"picture_every": 2},
    }
    config = config_for(tiny_split.folder, tmp_path, **sections)
    start = make_model(config)
    result = pretrain(config, console=quiet())
    assert (result.status, result.step) == ("done", 2)
    first, last = records(result.folder)
    assert 0 < last["loss"] != first["loss"] > 0 and last["heldout_loss"] > 0
    assert first["model/place_size"] != last["model/place_size"]
    assert (result.folder / "images" / "reconstruction-00000002.png").stat().st_size > 1000

    found, _ = checkpoint.newest(result.folder / "ckpt")
    assert found is not None
    trained = load_file(found / checkpoint.FILES[0])
    moved = {name for name, value in start.state_dict().items() if not torch.equal(value, trained[name])}
    assert moved == {name for name, parameter in start.named_parameters() if parameter.requires_grad}
    exported = set(load_file(result.folder / "export" / "model.safetensors"))
    assert exported == {name for name in trained if not name.startswith(("place", "head"))}
    count = count_parameters(config)
    assert count.trained == sum(p.numel() for p in start.parameters() if p.requires_grad)
    assert "memory of a rank's step, predicted" in (result.folder / "train.log").read_text()

    source = load_source(result.folder, {})
    on = Scoring(train=str(tiny_split.folder), test=str(tiny_split.folder), device="cpu")
    scores = evaluate_model(source.model, source.config, ["knn"], on)["scores"]
    assert {"trained: class token", "trained: mean of patch tokens", "raw pixels"} <= scores.keys()
    trained_knn, random_knn = (scores[f"{name}: class token"] for name in ("trained", "random weights"))
    assert 0 < trained_knn["weighted"] <= 1 and trained_knn.keys() == random_knn.keys()


def test_the_page_on_adding_a_method_has_these_lines() -> None:
    page = (ROOT / "docs/adding-a-method.md").read_text()
    assert inspect.getsource(Place) in page
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    assert issubclass(found["Place"], MAE), "its imports are those that it needs"


@pytest.mark.parametrize("method", [*METHODS.values()], ids=[*METHODS])
def test_a_method_is_a_short_file_that_takes_no_others_internals(method: type[MAE]) -> None:
    text = Path(inspect.getfile(method)).read_text()
    assert len(text.splitlines()) <= 200
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert not [alias.name for node in imports for alias in node.names if alias.name.startswith("_")]


def test_the_page_of_methods_counts_their_lines() -> None:
    counted = re.findall(
        r"^\| .* \| (\[\w+\.py\].*?) \| ([\d, ]+) \|", (ROOT / "docs/methods.md").read_text(), re.M
    )
    assert len(counted) == 4
    for files, lines in counted:
        names = re.findall(r"\(\.\./(.*?)\)", files)
        assert [len((ROOT / name).read_text().splitlines()) for name in names] == [
            int(number) for number in lines.split(",")
        ]
