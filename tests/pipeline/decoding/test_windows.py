"""Windows cut on the host: reflection, flips, batches that stay valid, threads, and what goes wrong."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.pipeline.decoding.crop_reference import encode

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.crop import PAD, Crop
from turbomim.pipeline.decoding.crop_draws import window_starts
from turbomim.pipeline.decoding.decode import BadImages
from turbomim.pipeline.decoding.windows import HostWindows, cut_window
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.store import Kind

SIZE = 24
Pixels = NDArray[np.uint8]


def by_padding(pixels: Pixels, start: NDArray[np.int64], flip: bool, size: int = SIZE) -> Pixels:
    y, x = start + PAD
    padded = np.pad(pixels, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
    window = padded[y : y + size, x : x + size]
    return window[:, ::-1] if flip else window


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, 31), (31, SIZE), (SIZE, SIZE + 1)])
def test_every_window_is_that_of_the_padded_image(shape: tuple[int, int], flip: bool) -> None:
    pixels = texture(0, *shape)
    for y in range(-PAD, shape[0] - SIZE + PAD + 1):
        for x in range(-PAD, shape[1] - SIZE + PAD + 1):
            window = torch.full((SIZE, SIZE, 3), 99, dtype=torch.uint8)
            cut_window(pixels, np.array([y, x]), flip, window)
            assert np.array_equal(window.numpy(), by_padding(pixels, np.array([y, x]), flip)), (y, x)


@pytest.mark.parametrize("size", [9, 104, 105, 224, 11_000])
def test_flips_of_any_size(size: int) -> None:
    """The least size, one and many blocks of rows, and rows longer than a block."""
    pixels = texture(1, min(size, 300), min(size, 300))
    pixels = np.tile(pixels, (-(-size // 300), -(-size // 300), 1))[:size, :size] if size > 300 else pixels
    window = torch.empty((size, size, 3), dtype=torch.uint8)
    cut_window(pixels, np.array([0, 0]), True, window)
    assert np.array_equal(window.numpy(), pixels[:, ::-1])


def inputs_of(random: np.random.Generator, batch: int) -> dict[str, NDArray[Any]]:
    flips = random.integers(0, 2, batch).astype(np.int32)
    return {"words": random.integers(0, 2**32, (batch, 2)), "flips": flips}


def images_of(random: np.random.Generator, batch: int, size: int = SIZE) -> list[Pixels]:
    sides = [(size, int(size + random.integers(0, 30))) for _ in range(batch)]
    return [texture(i, *(shape if i % 2 else shape[::-1])) for i, shape in enumerate(sides)]


def expected(images: list[Pixels], inputs: dict[str, NDArray[Any]], size: int = SIZE) -> Pixels:
    sides = np.array([image.shape[:2] for image in images])
    starts = window_starts(inputs["words"], sides, size)
    flips = inputs["flips"].astype(bool)
    return np.stack([by_padding(*each, size) for each in zip(images, starts, flips, strict=True)])


@pytest.mark.parametrize("store", ["raw", "resized"])
@pytest.mark.parametrize("threads", [1, 3, 8])
def test_batches_come_in_order_and_stay_valid(store: Kind, threads: int) -> None:
    """Held ones keep their pixels while later ones are cut; also on more threads than samples."""
    batch, prefetch, taken = 5, 2, 12
    random = np.random.default_rng(2)
    windows = HostWindows(Crop(size=SIZE), store=store, device="cpu", threads=threads)
    due: list[Pixels] = []

    def feed() -> None:
        images, inputs = images_of(random, batch), inputs_of(random, batch)
        due.append(expected(images, inputs))
        fed = [encode(Image.fromarray(image), "PNG") for image in images] if store == "resized" else images
        windows.feed(fed, inputs)

    for _ in range(prefetch):
        feed()
    held: dict[int, torch.Tensor] = {}
    for number in range(taken):
        out = windows.take()
        assert out.is_contiguous()
        assert np.array_equal(out.numpy(), due[number])
        # of some only a part is held, of others nothing: their memory is used again
        held |= {number: out[1:3]} if number % 3 == 0 else {number: out} if number % 3 == 1 else {}
        del out
        feed()
    windows.close()
    for number, part in held.items():
        assert np.array_equal(part.numpy(), due[number][1:3] if number % 3 == 0 else due[number])


def test_memory_is_used_again_only_when_nothing_views_it() -> None:
    random = np.random.default_rng(3)
    windows = HostWindows(Crop(size=SIZE), store="raw", device="cpu", threads=1)
    images, inputs = images_of(random, 2), inputs_of(random, 2)

    def take() -> torch.Tensor:
        windows.feed(images, inputs)
        batch: torch.Tensor = windows.take()
        return batch

    first = take()
    place, row = first.data_ptr(), first[1, 3]
    del first
    assert take().data_ptr() != place
    del row
    assert place in {held.data_ptr() for held in [take(), take()]}
    windows.close()


def test_a_batch_that_does_not_decode_raises_when_it_is_taken() -> None:
    random = np.random.default_rng(4)
    images = [encode(Image.fromarray(image), "JPEG") for image in images_of(random, 3)]
    cut = images[1].copy()
    cut[len(cut) // 2 :] = 255
    windows = HostWindows(Crop(size=SIZE), store="resized", device="cpu", threads=2)
    windows.feed(images, inputs_of(random, 3))
    windows.feed([images[0], cut, images[2]], inputs_of(random, 3))
    assert windows.take().shape == (3, SIZE, SIZE, 3)
    with pytest.raises(BadImages) as caught:
        windows.take()
    assert list(caught.value.reasons) == [1] and caught.value.behind == 0
    # made again, it comes before later ones
    windows.feed(images, inputs_of(random, 3))
    windows.feed(images[:2], inputs_of(random, 2), again=True)
    assert [len(windows.take()), len(windows.take())] == [2, 3]
    windows.close()


def test_originals_are_resized_as_by_pillow() -> None:
    """Larger and smaller than the crop, and panoramas, of which only the window is resized."""
    shapes = [(60, 40), (13, 17), (SIZE, SIZE), (30, 900), (900, 3), (1, 1)]
    images = [texture(i, *shape) for i, shape in enumerate(shapes)]
    inputs = inputs_of(np.random.default_rng(8), len(images))
    windows = HostWindows(Crop(size=SIZE), store="original", device="cpu", threads=2)
    windows.feed([encode(Image.fromarray(image), "PNG") for image in images], inputs)
    found = windows.take().numpy().astype(int)
    windows.close()
    whole = []
    for image in images:
        height, width = (side * SIZE // min(image.shape[:2]) for side in image.shape[:2])
        whole.append(np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)))
    assert np.abs(found - expected(whole, inputs)).max() <= 1


@pytest.mark.parametrize("store", ["raw", "resized"])
@pytest.mark.parametrize("side", [SIZE - 1, SIZE + 1])
def test_a_short_side_that_is_not_the_crops(side: int, store: Kind) -> None:
    """The manifest promised it; a window of it would be one of another scale, without a word."""
    images = [texture(0, SIZE, 40), texture(1, 40, side)]
    fed = [encode(Image.fromarray(image), "PNG") for image in images] if store == "resized" else images
    windows = HostWindows(Crop(size=SIZE), store=store, device="cpu", threads=1)
    with pytest.raises(UserError, match=rf"has {side} x 40 pixels, its short side is not the {SIZE}"):
        windows.feed(fed, inputs_of(np.random.default_rng(5), 2))
        windows.take()
    windows.close()


def test_an_error_in_a_thread_that_cuts_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("turbomim.pipeline.decoding.windows.cut_window", fail)
    random = np.random.default_rng(6)
    windows = HostWindows(Crop(size=SIZE), store="raw", device="cpu", threads=2)
    windows.feed(images_of(random, 2), inputs_of(random, 2))
    with pytest.raises(ZeroDivisionError):
        windows.take()
    windows.close()


def test_threads_that_cut_start_no_others() -> None:
    """Torch would give each of them as many as there are cores, for a whole window of this size.

    One more keeps the batches in order.
    """
    size, batch, threads = 224, 16, 2
    random = np.random.default_rng(7)
    inputs = inputs_of(random, batch) | {"flips": np.ones(batch, np.int32)}
    windows = HostWindows(Crop(size=size), store="raw", device="cpu", threads=threads)
    images = images_of(random, batch, size)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(4):
        windows.feed(images, inputs)
        assert np.array_equal(windows.take().numpy(), expected(images, inputs, size))
    # and the one that waits for the decoder
    assert len(os.listdir("/proc/self/task")) <= before + threads + 1
    windows.close()
