"""`pretrain --from RUN`: a new run that begins with the weights of another one, and with nothing else of it.

As an import does, it begins with a checkpoint of step 0: these weights, moments of zero, position 0.  So
ranks, sharding, resume and roll-back need to know nothing of it.
"""

from pathlib import Path

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.begun import OURS, RECORD, read_begun
from turbomim.train.loop.checkpoints import write_first_checkpoint
from turbomim.train.loop.session import Session
from turbomim.train.machine.predicted_memory import shapes
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config


def check_beginning(run: Path, config: Config) -> None:
    """Raise UserError where a run of these settings could not begin with the weights of `run`.

    A run that has begun does not ask for them any more.
    """
    folder = rundir.run_folder(config)
    if folder.resolve() == run.resolve():
        raise UserError(f"--from {run}: the new run would have this folder, too: give another --run.name")
    if not checkpoint.complete(folder / "ckpt") and not config.run.mirror:
        find_weights(run, config)


def find_weights(run: Path, config: Config) -> Path:
    """The newest whole checkpoint of a run, whose weights are those of the settings' model.

    Raises UserError: it is no pre-training, none of its checkpoints is whole, or the tensors do not fit.
    """
    rundir.read_config(run)
    found, _ = checkpoint.newest(run / "ckpt")
    if found is None:
        raise UserError(f"--from {run}: it has no checkpoint yet: wait for its first")
    check_fits(found, config, run)
    return found


def check_fits(found: Path, config: Config, run: Path) -> None:
    """Raise UserError if the weights of a checkpoint are not those of the settings' model."""
    ours, theirs = shapes(config), checkpoint.shapes(found)
    wrong = [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    if wrong:
        first = min(wrong)
        raise UserError(
            f"--from {run}: {counted(len(wrong), 'tensor')} would not fit this model, {first!r} first "
            f"({theirs.get(first, 'none')} there, {ours.get(first, 'none')} here): give the settings of its "
            f"model, which are in {run}/config.yaml"
        )


def begin(session: Session[Config], folder: Path, run: Path) -> Path:
    """Write the record, then the checkpoint that the run begins with, and return the latter's path.

    A start that is killed between finds no checkpoint, and does it again.  Raises UserError.
    """
    config = session.config
    found = find_weights(run, config)
    step = checkpoint.read_state(found).step
    record = {
        "file": str(run.resolve()),
        "from": OURS,
        "step": step,
        "sha256": checkpoint.weights_digest(found.parent, step),
        "before": read_begun(run),
    }
    model = make_model(config)
    checkpoint.load(found, model)
    write_json(folder / RECORD, record)
    return write_first_checkpoint(
        folder / "ckpt",
        model,
        make_optimizer(model, config.optim),
        config,
        fingerprint=session.split.manifest.fingerprint,
    )
