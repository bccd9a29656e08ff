"""Pack what a GPU machine without a package registry lacks: DALI, thinned to its GPU, and photographs.

    python -m turbomim.benchmarks.gpu.pack OUT [--sm 90] [--photographs 300]

Writes an archive in parts into the folder OUT and prints the commands for there.  There must be Linux on
x86-64 with glibc 2.28 or newer, an NVIDIA driver for CUDA 13, and Python with torch.  DALI as packed decodes
JPEG alone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from turbomim.benchmarks.gpu.archive_parts import SUMS, write_parts
from turbomim.benchmarks.gpu.thin_fatbin import thin
from turbomim.pipeline.making.photographs import find_photographs
from turbomim.pipeline.system.errors import UserError, need
from turbomim.train.demo.photos import cut_photos

# oldest and newest glibc whose wheels are taken, 2.x
GLIBC: Final = (17, 28)
# what DALI requires and is there with torch, timm or pytest, or is not opened for what is run there
NOT_CARRIED: Final = (
    *("libcst", "makefun", "numpy", "nvtx", "packaging", "pyyaml", "typing_extensions", "wheel"),
    *("nvidia_libnvcomp_cu13", "nvidia_nvjpeg2k_cu13", "nvidia_nvtiff_cu13"),
)
# of the other wheels: what serves compilers, shells and other decoders than those of JPEG
LEFT_OUT: Final = re.compile(
    r"/(include|tools)/|\.data/|/nvimgcodec_impl\.|/lib(nvbmp|nvjpeg2k|nvpnm|nvtiff|opencv|tiff)_ext\."
)
# Python and build of a compiled module: 312, 313t
COMPILED_FOR: Final = re.compile(r"\.cpython-(\d+t?)-")


def download(dali: str, python: str, folder: Path) -> list[Path]:
    """Fetch the wheels of DALI for CUDA 13 and of what is carried with it.  Raises UserError if pip fails."""
    # manylinux2014 is the older name of 2_17
    tags = [*(f"manylinux_2_{minor}" for minor in range(GLIBC[1], GLIBC[0] - 1, -1)), "manylinux2014"]
    platforms = [f"--platform={tag}_x86_64" for tag in tags]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--only-binary=:all:", f"--python-version={python}", *platforms]
    # DALI decodes JPEG on the GPU by nvJPEG, which it takes from the CUDA toolkit where there is one
    command += [f"nvidia-dali-cuda130=={dali}", "nvidia-nvjpeg", "simplejpeg"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"pip cannot download DALI {dali} for Python {python}: {reason}")
    wheels = sorted(folder.glob("*.whl"))
    return [wheel for wheel in wheels if wheel.name.partition("-")[0].lower() not in NOT_CARRIED]


def unpack_wheels(wheels: list[Path], site: Path, python: str, sm: int) -> tuple[int, int]:
    """Unpack what is carried of the wheels into `site`, thinned; bytes of GPU code before and after."""
    before = after = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            for name in files.namelist():
                if name.endswith("/") or not carried(name, python):
                    continue
                content = bytearray(files.read(name))
                total, kept = thin(content, sm)
                before, after = before + total, after + kept
                path = site / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return before, after


def carried(name: str, python: str) -> bool:
    """Tell whether a wheel's file is of use there; python: as "3.12"."""
    compiled = COMPILED_FOR.search(name)
    return not LEFT_OUT.search(name) and (compiled is None or compiled[1] == python.replace(".", ""))


def gather_photographs(images: Path, count: int, folder: Path) -> int:
    """Copy `count` JPEGs from all over `images`, or all if there are fewer; how many.

    Paths below `images` stay.  Raises UserError if there are none.
    """
    found = [
        photograph.path
        for photograph in find_photographs(images).images
        if photograph.path.lower().endswith((".jpg", ".jpeg"))
    ]
    if not found:
        raise UserError(f"no JPEG below {str(images)!r}: give a folder with files .jpg or .jpeg")
    chosen = found[:: max(1, len(found) // count)][:count]
    for path in chosen:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / path, folder / path)
    return len(chosen)


def pack(options: argparse.Namespace, work: Path) -> list[Path]:
    """Gather, thin, pack; say what was done.  work: an empty folder for what is made on the way.

    Returns the parts.  Raises UserError where there are no photographs, or pip cannot download.
    """
    source, wheels = work / "source", work / "wheels"
    images = options.images
    if images is None:
        images = work / "cut"
        cut_photos(images, images=options.photographs)
    count = gather_photographs(images, options.photographs, source / "photographs")
    _say(f"{count} photographs; downloading DALI {options.dali} for Python {options.python}")
    names = download(options.dali, options.python, wheels)
    before, after = unpack_wheels(names, source / "site", options.python, options.sm)
    _say(f"wheels: {', '.join('-'.join(name.name.split('-')[:2]) for name in names)}")
    _say(f"GPU code: {before:,} bytes, {after:,} of them for sm_{options.sm} or kept with it")
    _say("packing takes minutes")
    options.out.mkdir(parents=True, exist_ok=True)
    parts = write_parts(source, options.out, options.part_mb * 10**6)
    for part in parts:
        _say(f"{part}: {part.stat().st_size:,} bytes")
    _say(f"{options.out / SUMS}: their SHA-256")
    _say(COMMANDS)
    return parts


COMMANDS: Final = """
There, in a copy of the working tree, with these files in PARTS:
  export PYTHONPATH=$PWD/src:/tmp/turbomim/site
  python -m turbomim.benchmarks.gpu.archive_parts PARTS /tmp/turbomim
  python -m turbomim bench gpu --seconds 420 --out results.jsonl --images /tmp/turbomim/photographs"""


def _say(text: str) -> None:
    print(text, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the parts, new or empty")
    parser.add_argument("--sm", type=int, default=90, help="architecture of the GPU: 80 A100, 90 H100, H200")
    parser.add_argument("--python", default="3.12", help="Python there (%(default)s)")
    parser.add_argument("--dali", default="2.4.0", help="version of DALI (%(default)s)")
    parser.add_argument("--photographs", type=int, default=300, help="how many (%(default)s)")
    parser.add_argument("--images", type=Path, help="folder to take them from (default: cut as the demo's)")
    parser.add_argument("--part-mb", type=int, default=40, help="most MB of a part (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Pack."""
    options = _parse()
    try:
        need(options.photographs >= 1, "--photographs", options.photographs, "1 or more")
        need(options.part_mb >= 1, "--part-mb", options.part_mb, "1 or more")
        if options.out.exists() and any(options.out.iterdir()):
            raise UserError(f"{options.out} is not empty: give a new folder, so that no old part is carried")
        with tempfile.TemporaryDirectory() as work:
            pack(options, Path(work))
    except (UserError, OSError) as error:
        raise SystemExit(f"turbomim: {error}") from None


if __name__ == "__main__":
    main()
