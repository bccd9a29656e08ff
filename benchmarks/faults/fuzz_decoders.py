"""Which decoder survives damaged images: mutated JPEGs, PNGs and WebPs, in processes that may die.

    python -m turbomim.benchmarks.faults.fuzz_decoders [--images 100000] [--decoders …] [--formats …]

Every decoder gets the same images, in batches of 64, each batch in a process of its own.  A batch that ends
its process, or does not end within a minute, is tried again image by image.  Prints a markdown table and
adds a JSON line a decoder and format to --out.  What is decoded is compared with what Pillow makes of the
same bytes; a decoder that is not installed costs a line.
"""

# DALI does not type its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import to_8_bits
from turbomim.benchmarks.faults.mutations import mutate, seeds
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.decoding import decode as ours
from turbomim.pipeline.decoding.header import Format, check_header

Pixels = NDArray[np.uint8]
# the pixels of each image, or the reason why it has none
Results = list[Pixels | str]

BATCH: Final = 64
# seconds for a batch, which takes milliseconds
HANG_S: Final = 60.0
# mean difference in grey levels up to which two decoders agree
SAME: Final = 1.5
# of address space: what a mutated header may make a decoder ask for
MEMORY: Final = 16 * 2**30


@dataclass(kw_only=True)
class Row:
    """What became of a decoder's images.

    deaths: images, or batches of which no image alone does it, that ended the process, by signal; hangs:
    batches; largest_mb: memory that a batch took; other_pixels: decoded to what Pillow does not decode to;
    unsteady: decoded once more to other pixels, those of memory that nobody wrote; us: CPU µs an image, those
    included that do not decode.
    """

    decoder: str
    format: Format
    images: int = 0
    decoded: int = 0
    deaths: dict[str, int] = field(default_factory=dict)
    hangs: int = 0
    largest_mb: float = 0.0
    other_pixels: int = 0
    unsteady: int = 0
    us: float = 0.0
    # the first few images that ended the process, as (batch, place)
    killers: list[tuple[int, int]] = field(default_factory=list)


def images_of(number: int, form: Format) -> list[bytes]:
    """Give the images of a batch: a function of its number and the format alone."""
    random = np.random.default_rng([number, *form.encode()])
    return [mutate(random, _seeds(form), form) for _ in range(BATCH)]


@cache
def _seeds(form: Format) -> list[bytes]:
    return seeds(form)


def one_by_one(decode: Callable[[bytes], Pixels], contents: list[bytes]) -> Results:
    """Decode each image; whatever is raised is its reason."""
    results: Results = []
    for content in contents:
        try:
            results.append(decode(content))
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}"[:200])
    return results


def pillow(content: bytes) -> Pixels:
    """Decode by Pillow, which clips 16-bit grey: that is scaled here."""
    with Image.open(io.BytesIO(content)) as image:
        if not image.mode.startswith("I;16"):
            return np.asarray(image.convert("RGB"))
        return np.repeat(to_8_bits(np.asarray(image))[..., None], 3, -1)


def product(content: bytes) -> Pixels:
    """Decode as the loader does."""
    return ours.decode(np.frombuffer(content, np.uint8))


def simplejpeg(content: bytes) -> Pixels:
    """Decode by libjpeg-turbo, painting over damage."""
    from simplejpeg import decode_jpeg

    pixels: Pixels = decode_jpeg(content, "RGB", strict=False)
    return pixels


def torchvision(content: bytes) -> Pixels:
    """Decode by `torchvision.io.decode_image`."""
    from torchvision.io import ImageReadMode, decode_image

    image = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    pixels: Pixels = image.movedim(-3, -1).numpy()
    return pixels


def torchcodec(content: bytes) -> Pixels:
    """Decode by torchcodec's image decoders."""
    from torchcodec.decoders import decode_image  # type: ignore[import-not-found]

    image: torch.Tensor = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode="RGB")
    pixels: Pixels = image.movedim(-3, -1).numpy()
    return pixels


def dali(size: int, walked: bool, contents: list[bytes]) -> Results:
    """Decode by DALI's CPU graph, `size` at a time; walked: only what a walk over the container admits.

    Of a run that fails, each image is tried alone, in a graph of its own.
    """
    results: Results = [""] * len(contents)
    places = []
    for place, content in enumerate(contents):
        try:
            if walked:
                check_header(np.frombuffer(content, np.uint8))
            elif not content:
                raise ValueError("empty")
            places.append(place)
        except ValueError as error:
            results[place] = str(error)
    for start in range(0, len(places), size):
        some = places[start : start + size]
        for place, result in zip(some, _dali_run([contents[place] for place in some]), strict=True):
            results[place] = result
    return results


def _dali_run(contents: list[bytes]) -> Results:
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    from turbomim.pipeline.decoding.dali import GpuDecoding, decode_node

    pipeline = Pipeline(batch_size=len(contents), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="images", no_copy=True)
        pipeline.set_outputs(decode_node(encoded, GpuDecoding(), "cpu"))
    pipeline.build()
    pipeline.feed_input("images", [np.frombuffer(content, np.uint8) for content in contents])
    try:
        (images,) = pipeline.run()
        return [np.array(images[place]) for place in range(len(contents))]
    except RuntimeError as error:
        if len(contents) == 1:
            return [str(error).partition("encountered:")[2].strip()[:200] or str(error)[:200]]
        return [result for content in contents for result in _dali_run([content])]


