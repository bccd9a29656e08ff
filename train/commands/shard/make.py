"""`turbomim shard make SRC DST`: images to WebDataset shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from turbomim.pipeline.making.pack import PackReport, describe_make
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.system.executors import open_executor
from turbomim.pipeline.tars.manifest import MAKING
from turbomim.train.api.shard import shard
from turbomim.train.machine.processor import cores
from turbomim.train.settings.flags import arguments_of, parse, python_bools
from turbomim.train.terminal.streams import print_plain


@dataclass(frozen=True, kw_only=True)
class ShardMake(ShardSettings):
    """Pack images into WebDataset shards.

    The same command resumes a run that was killed or failed, and does nothing after one that is done.
    """

    src: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="SRC",
            help="Folder with a folder of images a class, or of images alone (no labels), or a .csv, .tsv or "
            ".txt list of paths and labels; a folder may be one of a store: s3://BUCKET/FOLDER, gs://, az:// "
            "or hf://.",
        ),
    ]
    dst: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DST")]
    """Folder for one split, or s3://BUCKET/FOLDER, gs:// or az://: new, empty, or of an unfinished run."""
    workers: int = cores()
    """Processes; the output is the same for any number."""
    executor: str = "local"
    """local, or dask:ADDRESS of a Dask scheduler, whose workers see SRC and DST and have a store's keys."""
    lock: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Keep a second process out of DST; false where its file system has no locks (a store always does)."""


def shard_make_command(argv: list[str]) -> None:
    """`turbomim shard make SRC DST …`.  Raises UserError."""
    pack(parse(ShardMake, python_bools(argv), "turbomim shard make"), Console())


def pack(options: ShardMake, console: Console) -> PackReport:
    """Make shards, show how far it is, and say what was written and left out.  Raises UserError."""
    begun = time.perf_counter()
    with open_executor(options.executor) as executor:
        try:
            report = shard(**arguments_of(options) | {"executor": executor}, console=console)
        except KeyboardInterrupt:
            if is_remote(options.dst) or Path(options.dst, MAKING).exists():
                print_plain(console, "finished shards are kept: the same command resumes")
            raise
    print_plain(console, describe_make(report, time.perf_counter() - begun))
    return report
