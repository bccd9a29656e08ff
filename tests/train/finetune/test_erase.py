"""Random erasing: timm's rectangles, noise that belongs to the sample, and nothing that waits for a GPU.

Planted, each seen to fail the test named: one generator that goes on for all images, height and width
swapped (`test_rectangles_are_timm_s_own`); the second radius' sine, no purpose
(`test_noise_is_box_and_muller_s_of_the_sample_s_words`); a share of 0 (`test_every_word_has_a_number`); one
number for three colours, a radius without its root (`test_noise_is_normal`); rows and columns swapped, the
first rectangle's width for all, an edge that belongs to the next one, no epoch
(`test_rectangles_are_filled_and_nothing_else`); the statistics copied from the host, a copy that is not
pinned, a loop over images, a number read back (`test_a_micro_batch_makes_nobody_wait`).
"""

# timm and torch type little of what is used here
# mypy: allow-untyped-calls

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from turbomim.kernels.philox import PURPOSE_ERASE
from turbomim.pipeline.stream.philox import draw_u32
from turbomim.train.finetune import erase as erase_module
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import Augmented
from turbomim.train.finetune.erase import draw_rectangles, erase, noise
from turbomim.train.settings.finetune import FinetuneSettings

aten = torch.ops.aten


def words(count: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (40, 56)])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_rectangles_are_timm_s_own(share: float, height: int, width: int) -> None:
    """Of timm's own erasing of each image, its generator seeded before each."""
    words_B = words(2000)
    eraser = RandomErasing(share, mode="const", device="cpu")
    expected = []
    for place, word in enumerate(words_B.tolist()):
        random.seed(word)
        image = torch.ones(3, height, width)
        eraser(image)
        rows, columns = (image[0] == 0).any(1).nonzero(), (image[0] == 0).any(0).nonzero()
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            expected.append((place, top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left))
    found_5R = draw_rectangles(share, height, width, words_B)
    assert found_5R.T.tolist() == [list(each) for each in expected]
    # as published: a share of the images, 2 % to a third of their area, sides 0.3 to 3.3 times each other
    assert abs(len(expected) / 2000 - share) < 0.03
    areas_R = found_5R[3] * found_5R[4] / (height * width)
    assert 0.015 < areas_R.min() < 0.03 and 0.31 < areas_R.max() < 0.35
    assert abs(areas_R.mean() - (0.02 + 1 / 3) / 2) < 0.02