DECODERS: Final[dict[str, Callable[[list[bytes]], Results]]] = {
    "ours": partial(one_by_one, product),
    "simplejpeg": partial(one_by_one, simplejpeg),
    "Pillow": partial(one_by_one, pillow),
    "torchvision": partial(one_by_one, torchvision),
    "torchcodec": partial(one_by_one, torchcodec),
    "DALI, 64 at a time": partial(dali, BATCH, False),
    "DALI, 8 at a time": partial(dali, 8, False),
    "DALI, walked, 64 at a time": partial(dali, BATCH, True),
}
# simplejpeg reads JPEGs alone
FORMATS: Final[tuple[Format, ...]] = ("jpg", "png", "webp")
JPEG_ONLY: Final = frozenset(("simplejpeg",))


def in_a_process(decoder: str, contents: list[bytes]) -> dict[str, Any] | str:
    """Decode in a forked process; what came of it, or how it ended: the name of a signal, or "hang"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 1
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            with open(write, "wb") as out:
                out.write(pickle.dumps(_measured(decoder, contents)))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    said = b""
    deadline = time.monotonic() + HANG_S
    with open(read, "rb") as file:
        while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            more = os.read(file.fileno(), 2**20)
            if not more:
                break
            said += more
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang"
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    if status:
        return f"exit {os.waitstatus_to_exitcode(status)}"
    result: dict[str, Any] = pickle.loads(said)
    return result


def _measured(decoder: str, contents: list[bytes]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF)
    results = DECODERS[decoder](contents)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    decoded = [place for place, result in enumerate(results) if not isinstance(result, str)]
    other, unsteady = 0, 0
    if not decoder.startswith("DALI"):
        unsteady = sum(_changes(decoder, contents[place], results[place]) for place in decoded)
    if decoder != "Pillow":
        expected = one_by_one(pillow, [contents[place] for place in decoded])
        pairs = ((results[place], right) for place, right in zip(decoded, expected, strict=True))
        other = sum(not isinstance(right, str) and _differ(pixels, right) for pixels, right in pairs)
    return {
        # what ends a run, though memory was there
        "ended": sum(isinstance(result, str) and result.startswith("UserError") for result in results),
        "decoded": len(decoded),
        "other_pixels": other,
        "unsteady": unsteady,
        "cpu_s": cpu_s,
        "mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
    }


def _changes(decoder: str, content: bytes, pixels: Pixels | str) -> bool:
    """Decode again, into memory that holds something else."""
    assert not isinstance(pixels, str)
    # freed at once: the next to ask for as much gets it
    np.full(pixels.shape, 0xA5, np.uint8)
    (again,) = DECODERS[decoder]([content])
    return isinstance(again, str) or not np.array_equal(again, pixels)


def _differ(pixels: Pixels | str, right: Pixels) -> bool:
    assert not isinstance(pixels, str)
    return pixels.shape != right.shape or bool(np.abs(pixels.astype(np.int16) - right).mean() > SAME)


def fuzz(decoder: str, form: Format, images: int) -> Row:
    """Give a decoder all batches of a format."""
    row, cpu_s = Row(decoder=decoder, format=form), 0.0
    for number in range(-(-images // BATCH)):
        contents = images_of(number, form)
        row.images += len(contents)
        result = in_a_process(decoder, contents)
        if isinstance(result, str):
            _blame(row, decoder, number, contents, result)
            continue
        row.decoded += result["decoded"]
        if result["ended"]:
            row.deaths["UserError"] = row.deaths.get("UserError", 0) + result["ended"]
        row.other_pixels += result["other_pixels"]
        row.unsteady += result["unsteady"]
        row.largest_mb = max(row.largest_mb, round(result["mb"], 1))
        cpu_s += result["cpu_s"]
    row.us = round(cpu_s / row.images * 1e6, 1)
    return row


def _blame(row: Row, decoder: str, number: int, contents: list[bytes], end: str) -> None:
    """Count how a batch ended, by its images where one of them does it alone."""
    guilty = [place for place, content in enumerate(contents) if in_a_process(decoder, [content]) == end]
    row.killers = (row.killers + [(number, place) for place in guilty or [-1]])[:20]
    if end == "hang":
        row.hangs += len(guilty) or 1
    else:
        row.deaths[end] = row.deaths.get(end, 0) + (len(guilty) or 1)


def table(rows: list[Row]) -> str:
    """Write the rows in markdown."""
    head = ["format", "decoder", "images", "decoded", "deaths", "hangs", "largest batch in MB"]
    head += ["other pixels", "unsteady", "µs an image"]
    lines = [head]
    for row in rows:
        deaths = ", ".join(f"**{count:,} {name}**" for name, count in row.deaths.items()) or "0"
        counts = [f"{row.images:,}", f"{row.decoded:,}", deaths, str(row.hangs), f"{row.largest_mb:,.0f}"]
        counts += [f"{row.other_pixels:,}", f"{row.unsteady:,}", f"{row.us:.0f}"]
        lines.append([row.format, row.decoder, *counts])
    return markdown_table(lines, words=len(head))


def main() -> None:
    """Fuzz every decoder with every format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="of each format")
    parser.add_argument("--decoders", nargs="*", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--out", type=Path, default=Path("fuzz_decoders.jsonl"), help="where JSON lines go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # imported here, so that no forked process spends its time on that
    for decoder in arguments.decoders:
        in_parent = DECODERS[decoder]
        if not decoder.startswith("DALI"):
            in_parent(_seeds("jpg")[:1])
        else:
            import nvidia.dali  # noqa: F401
    facts, rows = machine(), []
    for form in arguments.formats:
        for decoder in arguments.decoders:
            if decoder in JPEG_ONLY and form != "jpg":
                continue
            rows.append(fuzz(decoder, form, arguments.images))
            with arguments.out.open("a") as out:
                print(json.dumps({"name": "fuzz_decoders", **asdict(rows[-1]), **facts}), file=out)
            print(table(rows).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
