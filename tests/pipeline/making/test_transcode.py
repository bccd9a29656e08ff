"""Stores made of decoded pixels, and the full check: what passes decodes in the loader."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from tests.pipeline.making.test_pack import bad_entries, contents, members, save_image

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.decode import decode_or_say
from turbomim.pipeline.decoding.ppm import ppm_pixels
from turbomim.pipeline.making.image_file import EncodedImage, RefusedImage
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.transcode import one_thread, resize_for, store_pixels
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.store import Interpolation, Kind, Store, Subsampling

RAW = Store(kind="raw", short_side=32, resampling="bicubic")
RESIZED = Store(kind="resized", short_side=32, resampling="bicubic", quality=95, subsampling="4:4:4")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def encoded(pixels: Any, form: str = "JPEG", **options: Any) -> EncodedImage:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return EncodedImage(content=out.getvalue(), extension=form.lower().replace("e", ""))


def jpeg(image: Image.Image) -> JpegImageFile:
    assert isinstance(image, JpegImageFile)
    return image


@pytest.mark.parametrize("resampling", FILTERS)
@pytest.mark.parametrize(("height", "width"), [(333, 500), (500, 333), (64, 64), (20, 31), (32, 47)])
def test_the_resize_is_pillow_s(height: int, width: int, resampling: Interpolation) -> None:
    pixels = texture(height, height, width)
    ours = resize_for(pixels, Store(kind="raw", short_side=32, resampling=resampling))
    sides = width * 32 // min(height, width), height * 32 // min(height, width)
    theirs = np.asarray(Image.fromarray(pixels).resize(sides, FILTERS[resampling]))
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2 and (difference > 1).mean() < 1e-3


@pytest.mark.parametrize("resampling", FILTERS)
def test_a_raw_split_holds_the_resized_pixels(
    photo_folder: Path, tmp_path: Path, resampling: Interpolation
) -> None:
    settings = ShardSettings(store="raw", short_side=32, resampling=resampling)
    report = make_shards(photo_folder, tmp_path / "out", settings)
    store = Store.of(report.manifest.made)
    assert store == Store(kind="raw", short_side=32, resampling=resampling)
    assert report.manifest.made["encoders"].keys() == {"simplejpeg", "pillow", "torch"}
    stored = members(tmp_path / "out")
    for path in photo_folder.rglob("*.*"):
        content = stored[f"{path.parent.name}_{path.stem}.ppm"]
        pixels = ppm_pixels(np.frombuffer(content, np.uint8))
        with Image.open(path) as image:
            height, width = (side * 32 // min(image.size) for side in (image.height, image.width))
            theirs = np.asarray(image.convert("RGB").resize((width, height), FILTERS[resampling]), np.int16)
        assert pixels.shape == (height, width, 3)
        # DALI's PNG and WebP are Pillow's; its JPEG is but for the inverse cosine transform's rounding
        assert np.abs(pixels - theirs).max() <= 3
    assert len(open_split(tmp_path / "out").index) == 33


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", (1, 1)), ("4:2:0", (2, 2))])
def test_a_resized_split_holds_jpegs_as_asked(
    subsampling: Subsampling, factors: tuple[int, int], photo_folder: Path, tmp_path: Path
) -> None:
    settings = ShardSettings(
        store="resized", short_side=40, quality=80, subsampling=subsampling, shard_size=9
    )
    for workers in (1, 2):
        make_shards(photo_folder, tmp_path / f"{workers}", settings, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    reference = io.BytesIO()
    Image.fromarray(texture(0, 40, 40)).save(reference, "JPEG", quality=80)
    with Image.open(reference) as image:
        expected_tables = jpeg(image).quantization
    for name, content in members(tmp_path / "1").items():
        if not name.endswith(".cls"):
            with Image.open(io.BytesIO(content)) as image:
                assert (image.format, min(image.size), name[-4:]) == ("JPEG", 40, ".jpg")
                assert jpeg(image).quantization == expected_tables
                assert jpeg(image).layer[0][1:3] == factors
    made = open_split(tmp_path / "1").manifest.made
    store = Store(kind="resized", short_side=40, resampling="bicubic", quality=80, subsampling=subsampling)
    assert Store.of(made) == store and {"pillow", "libjpeg_turbo"} < made["encoders"].keys()


def test_a_resized_jpeg_looks_like_its_pixels() -> None:
    pixels = texture(1, 60, 90)
    stored = store_pixels(pixels, RESIZED)
    with Image.open(io.BytesIO(stored.content)) as image:
        difference = np.asarray(image).astype(int) - resize_for(pixels, RESIZED)
    assert image.size == (48, 32) and np.abs(difference).mean() < 3


def test_a_panorama_is_refused_after_the_resize() -> None:
    panorama = np.zeros((32, 32 * 300, 3), np.uint8)
    with pytest.raises(RefusedImage, match=r"67200 x 224 pixels after the resize, over the limit of 65500"):
        store_pixels(panorama, Store(kind="raw", short_side=224, resampling="bicubic"))


def damaged(content: bytes, how: str) -> bytes:
    """Damage that a header does not show."""
    middle = len(content) // 2
    if how == "cut":
        return content[:middle]
    if how == "last bytes":
        return content[:-2]
    noise = np.random.default_rng(10).integers(0, 256, 40, np.uint8).tobytes()
    return content[:middle] + noise + content[middle + 40 :]


DAMAGE = [(form, how) for form in ("JPEG", "PNG", "WEBP") for how in ("cut", "last bytes", "noise")]


def test_the_full_check_finds_what_the_header_does_not_show(tmp_path: Path) -> None:
    for form, how in DAMAGE:
        extension = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[form]
        content = damaged(encoded(texture(3, 64, 80), form).content, how)
        path = tmp_path / "src" / f"{form}_{how.replace(' ', '_')}.{extension}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for number in range(3):
        save_image(tmp_path / "src" / f"good_{number}.jpg", seed=number)
    plain = make_shards(tmp_path / "src", tmp_path / "plain")
    strict = make_shards(tmp_path / "src", tmp_path / "strict", ShardSettings(check="full"))
    assert (plain.manifest.made["check"], strict.manifest.made["check"]) == ("header", "full")
    refused = bad_entries(tmp_path / "strict")
    assert all(reason.startswith(("does not decode: ", "cut: ")) for reason in refused.values())
    # noise may also be as good a JPEG scan as any
    jpegs = {"JPEG_cut.jpg", "JPEG_last_bytes.jpg", "JPEG_noise.jpg"}
    assert jpegs | {"PNG_cut.png", "PNG_noise.png"} < refused.keys()
    assert plain.manifest.samples > strict.manifest.samples
    # the promise: what passed decodes, and is otherwise untouched
    passed = {name: content for name, content in members(tmp_path / "strict").items() if name[-4:] != ".cls"}
    outcomes = [decode_or_say(np.frombuffer(content, np.uint8)) for content in passed.values()]
    assert not any(isinstance(outcome, str) for outcome in outcomes)
    originals = {path.read_bytes() for path in (tmp_path / "src").iterdir()}
    assert set(passed.values()) <= originals and len(passed) >= 3


def test_an_image_that_does_not_decode_goes_into_no_store(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "good.jpg")
    (tmp_path / "src" / "cut.jpg").write_bytes(damaged(encoded(texture(3, 64, 80)).content, "cut"))
    kinds: tuple[Kind, ...] = ("raw", "resized")
    for kind in kinds:
        report = make_shards(tmp_path / "src", tmp_path / kind, ShardSettings(store=kind, short_side=32))
        assert [image.path for image in report.bad] == ["cut.jpg"]
        assert report.bad[0].reason.startswith("does not decode: ")
        assert report.manifest.samples == 1


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "small.png", side=33)
    make_shards(tmp_path / "src", tmp_path / "out", ShardSettings(store="raw", short_side=64))
    assert ppm_pixels(np.frombuffer(members(tmp_path / "out")["small.ppm"], np.uint8)).shape == (64, 64, 3)


def test_torch_has_its_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)
