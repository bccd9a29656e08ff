"""RandAugment beside the steps: timm's own pixels, whatever the threads, where it begins and what is ahead.

Planted, each seen to fail the test named: seeds set for a batch and not for an image, timm's posterize where
newer Pillows refuse (`test_pixels_are_timm_s_own`); batches handed
out before they are changed, words of the place in the batch
(`test_threads_and_what_is_ahead_change_nothing`);
nothing begun ahead, changes made in the loop's thread (`test_batches_are_changed_while_one_is_used`); an
exception that ends its thread's part alone (`test_what_fails_is_one_line`); the loader's error as soon as it
is met (`test_the_loader_s_error_waits_for_its_batch`); the loader's newest counts
(`test_what_is_counted_is_what_was_handed_out`); generators left as drawing leaves them
(`test_changes_belong_to_the_sample`); drawing left out of the wait
(`test_the_wait_for_what_is_drawn_is_counted`).
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tests.pipeline.loading import make_loader
from timm.data import auto_augment

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.stream.philox import AUGMENT, draw_u32
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import normalised
from turbomim.train.finetune import augment_ahead
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import AugmentAhead, Augmented
from turbomim.train.finetune.rand_augment import apply_changes, draw_changes, recording_rand_augment
from turbomim.train.settings.finetune import FinetuneSettings

POLICY = FinetuneSettings().rand_augment
SIZE, MICRO = 24, 6
CPU = torch.device("cpu")


class Given:
    """In place of a loader: these batches, then an error."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.stats, self.closed = iter(batches), LoaderStats(), False

    def __next__(self) -> Batch:
        if self.closed:
            raise RuntimeError("the loader is closed")
        batch = next(self.batches, None)
        if batch is None:
            raise UserError("too many images do not decode")
        self.stats = LoaderStats(samples=self.stats.samples + len(batch.ids_B), replaced=batch.position)
        return batch

    def close(self) -> None:
        """No more batches."""
        self.closed = True


def pictures(size: int, count: int = 8) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, size, size, 3), generator=g, dtype=torch.uint8)


def batch_at(position: int, ids: list[int], epoch: int = 0) -> Batch:
    numbers = torch.tensor(ids)
    return Batch(
        images_BHWC=torch.stack([pictures(SIZE)[i] for i in ids]),
        labels_B=numbers % 4,
        ids_B=numbers,
        epochs_B=torch.full_like(numbers, epoch),
        position=position,
    )


def ahead_of(loader: Any, split: Any, **settings: Any) -> AugmentAhead:
    given = {"policy": POLICY, "seed": 7, "device": CPU, "threads": 2, "ahead": 2, **settings}
    return AugmentAhead(loader, split, **given)


def stream(split: Split, batches: int, *, start: int = 0, **settings: Any) -> list[Augmented]:
    """Micro-batches of a rank of a loader, the seed 7."""
    of_loader: dict[str, Any] = {name: settings.pop(name) for name in ("rank", "world") if name in settings}
    of_loader["device"] = settings.get("device", CPU).type
    of_loader |= {"global_batch": 2 * MICRO, "micro_batch": MICRO, "start": start}
    loader = make_loader(split, size=SIZE, crop="rrc", seed=7, threads=1, readers=1, **of_loader)
    with ahead_of(loader, split, **settings) as ahead:
        return [next(ahead) for _ in range(batches)]


def same(one: list[Augmented], other: list[Augmented]) -> bool:
    return len(one) == len(other) and all(
        mine.position == theirs.position
        and torch.equal(mine.images_BHWC, theirs.images_BHWC)
        and torch.equal(mine.ids_B, theirs.ids_B)
        and (mine.words_B == theirs.words_B).all()
        for mine, theirs in zip(one, other, strict=True)
    )


def made_of(plain: Augmented, augmented: Augmented) -> bool:
    """By the parts: words of seed, epoch and id, and what each changes."""
    epochs_B, ids_B = plain.epochs_B.cpu().numpy(), plain.ids_B.cpu().numpy()
    words_B2 = draw_u32(7, epochs_B, ids_B, AUGMENT, 2)
    expected = plain.images_BHWC.cpu().numpy().copy()
    for pixels, changes in zip(expected, draw_changes(POLICY, SIZE, words_B2[:, 0]), strict=True):
        apply_changes(pixels, changes)
    same_pixels = (augmented.images_BHWC.cpu().numpy() == expected).all()
    return bool(same_pixels and (augmented.words_B == words_B2[:, 1]).all())


