"""The speed of a loader where it is automatic: what was measured on this machine, else defaults.

`turbomim tune loader` writes them into loader.json, one entry a machine, and every start reads them.
"""

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.train.machine.measurements import MeasurementFile, Tuned, TunedFile
from turbomim.train.machine.processor import cores
from turbomim.train.settings.config import DataConfig

# threads are those of one process with the machine to itself
TUNED_LOADER = TunedFile(
    file=MeasurementFile(name="loader.json", format="turbomim-loader-1", made_by="`turbomim tune loader`"),
    kind=LoaderSpeed,
)


def default_speed() -> LoaderSpeed:
    """What a process with this machine to itself uses when nothing was measured."""
    return LoaderSpeed(threads=cores())


def rank_speed(data: DataConfig, tuned: Tuned[LoaderSpeed] | None, local_size: int) -> LoaderSpeed:
    """The speed of one rank of `local_size` on this machine.  Each of its settings is the first there is of:

    1. the flag's, where it is not automatic;
    2. what was tuned here, threads shared by the ranks;
    3. the default, threads shared likewise.
    """
    base = tuned.settings if tuned else default_speed()
    return LoaderSpeed(
        threads=data.threads or max(1, base.threads // local_size),
        readers=data.readers or base.readers,
        prefetch=data.prefetch or base.prefetch,
        decode=base.decode if data.decode == "auto" else data.decode,
        hw_decoder_load=base.hw_decoder_load if data.hw_decoder_load < 0 else data.hw_decoder_load,
    )


def speed_source(tuned: Tuned[LoaderSpeed] | None) -> str:
    """Where automatic settings come from, in words."""
    if tuned is None:
        return "automatic ones are defaults: `turbomim tune loader --data PATH` measures what is fastest here"
    return f"automatic ones were tuned on this machine on {tuned.date}, see {TUNED_LOADER.file.path}"
