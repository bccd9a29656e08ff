"""What this machine has, each fact as one line of `turbomim doctor`'s report."""

from __future__ import annotations

import re
import resource
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbomim.pipeline.system.words import counted
from turbomim.train.machine.processor import cores, cpu_model, read_text

_GIB = 2**30
# data-centre and Orin chips with JPEG engines; other compute capabilities decode on CUDA cores and the CPU
_JPEG_ENGINES = {(8, 0), (8, 7), (9, 0), (10, 0), (10, 3)}
_FLAGS = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report.

    advice: what is lost and the way out, where something is slow or missing.  missing: training cannot work.
    """

    name: str
    value: str
    advice: str = ""
    missing: bool = False

    @property
    def status(self) -> Literal["ok", "slow", "missing"]:
        """What the line is coloured by."""
        if self.missing:
            return "missing"
        return "slow" if self.advice else "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes."""

    name: str
    memory: int
    capability: tuple[int, int]


def gpus() -> list[Check]:
    """The lines on the GPUs that torch sees."""
    import torch

    found = []
    with warnings.catch_warnings():
        # torch warns about an old driver; the report says the same in its own words
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
            found = [Gpu(name=p.name, memory=p.total_memory, capability=(p.major, p.minor)) for p in seen]
    driver = driver_version()
    return gpu_checks(found, driver, torch.version.cuda or "none", cores())


def driver_version(text: str | None = None) -> str | None:
    """NVIDIA driver's version in the text of /proc/driver/nvidia/version, this machine's if not given."""
    text = read_text("/proc/driver/nvidia/version") if text is None else text
    match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return match[0] if match else None


def gpu_checks(gpus: list[Gpu], driver: str | None, cuda: str, cores: int) -> list[Check]:
    """The lines on GPUs, their JPEG engines and the cores that feed them; `cuda` is the one torch is for."""
    if not gpus:
        advice = (
            "no GPU is seen: everything runs on the CPU in float32, "
            "right for `turbomim demo` and the tests, not for pre-training"
        )
        if driver:
            advice += (
                f"; driver {driver} is there: is it too old for CUDA {cuda}, or CUDA_VISIBLE_DEVICES set?"
            )
        return [Check(name="GPU", value="none", advice=advice)]
    checks = []
    for one, number in Counter(gpus).items():
        major, minor = one.capability
        value = (
            f"{number} × {one.name}, {one.memory / _GIB:.0f} GiB, "
            f"compute capability {major}.{minor}, driver {driver or 'unknown'}"
        )
        advice = "" if major >= 8 else "no bfloat16 in hardware: float32 is used, several times slower"
        checks.append(Check(name="GPU", value=value, advice=advice))
        engines = (
            "hardware engines decode baseline JPEG"
            if one.capability in _JPEG_ENGINES
            else "no hardware engines"
        )
        checks.append(Check(name="nvJPEG", value=f"{engines}; CUDA cores and CPU decode the rest"))
    if cores < 4 * len(gpus):
        advice = "reading and decoding may hold the GPUs back: watch data_wait_pct"
        value = f"{cores / len(gpus):.1f}"
        checks.append(Check(name="cores per GPU", value=value, advice=f"only {value}: {advice}"))
    return checks


def matrix_products_check() -> Check:
    """About the rates of matrix products on the CPU, kept or tried for a second; not what MFU is of."""
    from turbomim.train.machine.cpu_products import products_here

    products = products_here()
    return Check(
        name="matrix products",
        value=f"{products.in_words()}: a run on the CPU takes {products.float32_name}'s in float32, and "
        f"--step.precision auto is {products.precision}",
    )


