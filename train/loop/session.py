"""What a run is made of, and how it comes together: in the same way for every task.

`open_session` is all that comes before a run has a folder, `take_folder` locks the folder and looks what is
in it.  After both the task makes its model, and `Run` trains it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic

from rich.console import Console

from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.begun import check_begun
from turbomim.train.folder.crashes import explain_last_death, read_deadly_samples
from turbomim.train.folder.from_mirror import newer_in_mirror, take_from_mirror
from turbomim.train.folder.log import RunLog
from turbomim.train.folder.mirror import Mirror
from turbomim.train.folder.prolonged import (
    had_these_rates,
    held_optim,
    made_in_decay,
    note_share,
    with_held_warmup,
)
from turbomim.train.folder.seen_shards import check_seen
from turbomim.train.loop.data import about_data, open_data
from turbomim.train.loop.resolved import resolve
from turbomim.train.loop.shares import about_groups, check_groups, with_cache
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.cpu_products import settle_products
from turbomim.train.machine.measurements import Tuned, machine_name
from turbomim.train.machine.tuned_loader import TUNED_LOADER, rank_speed
from turbomim.train.machine.tuned_step import StepSettings, about_step
from turbomim.train.settings.config import AnyConfig, Config, Precision
from turbomim.train.settings.plan import Plan, make_plan
from turbomim.train.settings.schedule import stable_steps, with_steps
from turbomim.train.terminal.streams import print_plain
from turbomim.train.trackers.opening import check_trackers
from turbomim.train.world.distributed import World, join_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Session(Generic[AnyConfig]):
    """What a run is made of; nothing in it is automatic any more.

    Every rank has the same settings and plan, and its own world and loader speed.  What ranks do together has
    these names in `World`: `broadcast_from_rank0` runs a call on rank 0, `run_on_all` on each, both with an
    exchange; `run_replicated` on each, where all come to the same, without one; `any_rank_stops` asks whether
    one of them is to stop.  An error in such a call ends all ranks, with one message.
    """

    config: AnyConfig
    # step.precision as it was asked for: what config.yaml has, which other machines read, too
    asked_precision: Precision
    plan: Plan
    loader_speed: LoaderSpeed
    world: World
    console: Console
    # what is trained on
    split: Split
    # what the task measures on; None where the settings name none
    heldout: Split | None
    # lines for the log on data and machine
    about: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """The folder of a run, locked: what a start found there, and what is written to it as the run goes on."""

    path: Path
    # the newest whole one, which the run goes on from; None in a new folder
    checkpoint: Path | None
    # lines for the log on what was damaged, and on how an earlier process died
    notes: list[str]
    log: RunLog
    # notes the samples being decoded, to name one that ended the process
    journal: Journal
    # checkpoints of a shorter run's decay, which this one replaces
    decayed: list[Path] = field(default_factory=list)
    # copies it to another place, on rank 0, where the settings ask for that
    mirror: Mirror | None = None


@contextmanager
def open_session(
    config: AnyConfig,
    console: Console | None,
    *,
    flags: tuple[str, str] = ("--data.path", "--data.heldout"),
    preset: str | None = None,
    read_tuned_step: Callable[[AnyConfig, World], Tuned[StepSettings] | None] = lambda config, world: None,
) -> Iterator[Session[AnyConfig]]:
    """Join the ranks, check what can be checked before there is a run, settle what is automatic.

    flags: that name the two splits, for errors; preset: a GPU whose micro-batch is taken; read_tuned_step:
    what `turbomim tune step` measured for a step of these settings, if the task uses that.  Raises UserError
    for anything a user or a file caused, in this order:

    1. ranks that do not come;
    2. a compiler that is missing, or a tracker that is not installed;
    3. a damaged file of measured products or steps;
    4. splits that cannot be read or do not fit the settings;
    5. a damaged file of measured loaders;
    6. settings that do not go together with ranks and data.
    """
    with join_ranks(config.step.device, config.step.rank_timeout) as world:
        if config.step.compile:
            check_compiler(world.device.type)
        world.broadcast_from_rank0(lambda: check_trackers(config.run))
        # every rank trains with what rank 0 was given
        config, preset, held = world.broadcast_from_rank0(lambda: (config, preset, held_optim(config)))
        asked_precision = config.step.precision
        config, about_products = settle_products(config, world)
        # what was measured holds for a precision, which is settled now
        tuned_step = world.broadcast_from_rank0(partial(read_tuned_step, config, world))
        data = config.data
        split = open_data(data.path, flags[0], data, world)
        world.run_replicated(lambda: check_groups(data.groups, split, flags[0]))
        split = world.run_on_all(partial(with_cache, data, split, world))
        heldout = open_data(data.heldout, flags[1], data, world) if data.heldout else None
        tuned_loader = world.run_on_all(lambda: TUNED_LOADER.read(machine_name(world.device)))
        # it refuses on every rank or on none, so no exchange is needed
        config, longer = world.run_replicated(
            lambda: with_held_warmup(with_steps(config, split.manifest.samples), held)
        )
        resolved, used = world.run_replicated(
            lambda: resolve(
                config,
                ranks=world.size,
                preset=preset,
                tuned_step=tuned_step,
            )
        )
        loader_speed = rank_speed(data, tuned_loader, world.local_size)
        yield Session(
            config=resolved,
            asked_precision=asked_precision,
            plan=world.run_replicated(lambda: make_plan(resolved, split.manifest.samples, world.size)),
            loader_speed=loader_speed,
            world=world,
            console=console or Console(),
            split=split,
            heldout=heldout,
            about=[
                about_data(data, split, loader_speed, tuned_loader, world),
                *about_groups(data.groups, split, world.size),
                *([split.cache.in_words()] if split.cache else []),
                *about_products,
                *about_step(resolved, used),
                *longer,
                *([f"scored, drawn and exported is {resolved.optim.averaged}"] if resolved.optim.ema else []),
            ],
        )


@contextmanager
def take_folder(
    session: Session[Any], *others: Split, begins_from: Path | None = None
) -> Iterator[RunFolder]:
    """Lock the run's folder, on rank 0, and find what it goes on from; every rank calls it.

    With `run.mirror` what is newer there is brought here first.  others: splits that the run reads besides
    its own two; begins_from: the run whose weights it must begin with.  Raises UserError: another process has
    the folder or the mirror, one of them holds another run, no checkpoint in it is whole, its run began with
    other weights, a shard of a store was replaced, or the mirror cannot be used.
    """
    config, world = session.config, session.world
    path = rundir.run_folder(config)
    splits = _splits_of(session, others)
    on_gpu = session.loader_speed.decodes_on(world.device.type)
    mirror: Mirror | None = None
    told = list[str]()

    def tell(line: str) -> None:
        print_plain(session.console, line)
        told.append(line)

    with contextlib.ExitStack() as held:

        def look() -> tuple[Path | None, list[str], list[Path]]:
            nonlocal mirror
            held.enter_context(rundir.lock_run(config))
            rundir.check_same(path, config)
            taken = []
            if config.run.mirror:
                mirror = held.enter_context(Mirror(config, tell))
                taken = take_from_mirror(mirror, path, tell)
            found, notes = _look_into(session, splits, begins_from, note=True)
            note_share(config)
            decayed = made_in_decay(found, config, session.plan.samples) if found else []
            if decayed:
                notes.append(f"what came behind {found}, in the decay of the shorter run, is replaced")
            return found, taken + notes + explain_last_death(path, splits, on_gpu=on_gpu), decayed

        found, notes, decayed = world.broadcast_from_rank0(look)
        bad = world.broadcast_from_rank0(lambda: read_deadly_samples(path))
        yield RunFolder(
            path=path,
            checkpoint=found,
            notes=notes,
            log=RunLog(path, session.console, config=config, rank=world.rank, world=world.size, told=told),
            journal=Journal(folder=path, rank=world.rank, bad=bad),
            decayed=decayed,
            mirror=mirror,
        )


def check_folder(session: Session[Any], *others: Split, begins_from: Path | None = None) -> str:
    """The checkpoint that a run would go on from, empty for a new one; it writes nothing.  Rank 0 calls it.

    Arguments are those of `take_folder`.  Raises UserError as that does.
    """
    config = session.config
    path = rundir.run_folder(config)
    rundir.check_unlocked(config)
    rundir.check_same(path, config)
    mirror = Mirror(config, print) if config.run.mirror else None
    if mirror and (newer := newer_in_mirror(mirror, path)):
        return f"{newer} of the mirror {mirror.place}"
    found, _ = _look_into(session, _splits_of(session, others), begins_from, note=False)
    return found.name if found else ""


def _splits_of(session: Session[Any], others: Sequence[Split]) -> list[Split]:
    """All splits that a run reads."""
    return [session.split, *([session.heldout] if session.heldout else []), *others]


def _look_into(
    session: Session[Any], splits: Sequence[Split], begins_from: Path | None, *, note: bool
) -> tuple[Path | None, list[str]]:
    """The checkpoint in the run's folder that it goes on from, and lines for the log.

    note: whether the versions of a store's shards are noted in the folder.  Raises UserError.
    """
    path = rundir.run_folder(session.config)
    again = rundir.with_weights(path, session.config)
    found, damaged = newest_checkpoint(path, session.split, again, session.config)
    check_begun(path, found, begins_from)
    notes = [f"{each} is damaged and was passed over" for each in damaged]
    return found, notes + check_seen(path, splits, resumed=found is not None, note=note)


def newest_checkpoint(
    folder: Path, split: Split, again: str = "", config: Config | None = None
) -> tuple[Path | None, list[Path]]:
    """The checkpoint that a run of a split goes on from, if any, and damaged ones that were passed over.

    again: how a new run begins with its weights, for people; config: the run's, which may prolong another.
    Raises UserError: none of them is whole, or from before the decay; the newest has seen other samples.
    """
    config, samples = config or Config(), split.manifest.samples
    found, damaged = checkpoint.newest(folder / "ckpt", lambda path: had_these_rates(path, config, samples))
    if found is None and checkpoint.complete(folder / "ckpt"):
        raise UserError(
            f"{folder} cannot be prolonged: it has no checkpoint from before its decay and that of these "
            f"settings, which begins at step {stable_steps(config.optim, samples)}: give another "
            f"--run.name{again}"
        )
    if found is not None:
        state, ours = checkpoint.read_state(found), split.manifest.fingerprint
        theirs = state.fingerprint
        # imported weights have seen no data: `turbomim import` leaves the fingerprint to the first run
        if theirs != ours and (theirs or state.step):
            raise UserError(
                f"{split.place} is not the data set of {found} (fingerprint {ours[:12]}, the checkpoint's is "
                f"{theirs[:12]}): give the same shards, or another --run.name{again}"
            )
    return found, damaged
