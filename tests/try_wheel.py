"""Try a wheel as a new user does: an empty environment, an empty folder, no checkout near.

`python tests/try_wheel.py FOLDER [PIP ARGUMENT …]` installs the wheel in FOLDER with the extras that the demo
needs, and runs what the README promises of it.  `make wheel` builds one and calls this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

# s, a start of the interpreter included
IMPORT_LIMIT = 0.2


def main(folder: Path, pip_arguments: list[str]) -> None:
    """Install and run; raises CalledProcessError or AssertionError at the first thing that fails."""
    (wheel,) = folder.resolve().glob("turbomim-*.whl")
    with tempfile.TemporaryDirectory() as empty:
        environment = Path(empty, "environment")
        venv.create(environment, with_pip=True)
        # nothing of the caller's: neither its checkout nor its packages
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

        def run(program: str, *arguments: str) -> str:
            print("$", program, *arguments, flush=True)
            command = [str(environment / "bin" / program), *arguments]
            done = subprocess.run(command, cwd=empty, env=own, stdout=subprocess.PIPE, text=True)
            assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}"
            return done.stdout

        run("pip", "install", "--quiet", f"{wheel}[demo,cuda13]", *pip_arguments)
        where = run("python", "-c", "import turbomim; print(turbomim.__file__)")
        assert Path(where.strip()).is_relative_to(environment), where
        took = min(_seconds(environment, empty, own) for _ in range(5))
        print(f"import turbomim: {took:.2f} s")
        assert took < IMPORT_LIMIT, f"import turbomim takes {took:.2f} s, over {IMPORT_LIMIT}"
        version = run("turbomim", "--version").strip()
        assert wheel.name.startswith(f"turbomim-{version}-"), f"{wheel.name} says {version}"
        print(run("turbomim", "doctor"))
        print(run("turbomim", "demo", "--epochs", "1"))
        for name in ("export/encoder.safetensors", "report.html"):
            assert list(Path(empty, "runs", "demo").rglob(name)), f"the demo left no {name}"
        print(run("turbomim", "demo", "--epochs", "1"))


def _seconds(environment: Path, folder: str, own: dict[str, str]) -> float:
    begun = time.perf_counter()
    command = [str(environment / "bin" / "python"), "-c", "import turbomim"]
    subprocess.run(command, cwd=folder, env=own, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