@pytest.mark.parametrize("policy", [POLICY, "rand-m10-mstd0-inc1", "rand-m9", "rand-m7-n3-p0.9-t3aw"])
def test_pixels_are_timm_s_own(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm called on one image after the other, its generators seeded before each."""
    own = ImageOps.posterize

    def posterize(image: Image.Image, bits: int) -> Image.Image:
        """As older Pillows: to no bits is black."""
        return own(image, bits) if bits else Image.new("RGB", image.size)

    monkeypatch.setattr(ImageOps, "posterize", posterize)
    words = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32)
    before = pictures(20, 1)[0].numpy()
    options = {
        "translate_const": 9,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,
    }
    theirs = auto_augment.rand_augment_transform(policy, options)
    wanted = []
    for word in words.tolist():
        random.seed(word)
        np.random.seed(word)
        wanted.append(np.asarray(theirs(Image.fromarray(before))))
    monkeypatch.undo()
    found = []
    # drawn before any image is changed, and generators of another state while they are
    all_changes = draw_changes(policy, 20, words)
    for changes in all_changes:
        random.seed(5)
        found.append(before.copy())
        apply_changes(found[-1], changes)
    assert (np.stack(found) == np.stack(wanted)).all()
    assert len({pixels.tobytes() for pixels in found}) > 50


@pytest.mark.parametrize("operations", ["", "-inc1", "-tweights", "-t3a", "-t3aw"])
def test_no_operation_draws_when_it_is_applied(operations: str) -> None:
    """timm's only one that does is in none of the lists that a policy names."""
    recording: Any = recording_rand_augment(f"rand-m9{operations}", 32)
    names = {operation.name for operation in recording.ops}
    assert len(names) >= 3 and "GaussianBlurRand" not in names


def test_threads_and_what_is_ahead_change_nothing(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where it begins, nor the ranks; the reference has one thread and nothing ahead."""
    reference = stream(tiny_split, 8, threads=1, ahead=0)
    for settings in ({"threads": 1, "ahead": 3}, {"threads": 2, "ahead": 1}, {"threads": 5, "ahead": 2}):
        assert same(stream(tiny_split, 8, **settings), reference)
    assert same(stream(tiny_split, 4, start=24), reference[4:])
    for rank in range(2):
        assert same(stream(tiny_split, 4, rank=rank, world=2), reference[rank::2])
    plain = stream(tiny_split, 8, policy="")
    assert not any(torch.equal(a.images_BHWC, b.images_BHWC) for a, b in zip(plain, reference, strict=True))
    assert [a.words_B.tolist() for a in plain] == [b.words_B.tolist() for b in reference]
    assert made_of(plain[5], reference[5])

    def slowly(*args: Any) -> None:
        time.sleep(0.02)
        apply_changes(*args)

    monkeypatch.setattr(augment_ahead, "apply_changes", slowly)
    assert same(stream(tiny_split, 2), reference[:2])


def test_batches_are_changed_while_one_is_used(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[str] = []

    def seen(*args: Any) -> None:
        by.append(threading.current_thread().name)
        apply_changes(*args)

    monkeypatch.setattr(augment_ahead, "apply_changes", seen)
    batches = [batch_at(6 * i, [0, 1, 2, 3, 4, 5]) for i in range(9)]
    with ahead_of(Given(*batches), tiny_split, ahead=2) as ahead:
        next(ahead)
        until = time.monotonic() + 60
        while len(by) < 3 * 6 and time.monotonic() < until:
            time.sleep(0.01)
        # the one in hand and two more, and not a fourth
        time.sleep(0.05)
        assert len(by) == 3 * 6
        assert all(name.startswith("turbomim-augment") for name in by)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("turbomim-augment")]


def test_what_fails_is_one_line(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the sample; the batches before it are handed out."""

    def failing(pixels: Any, changes: Any) -> None:
        if (pixels == pictures(SIZE)[4].numpy()).all():
            raise ValueError("bits must be\nbetween 1 and 8")

    monkeypatch.setattr(augment_ahead, "apply_changes", failing)
    batches = [batch_at(0, [0, 1]), batch_at(2, [2, 3]), batch_at(4, [5, 4]), batch_at(6, [6, 7])]
    with ahead_of(Given(*batches, batch_at(8, [0, 1])), tiny_split, ahead=2) as ahead:
        assert [next(ahead).position for _ in range(2)] == [0, 2]
        with pytest.raises(UserError) as failure:
            next(ahead)
        # none is passed over after it
        with pytest.raises(RuntimeError):
            next(ahead)
    said = str(failure.value)
    assert said.startswith(f"{tiny_split.folder}: {tiny_split.locate(4)}: RandAugment '{POLICY}' failed")
    assert "ValueError: bits must be between 1 and 8" in said and "\n" not in said


def test_the_loader_s_error_waits_for_its_batch(tiny_split: Split) -> None:
    """A run that ends before it needs none of it."""
    with ahead_of(Given(batch_at(0, [0, 1]), batch_at(2, [2, 3])), tiny_split, ahead=4) as ahead:
        assert [next(ahead).position for _ in range(2)] == [0, 2]
        with pytest.raises(UserError, match="too many images"):
            next(ahead)


def test_what_is_counted_is_what_was_handed_out(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment_ahead, "apply_changes", lambda *_: time.sleep(0.01))
    with ahead_of(Given(*(batch_at(i, [i, 7]) for i in range(6))), tiny_split, ahead=3) as ahead:
        for position in range(3):
            assert ahead.stats.samples == 2 * position
            next(ahead)
            assert ahead.stats.replaced == position
        assert ahead.stats.augment_wait_s > 0.005


def test_the_wait_for_what_is_drawn_is_counted(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's thread draws, so its steps wait for that too, however many threads there are."""

    def slowly(*args: Any) -> Any:
        time.sleep(0.02)
        return draw_changes(*args)

    monkeypatch.setattr(augment_ahead, "draw_changes", slowly)
    with ahead_of(Given(*(batch_at(i, [i, 7]) for i in range(4))), tiny_split, ahead=2) as ahead:
        next(ahead)
        assert ahead.stats.augment_wait_s > 0.06
    with ahead_of(Given(batch_at(0, [1])), tiny_split, policy="") as ahead:
        next(ahead)
        assert ahead.stats.augment_wait_s < 1


def test_a_sample_without_a_label_is_refused(tiny_split: Split) -> None:
    batch = dataclasses.replace(batch_at(6, [1, 2]), labels_B=torch.tensor([1, -1]))
    with (
        ahead_of(Given(batch), tiny_split) as ahead,
        pytest.raises(UserError, match=f"{tiny_split.locate(2)} has no label"),
    ):
        next(ahead)


@pytest.mark.parametrize("policy", ["rand-m9-zz1", "rand-mx-n2x"])
def test_a_policy_that_timm_does_not_know_is_one_line(policy: str) -> None:
    with pytest.raises(UserError, match=f"finetune.rand_augment = '{policy}': timm knows no such policy"):
        draw_changes(policy, 32, np.zeros(1, np.uint32))


def augmented(batch: Batch, settings: FinetuneSettings, seed: int) -> torch.Tensor:
    with ahead_of(Given(batch), None, policy=settings.rand_augment, seed=seed, ahead=0) as ahead:
        return augmented_batch(next(ahead), settings, seed)[0]


def generators() -> Iterator[float]:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    yield random.random()
    yield float(np.random.rand())
    yield float(torch.rand(1))


def test_changes_belong_to_the_sample() -> None:
    """RandAugment and erasing follow seed, epoch and id; mixing the position."""
    settings = FinetuneSettings(classes=4, mixup=0, cutmix=0, erase=0.7)
    one = augmented(batch_at(0, [0, 1, 2, 3, 4, 5, 6, 7]), settings, 7)
    drawn = list(generators())
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    other = augmented(batch_at(40, [5, 2]), settings, 7)
    assert torch.equal(other, one[[5, 2]])
    # nobody else's numbers change
    assert [random.random(), float(np.random.rand()), float(torch.rand(1))] == drawn
    for different in (
        augmented(batch_at(0, [5, 2], epoch=1), settings, 7),
        augmented(batch_at(0, [5, 2]), settings, 8),
    ):
        assert not torch.equal(different, other)
    plain = augmented(batch_at(0, [5, 2]), dataclasses.replace(settings, rand_augment="", erase=0.0), 7)
    torch.testing.assert_close(plain, normalised(batch_at(0, [5, 2]).images_BHWC))
    mixing = dataclasses.replace(settings, mixup=0.8, cutmix=1.0)
    at = [augmented(batch_at(p, [5, 2]), mixing, 7) for p in (0, 2, 0)]
    assert torch.equal(at[0], at[2]) and not torch.equal(at[0], at[1])
