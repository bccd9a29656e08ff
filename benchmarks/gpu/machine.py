"""What the machine is: its GPU, and the rates that everything else is a share of."""

from __future__ import annotations

import ctypes
import ctypes.util
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from turbomim.benchmarks.gpu.stage import Place, Row, attempt
from turbomim.benchmarks.kernels.bench import copy_bandwidth
from turbomim.benchmarks.timing import alternate, nvidia_smi
from turbomim.train.machine.matmul_rate import measure_rate, write_rate
from turbomim.train.machine.memory import device_bytes
from turbomim.train.machine.processor import cores
from turbomim.train.settings.config import StepConfig
from turbomim.train.settings.precision import precision_name, uses_bfloat16

# of nvidia-smi's --query-gpu: what they are and what the GPU may reach, read and never set
CLOCKS: Final = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "pcie.link.gen.max",
)
# nvjpeg.h's NVJPEG_BACKEND_HARDWARE
HARDWARE: Final = 3


def rows(place: Place) -> Iterator[Row]:
    """Facts first, as they need no measurement."""
    device = torch.device(place.device)
    yield from attempt("the machine", lambda: [facts(device)])
    yield from attempt("matrix products", lambda: [products(device)])
    yield from attempt("copy", lambda: [copies(device)])
    yield from attempt("copy from the host", lambda: [host_copies(device)])
    yield from attempt("JPEG engines", lambda: [jpeg_engines()])


def facts(device: torch.device) -> Row:
    """Name, multiprocessors, memory and clocks; clocks in MHz, power in W, memory in GiB."""
    found: Row = {
        "name": "the machine",
        "cores": cores(),
        "memory_gib": round(device_bytes(device) / 2**30, 1),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": about.name,
            "compute_capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "l2_mib": about.L2_cache_size // 2**20,
        }
        found |= {name: nvidia_smi(name) for name in CLOCKS}
    return found


def products(device: torch.device) -> Row:
    """The rate of the step's matrix products, which MFU is a share of from now on."""
    bfloat16 = uses_bfloat16(StepConfig(), device)
    rate = measure_rate(device, bfloat16=bfloat16, side=None if device.type == "cuda" else 512)
    if device.type == "cuda":
        write_rate(device, rate, bfloat16=bfloat16)
    kind = precision_name(bfloat16=bfloat16)
    return {"name": f"matrix products, {kind}", "value": round(rate / 1e12, 3), "unit": "TFLOP/s"}


def copies(device: torch.device) -> Row:
    """A copy within the device's memory, bytes read and written."""
    return {"name": "copy", "value": round(copy_bandwidth(device) / 1e9, 1), "unit": "GB/s"}


def host_copies(device: torch.device) -> Row:
    """A copy of pinned memory to the device."""
    if device.type != "cuda":
        return {"name": "copy from the host", "why_not": "there is no GPU to copy to"}
    source = torch.randint(0, 256, (2**28,), dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    seconds = alternate({"copy": lambda: target.copy_(source, non_blocking=True)}, 9)["copy"]
    rate = len(source) / statistics.median(seconds) / 1e9
    return {"name": "copy from the host", "value": round(rate, 1), "unit": "GB/s"}


def jpeg_engines() -> Row:
    """How many JPEG engines nvJPEG finds, and cores in each."""
    name = "JPEG engines"
    if not torch.cuda.is_available():
        return {"name": name, "why_not": "there is no GPU"}
    library = next((found for path in _nvjpeg_paths() if (found := _opened(path))), None)
    if library is None:
        return {"name": name, "why_not": "no libnvjpeg here: CUDA's toolkit or pip's nvidia-nvjpeg has it"}
    handle, engines, per_engine = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    if code := library.nvjpegCreateEx(HARDWARE, None, None, 0, ctypes.byref(handle)):
        return {"name": name, "why_not": f"nvJPEG has no hardware decoder here: error {code}"}
    code = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(per_engine))
    library.nvjpegDestroy(handle)
    if code:
        return {"name": name, "why_not": f"nvjpegGetHardwareDecoderInfo gave error {code}"}
    return {"name": name, "value": engines.value, "unit": "engines", "cores_each": per_engine.value}


def _nvjpeg_paths() -> Iterator[str]:
    """Where libnvjpeg may be: the loader's paths, pip's packages, the toolkit."""
    if found := ctypes.util.find_library("nvjpeg"):
        yield found
    for folder in sys.path:
        yield from map(str, Path(folder).glob("nvidia/*/lib/libnvjpeg.so.*"))
    yield from map(str, Path("/usr/local").glob("cuda*/lib64/libnvjpeg.so*"))


def _opened(path: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None
