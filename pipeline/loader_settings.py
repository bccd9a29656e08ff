"""What a loader is told beside its crop and its stream: how fast it is, and how many bad samples it bears."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from turbomim.pipeline.system.errors import need

Backend = Literal["cpu", "mixed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSpeed:
    """How fast a Loader is, never what it gives.

    threads: that decode and cut; readers: threads that read ahead; prefetch: batches being read, and batches
    being decoded, while one is used; decode: where photographs are decoded for a GPU, "mixed" or "cpu";
    hw_decoder_load: the share of "mixed" that the GPU's JPEG engine takes.
    Raises UsageError: no loader has these values.
    """

    threads: int
    readers: int = 2
    prefetch: int = 2
    decode: Backend = "mixed"
    hw_decoder_load: float = 0.65

    def __post_init__(self) -> None:
        for name in ("threads", "readers", "prefetch"):
            count = getattr(self, name)
            # a file that was edited may hold anything
            need(type(count) is int and count >= 1, name, repr(count), "at least 1")
        need(self.decode in get_args(Backend), "decode", repr(self.decode), "cpu or mixed")
        need(0 <= self.hw_decoder_load <= 1, "hw_decoder_load", self.hw_decoder_load, "0 to 1")

    def decodes_on(self, device: str) -> bool:
        """Whether a device, cpu or cuda, decodes photographs itself."""
        return device == "cuda" and self.decode == "mixed"

    def in_words(self, device: str) -> str:
        """As people read it; what only a GPU uses is left out on a CPU."""
        names = [f.name for f in fields(self)][: 3 if device == "cpu" else None]
        return ", ".join(f"{name} {getattr(self, name)}" for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSampleLimits:
    """How many samples may be replaced because they cannot be decoded, see bad_samples.py.

    max_share: of those handed out, once they are many, or at once if 0; max_row: as many in a row, of
    the stream or of the storage, end the run.  Raises UsageError: no limits have these values.
    """

    max_share: float = 0.05
    max_row: int = 100

    def __post_init__(self) -> None:
        need(0 <= self.max_share <= 1, "max_bad_share", self.max_share, "0 to 1")
        need(self.max_row >= 1, "max_bad_row", self.max_row, "at least 1")
