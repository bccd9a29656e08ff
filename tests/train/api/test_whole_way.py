"""The library from photographs to an export, in the order that its users go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.runs import quiet

import turbomim

# of a model of a few thousand weights
SMALL: dict[str, Any] = {
    "model.width": 32, "model.depth": 2, "model.heads": 2,
    "model.decoder_width": 16, "model.decoder_depth": 1, "model.decoder_heads": 2,
    "optim.global_batch": 11, "optim.warmup_epochs": 0, "step.compile": False, "run.log_every": 1,
}  # fmt: skip


@pytest.mark.usefixtures("here")
def test_the_whole_way(photo_folder: Path) -> None:
    made = turbomim.shard(photo_folder, "shards/train")
    assert (made.manifest.samples, made.bad) == (33, ())

    with turbomim.Loader("shards/train", size=224, batch=16) as loader:
        batch = next(iter(loader))
        assert batch.images_BHWC.shape == (16, 224, 224, 3) and batch.images_BHWC.dtype == torch.uint8
        assert {*batch.labels_B.tolist()} <= {0, 1, 2} and len(loader) == 3
        state = loader.state_dict()
    assert state["position"] == 16

    visible, target = turbomim.masked_patches(
        batch.images_BHWC,
        *turbomim.random_masking(batch.epochs_B, batch.ids_B, patches=14 * 14, ratio=0.75),
        patch=16,
        target="gaussian",
        radius=40,
    )
    assert visible.shape == (16, 49, 768) and target.shape == (16, 147, 768)

    run = turbomim.pretrain(
        "pixmim-vit-b16-300e",
        data="shards/train",
        name="mine",
        console=quiet(),
        **{"optim.epochs": 1} | SMALL,
    )
    assert [record["step"] for record in run.metrics] == [1, 2, 3]
    assert run.report().path == Path("runs/mine/report.html") and run.show(images=2).width > 5 * 224

    model = turbomim.load("runs/mine")
    by_model = turbomim.embed(model, photo_folder)
    by_run = turbomim.embed(run, photo_folder)
    assert by_model.keys == by_run.keys and len(by_model.keys) == 33
    np.testing.assert_allclose(by_model.features_ND, by_run.features_ND, atol=1e-5)

    scores = turbomim.evaluate(run, "knn", train="shards/train", test="shards/train")["scores"]
    assert {"trained: mean of patch tokens", "raw pixels"} <= scores.keys()

    assert turbomim.export(run, "hf")
    from transformers import AutoModel

    assert AutoModel.from_pretrained("runs/mine/export-hf").config.hidden_size == 32
