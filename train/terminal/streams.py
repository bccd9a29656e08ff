"""What a stream can take: other letters where its encoding lacks some, and nothing once it is gone."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console

# the name of our error handler, as `codecs` knows it
DRAWN = "turbomim.drawn"

# letters of a line where no terminal says how many it shows
WIDE = 1000

# what stands for a character that an encoding lacks; any other is escaped, as "\u6797"
STAND_INS = {
    "…": "...", "•": "*", "·": "*", "×": "x", "µ": "u", "μ": "u", "±": "+-",
    "°": " deg", "²": "^2", "√": "sqrt ", "–": "-", "—": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">=",
    "‘": "'", "’": "'", "“": '"', "”": '"',
    "\u00a0": " ", "\u200b": "",
    **dict.fromkeys("─━╌╴╶╸╺═", "-"), **dict.fromkeys("│┃║", "|"), **dict.fromkeys("█▌▐■", "#"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇╔╗╚╝", "+"),
}  # fmt: skip


def prepare_streams() -> None:
    """Let standard output and error draw what their encodings have, whatever is printed; call it first.

    One that was closed before the start takes everything and keeps nothing.
    """
    codecs.register_error(DRAWN, _stand_in)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=DRAWN)


def drawable(text: str, encoding: str) -> str:
    """The text as a stream of that encoding shows it, for what must know how wide it is."""
    codecs.register_error(DRAWN, _stand_in)
    return text.encode(encoding, DRAWN).decode(encoding)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """The handler: ASCII for the characters that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    drawn = (STAND_INS.get(c, c.encode("ascii", "backslashreplace").decode()) for c in lacking)
    return "".join(drawn), error.end


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, and elsewhere as wide as a table needs."""
    console = Console()
    return console if console.is_terminal or console.is_jupyter else Console(width=WIDE)


def print_plain(console: Console, text: str) -> None:
    """Print a text as it is: no markup, no colours, no line broken."""
    if console.is_jupyter:
        # there each call of rich's would be an output of its own
        print(text, file=console.file)
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def printing_never_raises(console: Console, lost: Callable[[Exception], None]) -> Iterator[None]:
    """Let nothing that is printed to the console raise; `lost` hears of the first error, which is the last.

    What is printed after it goes nowhere: its reader is gone, its terminal was closed, its disk is full.
    """
    stream = console.file
    console.file = _Outlived(stream, lost)  # type: ignore[assignment]
    try:
        yield
    finally:
        console.file = stream


class _Outlived:
    """A stream for `printing_never_raises`."""

    def __init__(self, stream: IO[str], lost: Callable[[Exception], None]) -> None:
        self._stream, self._lost, self._gone = stream, lost, False

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Callable[..., object], *args: str) -> None:
        if self._gone:
            return
        try:
            call(*args)
        # ValueError: of a closed file, or an encoding
        except (OSError, ValueError) as error:
            self._gone = True
            # what the stream still holds would raise again when it is flushed at the end
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            self._lost(error)
