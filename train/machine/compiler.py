"""What torch.compile needs: a C++ compiler on a CPU, and folders for what it and Triton build."""

import mmap
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import reason, remedy
from turbomim.train.machine.home import home


def find_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile will call: $CXX where it is set, else g++.

    None if not there.
    """
    named = os.environ.get("CXX", "").strip()
    return shutil.which(shlex.split(named)[0] if named else "g++")


def check_compiler(device: str) -> None:
    """Raise UserError if a step cannot be compiled.  device: cpu or cuda."""
    check_compile_caches(device)
    if device == "cpu" and find_compiler() is None:
        raise UserError(
            "no C++ compiler found: torch.compile needs one on a CPU; "
            "install g++, or go on more slowly with --step.compile false (demo: --compile false)"
        )


def compile_caches(device: str) -> list[tuple[str, Path]]:
    """The folders that a device's programs are loaded from, each with the variable that moves it."""
    inductor = "TORCHINDUCTOR_CACHE_DIR"
    caches = [(inductor, Path(os.environ.get(inductor) or tempfile.gettempdir()))]
    if device == "cuda":
        own = Path(os.environ.get("TRITON_HOME") or home(), ".triton", "cache")
        caches.append(("TRITON_CACHE_DIR", Path(os.environ.get("TRITON_CACHE_DIR") or own)))
    return caches


def check_compile_caches(device: str) -> None:
    """Raise UserError if a folder cannot be written to, or may not run programs (mounted noexec)."""
    for variable, folder in compile_caches(device):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0")
                file.flush()
                _try_program(file.fileno(), folder, variable)
        except OSError as error:
            own = f"set {variable} to a folder of yours"
            raise UserError(
                f"what torch.compile builds cannot be kept in {str(folder)!r}: {reason(error)}; "
                f"{remedy(error, own)}, or go on without: --step.compile false (demo: --compile false)"
            ) from error


def _try_program(handle: int, folder: Path, variable: str) -> None:
    """Map a file as a program's are.  Raises UserError."""
    try:
        mmap.mmap(handle, 1, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError as error:
        raise UserError(
            f"{str(folder)!r} may not run what torch.compile builds there ({error.strerror}: it is mounted "
            f"noexec, say): set {variable} to a folder on a disk that may, or go on without: "
            "--step.compile false (demo: --compile false)"
        ) from error


def advice_on_cache(error: OSError) -> str:
    """What helps against an error of a file in a folder that a variable names; "" for any other."""
    file = error.filename if isinstance(error.filename, str) else ""
    variables = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TURBOMIM_CACHE_DIR", "TMPDIR")
    named = (name for name in variables if os.environ.get(name) and file.startswith(os.environ[name]))
    return next((f"set {name} to a folder of yours" for name in named), "")
