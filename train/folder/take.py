"""What a start finds in the folder of a run: nothing, or a checkpoint to go on from."""

from __future__ import annotations

import contextlib

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.crashes import look_back
from turbomim.train.settings.config import Config


def take_folder(
    config: Config, splits: list[Split], held: contextlib.ExitStack, *, on_gpu: bool
) -> tuple[str | None, list[str]]:
    """Lock and check the run folder; return the checkpoint to resume from, if any, and what is to be said.

    splits: to train on, then others; on_gpu: photographs are decoded there.
    """
    folder = rundir.run_folder(config)
    held.enter_context(rundir.lock_run(config))
    rundir.check_same(folder, config)
    split = splits[0]
    found, damaged = checkpoint.newest(folder / "ckpt")
    if found is not None:
        state, ours = checkpoint.read_state(found), split.manifest.fingerprint
        theirs = state.fingerprint
        # imported weights have seen no data: `turbomim import` leaves the fingerprint to the first run
        if theirs != ours and (theirs or state.step):
            raise UserError(
                f"{split.path} is not the data set of {found} (fingerprint {ours[:12]}, the checkpoint's is "
                f"{theirs[:12]}): give the same shards, or another --run.name"
            )
    said = [f"{path} is damaged and was passed over" for path in damaged]
    return (str(found) if found else None), said + look_back(folder, splits, on_gpu=on_gpu)
