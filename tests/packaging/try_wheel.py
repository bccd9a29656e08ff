"""Try a wheel as a new user does: an empty environment, an empty folder, no checkout near.

`python tests/packaging/try_wheel.py FOLDER [CONSTRAINTS]` installs the wheel in FOLDER with the extras that
the demo and the notebook need, and runs what the README promises of it, and examples/quickstart.ipynb.
`make wheel` builds one and calls this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
# what takes long to import, and is not needed to say `turbomim --help`
SLOW = "torch triton numpy timm nvidia torchvision transformers"


def main(folder: Path, constraints: Path | None) -> None:
    """Install and run; raises AssertionError at the first thing that fails, with what it printed."""
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
            print(done.stdout, flush=True)
            return done.stdout

        limits = [f"--constraint={constraints.resolve()}"] if constraints else []
        run("pip", "install", "--quiet", f"{wheel}[notebook,cuda13]", *limits)
        where = run("python", "-c", "import turbomim; print(turbomim.__file__)")
        assert Path(where.strip()).is_relative_to(environment), where
        slow = f"import sys, turbomim; print(*(set({SLOW.split()}) & set(sys.modules)))"
        assert not run("python", "-c", slow).strip()
        version = run("turbomim", "--version").strip()
        assert wheel.name.startswith(f"turbomim-{version}-"), f"{wheel.name} says {version}"
        run("turbomim", "doctor")
        run("turbomim", "demo", "--epochs", "1")
        for name in ("model.safetensors", "report.html"):
            assert list(Path(empty, "runs", "demo").rglob(name)), f"the demo left no {name}"
        assert "done" in run("turbomim", "demo", "--epochs", "1")
        begun = time.monotonic()
        copy = shutil.copy(NOTEBOOK, empty)
        run("jupyter-execute", "--inplace", "--timeout=1200", copy)
        print(f"the notebook took {time.monotonic() - begun:.0f} s")
        check_outputs(json.loads(Path(copy).read_text()))


def check_outputs(notebook: dict[str, Any]) -> None:
    """A notebook that ran shows pictures and a page, and no complaint."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    kinds = [kind for output in outputs for kind in output.get("data", ())]
    assert kinds.count("image/png") == 3, kinds
    assert "text/html" in kinds, "no report"
    complaints = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not complaints, complaints


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
