"""Errors of the machine end a run in one line, and no photograph is replaced or left out for them.

Planted, each seen to fail the test named: no look at the error before the images are tried
(`test_the_machine_s_error_ends_the_loader`); no look at what trying them says
(`test_an_error_while_images_are_tried`); a GPU that decodes nothing believed
(`test_a_gpu_that_decodes_nothing`); the whole message searched, whose paths may name CUDA, nvImageCodec's
internal errors taken for the machine's (`test_an_image_s_own_errors`); memory that ran out taken for an
image's fault (`test_a_decoder_blames_no_image`, `test_the_decoder_s_own_words_for_memory`); a loader's lack
of memory left without numbers and flags (`test_a_run_names_memory_and_flags`); the same for a measurement
(`test_tune_step_takes_a_smaller_batch_then`); RandAugment blamed for it
(`test_rand_augment_is_not_blamed`).
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

import io
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from tests.pipeline.tars.test_store import jpeg
from tests.pipeline.test_bad_samples import damage
from tests.pipeline.test_loader import by_position, load
from tests.runs import config_for, finish, launch, quiet, records
from tests.train.finetune.test_rand_augment import Given, ahead_of, batch_at

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline import loader as loader_module
from turbomim.pipeline.decoding import dali, decode
from turbomim.pipeline.decoding.dali import GpuDecoding, decode_node
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.decoding.decode import BadImages
from turbomim.pipeline.decoding.failures import (
    DeviceFault,
    failure_reason,
    no_image_to_blame,
    of_machine,
    out_of_memory,
)
from turbomim.pipeline.decoding.windows import HostWindows
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands.tune import step_rate
from turbomim.train.finetune import augment_ahead
from turbomim.train.pretrain.pretrain import pretrain

# as DALI 2.4 words it; a path of the pipeline's definition may name anything
DALI = """Critical error in pipeline:
Error in MIXED operator `nvidia.dali.fn.decoders.image`,
which was used in the pipeline definition with the following traceback:

  File "/opt/cuda-out of memory/decode.py", line 48, in decode_node
    return image_decoder()(

encountered:

{}
Current pipeline object is no longer valid."""

MACHINE = {
    "address": "CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access",
    "driver": "Error in thread 3: CUDA driver API error CUDA_ERROR_UNKNOWN (999):\nunknown error",
    "codec": "nvImageCodec failure: '#21'",
    "nvimgcodec": "CUDA Runtime failure: '#700' at decoder.cpp:123",
}
MEMORY = {
    "device": "Can't allocate 129499136 bytes on device 0.",
    "pinned": "Can't allocate 4096 bytes on host.",
    "cuda": "CUDA allocation failed",
    "host": "std::bad_alloc",
    "codec memory": "nvImageCodec failure: '#5'",
}
TORCH = {
    "torch": "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be",
    "torch memory": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB",
}
IMAGE = [
    "Failed to decode sample #0 : ",
    "nvImageCodec failure: '#3'",
    "nvImageCodec failure: '#4'",
    "nvImageCodec failure: '#8'",
    "nvImageCodec failure: '#17'",
    "Invalid sample_type: -1",
]


ERRORS: dict[str, BaseException] = {
    **{name: RuntimeError(DALI.format(text)) for name, text in (MACHINE | MEMORY).items()},
    **{name: RuntimeError(text) for name, text in TORCH.items()},
    "python": MemoryError("Unable to allocate 9.00 GiB for an array"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_machine_s_error_ends_the_loader(
    name: str, tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: no image is tried."""

    def fail(*_: object) -> None:
        raise ERRORS[name]

    def tried(*_: object, **__: object) -> None:
        raise AssertionError("images were tried")

    monkeypatch.setattr(HostWindows, "take", fail)
    monkeypatch.setattr(loader_module, "find_undecodable", tried)
    with pytest.raises(UserError, match=r"^no batch could be made at position 12 on cpu: ") as caught:
        load(tiny_split, 1, start=12, notify=tried)
    said = str(caught.value)
    assert failure_reason(ERRORS[name]) in said and "no photograph is to blame" in said and "\n" not in said
    memory = name in MEMORY or "memory" in name or name == "python"
    assert out_of_memory(ERRORS[name]) == memory
    assert ("smaller micro-batch" if memory else "CUDA_LAUNCH_BLOCKING=1") in said
    assert out_of_memory(caught.value) == memory


@pytest.mark.parametrize("text", IMAGE)
def test_an_image_s_own_errors(text: str) -> None:
    """All that 10,000 damaged images gave; the traceback before it names CUDA and memory."""
    error = RuntimeError(DALI.format(text))
    assert not of_machine(error) and not out_of_memory(error)
    assert failure_reason(error) == text.strip(" :")


def test_a_loader_that_cannot_start(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ERRORS["device"]

    monkeypatch.setattr(loader_module, "HostWindows", fail)
    with pytest.raises(UserError, match=r"^the loader could not start on cpu: Can't allocate 129499136"):
        load(tiny_split, 1)


def failing_pipelines(monkeypatch: pytest.MonkeyPatch, text: str, fails: Any) -> list[int]:
    """Let pipelines that try images fail; `fails` gets their device and number.  Returns their sizes."""
    made: list[int] = []
    real = dali._empty_pipeline

    def pipeline(*, device: str, **settings: int) -> Any:
        found = real(device="cpu", **settings)
        made.append(settings["batch"])
        if fails(device, len(made)):

            def run() -> None:
                raise RuntimeError(DALI.format(text))

            setattr(found, "run", run)  # noqa: B010
        return found

    monkeypatch.setattr(dali, "_empty_pipeline", pipeline)
    # without a GPU there is no other
    monkeypatch.setattr(dali, "decode_node", lambda encoded, gpu: decode_node(encoded, gpu, "cpu"))
    return made


def decode_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader meet bad images as a GPU's graph does: a batch fails, and its images are tried."""
    take = HostWindows.take

    def fail(self: HostWindows) -> torch.Tensor:
        try:
            return take(self)
        except BadImages as error:
            raise RuntimeError(DALI.format(IMAGE[0])) from error

    monkeypatch.setattr(HostWindows, "take", fail)
    monkeypatch.setattr(loader_module, "find_undecodable", partial(dali.find_undecodable_on_gpu, threads=1))


def test_bad_images_of_a_gpu_are_replaced(own_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails is tried by halves, and all that is under way begins again."""
    for sample in (3, 4, 20):
        damage(own_split, sample, "cut")
    lines: list[str] = []
    found: list[str] = []
    expected = by_position(load(own_split, 12, notify=lines.append))
    decode_as_a_gpu(monkeypatch)
    failing_pipelines(monkeypatch, "", lambda *_: False)
    assert by_position(load(own_split, 12, notify=found.append)) == expected
    assert len(found) == len(lines) == 3


def test_an_error_while_images_are_tried(own_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a batch that failed for one of them are tried, and then the machine fails."""
    for sample in range(9):
        damage(own_split, sample, "cut")
    decode_as_a_gpu(monkeypatch)
    made = failing_pipelines(monkeypatch, MACHINE["address"], lambda _, number: number > 3)
    lines: list[str] = []
    with pytest.raises(UserError, match=r"position \d+ on cpu: .*cudaErrorIllegalAddress.*no photograph"):
        load(own_split, 6, notify=lines.append)
    assert len(made) == 4 and lines == []


def test_a_gpu_that_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says: what the CPU decodes is no bad photograph.  Of one image alone nothing is known."""
    images = [np.frombuffer(jpeg(texture(seed, 40, 50)), np.uint8) for seed in range(5)]
    broken = [image[: len(image) // 2] for image in images]
    find = partial(dali.find_undecodable_on_gpu, threads=1)
    failing_pipelines(monkeypatch, IMAGE[0], lambda device, _: device == "cuda")
    with pytest.raises(DeviceFault, match="the GPU decodes none of 5 images, the CPU 5 of them") as caught:
        find(images)
    assert of_machine(caught.value)
    with pytest.raises(DeviceFault, match="none of 3 images, the CPU 1 of them"):
        find([broken[0], images[1], broken[2]])
    # these are bad, on both
    assert list(find(broken)) == [0, 1, 2, 3, 4]
    assert list(find(images[:1])) == [0]
    monkeypatch.undo()
    failing_pipelines(monkeypatch, IMAGE[0], lambda *_: False)
    # a GPU that decodes some of them is right about the others
    assert list(find([broken[0], images[1], broken[2]])) == [0, 2]


def test_a_gpu_that_decodes_nothing_ends_the_loader(
    own_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say why, and some images of the batch are bad besides."""
    for sample in range(0, 33, 5):
        damage(own_split, sample, "cut")
    failing_pipelines(monkeypatch, IMAGE[0], lambda device, _: device == "cuda")
    decode_as_a_gpu(monkeypatch)
    lines: list[str] = []
    of_batch = "position 6 on cpu: the GPU decodes none of 6 images, the CPU 4 of them; no photograph"
    with pytest.raises(UserError, match=of_batch):
        load(own_split, 6, notify=lines.append)
    assert lines == []


def test_a_decoder_blames_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `shard make`, `verify`, `embed` and all of eval."""
    images = [np.frombuffer(jpeg(texture(seed, 40, 50)), np.uint8) for seed in range(3)]
    fails: BaseException = ERRORS["python"]
    decode_jpeg = simplejpeg.decode_jpeg

    def failing(image: NDArray[np.uint8], *words: Any, **settings: Any) -> Any:
        if image is images[1]:
            raise fails
        return decode_jpeg(image, *words, **settings)

    monkeypatch.setattr(decode, "_simplejpeg", lambda: failing)
    with pytest.raises(UserError, match=f"{len(images[1]):,} bytes could not be decoded: ") as caught:
        decode.find_undecodable(images)
    said = str(caught.value)
    assert "memory ran out: use fewer workers" in said and "\n" not in said and failure_reason(fails) in said
    # any other error is the image's
    fails = OSError("broken")
    assert decode.find_undecodable(images) == {1: "broken"}


def test_the_decoder_s_own_words_for_memory(tmp_path: Path) -> None:
    """In a process that may take little more than it has, an image of 108 MB is not called bad."""
    process = launch(decode_with_little, tmp_path / "said")
    assert finish(process) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith("UserError: an image of ") and "memory ran out" in said, said


def decode_with_little(out: Path) -> None:
    content = np.frombuffer(jpeg(np.zeros((6000, 6000, 3), np.uint8)), np.uint8)
    decode.decode(np.frombuffer(jpeg(texture(1, 40, 50)), np.uint8))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.RLIM_INFINITY))
    try:
        said = str(decode.decode(content))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    out.write_text(said)


@pytest.mark.parametrize("name", ["device", "address"])
def test_a_run_names_memory_and_flags(
    name: str, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = HostWindows.take

    def fail(self: HostWindows) -> torch.Tensor:
        if (tmp_path / "r" / "metrics.jsonl").exists() and len(records(tmp_path / "r")) == 3:
            raise ERRORS[name]
        return take(self)

    monkeypatch.setattr(HostWindows, "take", fail)
    with pytest.raises(UserError) as caught:
        pretrain(config_for(trees, tmp_path), console=quiet())
    said = str(caught.value)
    assert "\n" not in said and "position 24 on cpu: " in said
    if name == "device":
        assert said.startswith("rank 0 ran out of memory with a micro-batch of 8 images of 32 pixels; ")
        assert "Can't allocate 129499136 bytes on device 0." in said and "try --optim.micro_batch 4, " in said
    else:
        assert said.startswith("no batch could be made at ") and "CUDA_LAUNCH_BLOCKING=1" in said
    assert records(tmp_path / "r")[-1]["replaced_total"] == 0
    log = (tmp_path / "r" / "train.log").read_text()
    assert "cannot be decoded" not in log and "failed at step 3: " in log


def test_tune_step_takes_a_smaller_batch_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that ran out of memory is a measurement that did not fit."""

    def refuse(*_: object) -> None:
        with no_image_to_blame("no batch could be made", "less"):
            raise ERRORS["device"]

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"config": {}, "seconds": 1}'))
    monkeypatch.setattr(step_rate, "step_rate", refuse)
    with pytest.raises(SystemExit) as end:
        step_rate.main()
    assert end.value.code == step_rate.NO_MEMORY


def test_rand_augment_is_not_blamed(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(augment_ahead, "apply_changes", fail)
    with (
        ahead_of(Given(batch_at(0, [0, 1])), tiny_split, ahead=0) as ahead,
        pytest.raises(
            UserError, match=r"could not change an image: .*memory ran out: use a smaller"
        ) as caught,
    ):
        next(ahead)
    assert "--finetune.rand_augment" not in str(caught.value) and out_of_memory(caught.value)


def test_the_installed_decoder_says_so() -> None:
    """A damaged image's real error is the image's."""
    pipeline = dali._empty_pipeline(batch=1, device="cpu", threads=1, prefetch=1)
    with pipeline:
        encoded = import_dali().fn.external_source(name="images")
        pipeline.set_outputs(decode_node(encoded, GpuDecoding(), "cpu"))
    pipeline.build()
    image = np.frombuffer(jpeg(texture(1, 40, 50)), np.uint8)
    pipeline.feed_input("images", [image[: len(image) // 2]])
    with pytest.raises(RuntimeError) as caught:
        pipeline.run()
    assert not of_machine(caught.value)