def cpu_check(cpuinfo: str, cores: int) -> Check:
    """The line on the processor, from the text of /proc/cpuinfo."""
    flags_line = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(flags_line[1].split()) if flags_line else set()
    known = [label for flag, label in _FLAGS.items() if flag in flags]
    value = f"{cpu_model(cpuinfo)}, {counted(cores, 'core')} for this process"
    if known:
        value += f", {' '.join(known)}"
    # only x86 has a flags line; elsewhere nothing is known and nothing is said
    if flags and "avx2" not in flags:
        advice = "without AVX2, matrix products and decoding crawl"
    else:
        advice = "one core decodes, trains and logs in turn" if cores < 2 else ""
    return Check(name="CPU", value=value, advice=advice)


def threads_check(setting: str | None, cores: int) -> Check:
    """The line on $OMP_NUM_THREADS, the threads of torch on a CPU, where a process may use `cores` cores."""
    name = "OMP_NUM_THREADS"
    if not setting:
        return Check(name=name, value=f"not set: torch uses the {counted(cores, 'core')}")
    count = int(setting) if setting.isdecimal() else 0
    if 1 <= count <= cores and (count > 1 or cores == 1):
        return Check(name=name, value=setting)
    why = {0: "is not a number of threads", 1: f"leaves {cores - 1} of {cores} cores idle on a CPU"}
    advice = why.get(count, f"is more than the {cores} cores of this process")
    return Check(name=name, value=setting, advice=f"{setting} {advice}: unset it")


def memory_check() -> Check:
    """Memory, and what a container leaves of it."""
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE))
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    total, free = int(kib["MemTotal"]) * 1024, int(kib["MemAvailable"]) * 1024
    value = f"{total / _GIB:.0f} GiB, {free / _GIB:.0f} GiB available"
    if limit.isdecimal() and int(limit) < total:
        value += f", this container may use {int(limit) / _GIB:.0f} GiB"
        free = min(free, int(limit))
    return _at_least("memory", value, free, 4, "a smaller --optim.micro-batch needs less")


def disk_check() -> Check:
    """Free room in the current folder."""
    free = shutil.disk_usage(Path.cwd()).free
    value = f"{free / _GIB:.0f} GiB free in {Path.cwd()}"
    advice = "shards and checkpoints need room; ImageNet-1k's shards fill about 140 GB"
    return _at_least("disk", value, free, 5, advice)


def shared_memory_check() -> Check:
    """Size of /dev/shm."""
    size = shutil.disk_usage("/dev/shm").total
    advice = "NCCL passes data between GPUs of one machine through it: docker run --shm-size=8g"
    return _at_least("/dev/shm", f"{size / _GIB:.1f} GiB", size, 1, advice)


def _at_least(name: str, value: str, amount: int, gib: int, advice: str) -> Check:
    short = amount < gib * _GIB
    return Check(name=name, value=value, advice=f"less than {gib} GiB: {advice}" if short else "")


def open_files_check() -> Check:
    """Limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    value = f"{soft} (at most {'no limit' if hard == resource.RLIM_INFINITY else hard})"
    few = soft != resource.RLIM_INFINITY and soft < 1024
    advice = "shards stay open while they are read: ulimit -n 4096" if few else ""
    return Check(name="open files", value=value, advice=advice)


def loader_check() -> Check:
    """Whether the loader was measured here."""
    import torch

    from turbomim.train.machine.measurements import machine_name
    from turbomim.train.machine.tuned_loader import TUNED_LOADER

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tuned = TUNED_LOADER.read(machine_name(device))
    if tuned is None:
        value = "not tuned: defaults are used; `turbomim tune loader --data PATH` measures what is fastest"
    else:
        value = (
            f"tuned on {tuned.date}: {tuned.settings.in_words(device.type)}, {tuned.img_per_s:,.0f} img/s; "
            f"see {TUNED_LOADER.file.path}"
        )
    return Check(name="loader", value=value)


def matmul_rate_check() -> Check:
    """What MFU will be a share of."""
    from turbomim.train.machine.cpu_products import auto_is_bfloat16
    from turbomim.train.machine.matmul_rate import about_peak
    from turbomim.train.world.distributed import choose_device

    device = choose_device("auto", 0)
    return Check(name="matmul rate", value=about_peak(device, bfloat16=auto_is_bfloat16(device)))
