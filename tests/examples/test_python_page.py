"""docs/python.md: the code on the loader, masks and low-passed images runs as it stands there.

Planted: another keyword on the page, and two epochs there, which both fail.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import ROOT

import turbomim

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SECTIONS = ("The loader in your own loop", "Masks, targets and low-passed images")


@pytest.mark.usefixtures("here")
def test_the_code_on_the_loader_runs(trees: Path) -> None:
    Path("shards").mkdir()
    for name in ("train", "test"):
        Path("shards", name).symlink_to(trees)
    trained: list[int] = []
    space: dict[str, Any] = {
        "turbomim": turbomim,
        "torch": torch,
        "model": lambda images: tuple(images.shape),
        "train_step": lambda images, labels: trained.append(len(images)),
    }
    sections = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
    text = "".join(sections[name] for name in SECTIONS)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    for block in blocks:
        exec(block, space)
    assert trained == [33] * 3
    assert space["predictions"] == (33, 224, 224, 3)
    assert space["loader"].position == 4 * 33
    assert space["images_BCHW"].shape == (33, 3, 224, 224)
    assert space["visible"].shape == (8, 49, 768) and space["target"].shape == (8, 147, 768)
    assert space["pictures_BHWC"].dtype == torch.uint8
