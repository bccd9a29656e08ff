"""One stage of `turbomim bench gpu` in a process of its own: a JSON line a row, as it is measured.

`python -m turbomim.benchmarks.gpu.stage NAME JSON`; the JSON is a Place.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

# at least "name"; "why_not" says in one line why something was not measured
Row = dict[str, Any]

# module of this folder, and the argument of its `rows` beside the place
STAGES: Final[dict[str, tuple[str, str]]] = {
    "machine": ("machine", ""),
    "tests": ("tests", ""),
    "kernels": ("kernels", ""),
    "step base": ("steps", "base"),
    "step large": ("steps", "large"),
    "step huge": ("steps", "huge"),
    "photographs": ("photographs", ""),
    "compiled against eager": ("long_run", ""),
    "profiles": ("profiles", ""),
    "compile modes": ("steps", "modes"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a stage runs: cpu or cuda; a folder of photographs, empty for none; a folder for what it makes.

    On a CPU every size is small: it shows that the command works, and nothing else.
    """

    device: str
    images: str
    work: str

    @property
    def on_gpu(self) -> bool:
        """Whether what is measured counts."""
        return self.device == "cuda"


def attempt(name: str, measure: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows of one measurement; what breaks it costs it alone: a row says what it was."""
    try:
        yield from measure()
    except Exception as error:
        yield failure(name, error)


def failure(name: str, error: BaseException) -> Row:
    """The row of a measurement that broke."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    return {"name": name, "why_not": said, "traceback": "".join(traceback.format_exception(error))[-3000:]}


@contextmanager
def rows_only() -> Iterator[Callable[[Row], None]]:
    """What prints rows to the standard output; whatever else prints there goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        yield lambda row: print(json.dumps(row), file=output, flush=True)


def main(argv: list[str]) -> None:
    """Print the rows of a stage."""
    name, place = argv[0], Place(**json.loads(argv[1]))
    module, argument = STAGES[name]
    with rows_only() as emit:
        from turbomim.benchmarks.timing import machine

        rows = importlib.import_module(f"turbomim.benchmarks.gpu.{module}").rows
        for row in rows(place, argument) if argument else rows(place):
            emit({"stage": name, **row, **machine()})


if __name__ == "__main__":
    main(sys.argv[1:])
