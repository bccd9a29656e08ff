"""What a start finds in the folder of a run: nothing, or a checkpoint to go on from."""

from __future__ import annotations

import contextlib
from pathlib import Path

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.crashes import look_back
from turbomim.train.settings.config import Config


def lock_and_find_checkpoint(
    config: Config, splits: list[Split], lock: contextlib.ExitStack, *, on_gpu: bool
) -> tuple[Path | None, list[str]]:
    """Lock and check the run folder; return the checkpoint to resume from, if any, and what is to be said.

    splits: to train on, then others; lock: what keeps the folder locked; on_gpu: photographs are decoded
    there.  Raises UserError: the folder is taken, holds another run, or has no whole checkpoint.
    """
    folder = rundir.run_folder(config)
    lock.enter_context(rundir.lock_run(config))
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
    return found, said + look_back(folder, splits, on_gpu=on_gpu)