def test_none_is_erased() -> None:
    images = torch.zeros(4, 3, 32, 32)
    rectangles_5R = draw_rectangles(1e-9, 32, 32, words(4))
    assert rectangles_5R.shape == (5, 0)
    erase(images, rectangles_5R, 1, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    assert not images.any()


def test_noise_is_box_and_muller_s_of_the_sample_s_words() -> None:
    """In double precision, from the host's words."""
    seed, pixels = 2**40 + 3, 500
    epochs, ids = torch.tensor([0, 7, 7]), torch.tensor([5, 2**33 + 1, 2**47])
    host = draw_u32(seed, epochs.numpy(), ids.numpy(), PURPOSE_ERASE, 4 * pixels).astype(np.float64)
    host = (host.reshape(3, pixels, 4) + 1) / 2**32
    expected = np.stack(
        [
            np.sqrt(-2 * np.log(host[..., 0])) * np.cos(2 * math.pi * host[..., 1]),
            np.sqrt(-2 * np.log(host[..., 2])) * np.cos(2 * math.pi * host[..., 3]),
            np.sqrt(-2 * np.log(host[..., 0])) * np.sin(2 * math.pi * host[..., 1]),
        ],
        axis=-1,
    )
    for sample in range(3):
        some = torch.randperm(pixels)[:100]
        found = noise(seed, epochs[sample].expand(100), ids[sample].expand(100), some)
        torch.testing.assert_close(
            found, torch.from_numpy(expected[sample][some.numpy()]).float(), atol=2e-5, rtol=0
        )


def test_noise_is_normal() -> None:
    """Mean, deviation and shares of 300,000 numbers, and no two pixels or colours that follow each other."""
    count = 100_000
    same = torch.zeros(count, dtype=torch.int64)
    found = noise(9, same + 3, same + 11, torch.arange(count))
    assert found.shape == (count, 3) and found.dtype == torch.float32
    # four standard errors
    assert found.mean(0).abs().max() < 4 / math.sqrt(count)
    assert (found.std(0) - 1).abs().max() < 4 / math.sqrt(2 * count)
    for bound in (-2.5, -1.0, -0.3, 0.0, 0.6, 1.7):
        share = 0.5 * (1 + math.erf(bound / math.sqrt(2)))
        error = 4 * math.sqrt(share * (1 - share) / count)
        assert ((found < bound).float().mean(0) - share).abs().max() < error
    near = torch.cat([found, found.roll(1, 0), found.square() - 1], dim=1)
    related = torch.corrcoef(near.T) - torch.eye(9)
    assert related.abs().max() < 4.5 / math.sqrt(count)
    assert found.isfinite().all()


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_every_word_has_a_number(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of 0 has no logarithm."""
    monkeypatch.setattr(erase_module, "philox_words_ref", lambda *_: torch.full((5, 4), word))
    numbers = torch.zeros(5, dtype=torch.int64)
    assert noise(1, numbers, numbers, numbers).isfinite().all()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images that are no noise, of other sides; their epochs and ids."""
    images = torch.full((6, 3, 20, 36), 9.0)
    return images, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([4, 5, 4, 5, 4, 4])


def test_rectangles_are_filled_and_nothing_else(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each pixel with the noise of its place in its own image, whatever rectangle covers it."""
    images, epochs, ids = batch
    rectangles = [(0, 1, 2, 5, 7), (2, 0, 30, 19, 6), (3, 17, 0, 3, 35), (5, 4, 4, 1, 1)]
    erase(images, np.array(rectangles).T, 3, epochs, ids)
    expected = torch.full_like(images, 9.0)
    for place, top, left, height, width in rectangles:
        for y in range(top, top + height):
            for x in range(left, left + width):
                pixel = torch.tensor([36 * y + x])
                one = noise(3, epochs[place : place + 1], ids[place : place + 1], pixel)
                expected[place, :, y, x] = one[0]
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


class Watch(TorchDispatchMode):
    """Notes the ops of a GPU that is played, and refuses what would make the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Tensor] = []
        self.ops = 0
        self._pinned: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is aten._pin_memory.default:
            self._pinned.add(id(args[0]))
            return args[0]
        out = func(*args, **(kwargs or {}))
        given, made = (
            {leaf.device.type for leaf in tree_leaves(some) if isinstance(leaf, Tensor)}
            for some in ((args, kwargs), out)
        )
        self.ops += "cuda" in made
        if func in (aten._to_copy.default, aten.copy_.default) and given | made == {"cpu", "cuda"}:
            assert func is aten._to_copy.default and made == {"cuda"}, "the host waits for the GPU"
            pinned = id(args[0]) in self._pinned and (kwargs or {}).get("non_blocking")
            assert pinned, "the host waits for a copy"
            self.copies.append(args[0])
        return out


@contextmanager
def played_gpu() -> Iterator[Watch]:
    """Tensors without values: what depends on a value, as `item` does, raises of itself."""
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch


SETTINGS: list[dict[str, float]] = [
    {"mixup": 0.8, "cutmix": 0.0},
    {"mixup": 0.0, "cutmix": 1.0},
    {"mixup": 0.8, "cutmix": 1.0},
    {"mixup": 0.0, "cutmix": 0.0},
    {"erase": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_micro_batch_makes_nobody_wait(settings: dict[str, float]) -> None:
    """One pinned copy of the rectangles, and as many kernels for many images as for few."""
    configured = FinetuneSettings(classes=10, **({"erase": 0.5} | settings))  # type: ignore[arg-type]
    counts = []
    for size in (8, 64):
        words_B = words(size)
        with played_gpu() as watch:
            numbers = torch.zeros(3, size, dtype=torch.int64, device="cuda")
            labels, ids, epochs = numbers.unbind()
            images = torch.zeros(size, 32, 32, 3, dtype=torch.uint8, device="cuda")
            watch.ops = 0
            batch = Augmented(
                images_BHWC=images,
                labels_B=labels,
                ids_B=ids,
                epochs_B=epochs,
                position=5,
                words_B=words_B,
            )
            images_BCHW, targets_BK = augmented_batch(batch, configured, 7)
        assert images_BCHW.shape == (size, 3, 32, 32) and targets_BK.shape == (size, 10)
        assert images_BCHW.is_cuda and targets_BK.is_cuda
        assert [len(copy) for copy in watch.copies] == [5] * bool(configured.erase)
        counts.append(watch.ops)
    assert counts[0] == counts[1] < 400


@pytest.mark.parametrize("how", ["tensor", "pageable", "blocking", "item", "read"])
def test_the_watch_sees_what_would_wait(how: str) -> None:
    """The test of the test."""
    with pytest.raises((AssertionError, RuntimeError)), played_gpu():
        there = torch.zeros(3, device="cuda")
        here = torch.zeros(3)
        if how == "tensor":
            torch.tensor([1.0, 2.0], device="cuda")
        elif how == "pageable":
            here.to("cuda", non_blocking=True)
        elif how == "blocking":
            here.pin_memory().to("cuda")
        elif how == "item":
            there.sum().item()
        else:
            there.cpu()
