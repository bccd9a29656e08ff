"""`turbomim …`: argv to one function call.  Exit codes: 0 done or preempted, 1 error, 2 usage."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import NoReturn

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError, unknown
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.system.remedies import OF_THE_MACHINE, remedy
from turbomim.train.machine.compile_cache import whose_cache
from turbomim.train.machine.home import settle_home
from turbomim.train.terminal.streams import prepare_streams

# also says the whole error, of any command
TRACEBACK = "--traceback"

USAGE = """usage: turbomim COMMAND …

  demo                          the whole way, from photographs to a pre-trained encoder, in minutes
  shard make SRC DST            a folder or a list (.csv, .tsv) of images to WebDataset shards; resumes
  shard index PATH              what foreign WebDataset shards need to be trained on
  shard verify PATH             every checksum, every header and, with --images, every pixel
  shard inspect PATH            what is in a split, and with --sheet FILE.png some of it to look at
  shard cat PATH SHARD.tar:KEY  one image's bytes
  pretrain RECIPE --data.path PATH [--section.field VALUE …] [--config FILE.yaml] [--preset GPU]
                  [--profile steps=10:15] [--dry-run [--world-size 64 [--img-per-s 2000]]]
  recipes                       the recipes, with their sources, results, FLOPs and assumed hours
  show RUN                      reconstruction pictures of a run; --targets IMAGE: what the model must predict
  eval knn|linear RUN|FILE      what the encoder's features are worth, beside untrained ones and raw pixels
  eval finetune RUN|FILE        what the encoder is worth where all of it is trained on labels
  embed RUN|FILE SOURCE --out FILE
                                features of a folder of images, or of shards, as .npz or .safetensors
  analyze frequency|layers|flatness|robustness RUN, analyze coverage|avgdist
                                features, fusion, loss surface, crops and masks in figures: JSON and PNG
  report RUN [RUN…]             one HTML page with everything about runs, for people and for print
  compare RUN RUN…              runs side by side: settings, losses, scores, what must not be compared
  import FILE --from mae|mmselfsup|mff|simmim|convmae|lsmae [--recipe NAME] --run.name NAME
                                begin a run with another program's weights
  export RUN --to timm|hf|detectron2|mmseg|mae|mmselfsup|safetensors [--out FOLDER]
                                a run's weights as other programs load them, checked, with a model card
  tune loader|step              measure this machine's best settings
  bench loader|kernels|step|train|all|report
                                measure against others; report: tables and a plot of the results
  bench gpu                     what to run first on a machine with a GPU: tests, rates, profiles, one file
  doctor [--measure]            versions, devices, and what will be slow on this machine and why

`turbomim pretrain --help` lists every setting; most other commands have --help too.
What a user or a file caused ends in one line; with --traceback the whole error stands before it."""

# a command's file, or those of its verbs; each has a function `command` of argv
COMMANDS: dict[str, str | dict[str, str]] = {
    "demo": "train.commands.demo",
    "shard": {verb: f"train.commands.shard.{verb}" for verb in ("make", "index", "verify", "inspect", "cat")},
    "pretrain": "train.commands.pretrain",
    "recipes": "train.commands.recipes",
    "show": "train.commands.show",
    "report": "train.commands.report",
    "compare": "train.commands.compare",
    "eval": {verb: f"train.commands.eval.{verb}" for verb in ("knn", "linear", "finetune")},
    "analyze": {
        verb: f"train.analyze.{verb}"
        for verb in ("frequency", "layers", "coverage", "flatness", "avgdist", "robustness")
    },
    "embed": "train.commands.embed",
    "import": "train.commands.import_",
    "export": "train.commands.export",
    "tune": {verb: f"train.commands.tune.{verb}" for verb in ("loader", "step")},
    # the trainer imports no benchmark: these are reached by name alone
    "bench": {
        "loader": "benchmarks.loader.bench",
        "kernels": "benchmarks.kernels.bench",
        "step": "benchmarks.step.bench",
        "train": "benchmarks.step.train",
        "all": "benchmarks.all",
        "gpu": "benchmarks.gpu.bench",
        "report": "benchmarks.report",
    },
    "doctor": "train.commands.doctor",
}


def _import_and_call(file: str, argv: list[str]) -> None:
    """Call the command of a file, imported only now: most import torch, which takes seconds."""
    importlib.import_module(f"turbomim.{file}").command(argv)


def _verb(command: str, files: Mapping[str, str], argv: list[str]) -> None:
    """Call the verb that argv begins with.  Raises UsageError if there is none of that name."""
    verb = argv[0] if argv else ""
    if verb in ("", "-h", "--help"):
        raise UsageError(f"{command} needs a command: {', '.join(files)} (each has --help)")
    if verb not in files:
        raise unknown(f"unknown {command} command", verb, files)
    _import_and_call(files[verb], argv[1:])


def call(argv: list[str]) -> None:
    """Call what argv names.  Raises UserError, OSError, SystemExit."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        if not argv:
            raise SystemExit(2)
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0] not in COMMANDS:
        raise unknown("unknown command", argv[0], COMMANDS)
    elif isinstance(file := COMMANDS[argv[0]], str):
        _import_and_call(file, argv[1:])
    else:
        _verb(argv[0], file, argv[1:])


def _drop_output() -> None:
    """Let what standard output still holds go nowhere, if nobody takes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(error: BaseException) -> NoReturn:
    """Say in one line what ended a command, and end the process."""
    if isinstance(error, BrokenPipeError):
        # the reader of our output went away
        _drop_output()
        raise SystemExit(1) from None
    if isinstance(error, KeyboardInterrupt):
        print("turbomim: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    text = str(error)
    if isinstance(error, OSError):
        # the system refused a file: its own words name the file and the reason
        helps = remedy(error, whose_cache(error))
        text += f"{helps and '; '}{helps}; `turbomim {TRACEBACK} COMMAND` shows where"
        _drop_output()
    elif isinstance(error.__cause__, OSError) and error.__cause__.errno in OF_THE_MACHINE:
        # whatever was to be read or written, this is what helps
        helps = remedy(error.__cause__, "")
        text += "" if helps in text else f"; {helps}"
    print(f"turbomim: {text}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


def main() -> None:
    """Run one command; what a user caused ends as one line on stderr and exit code 1."""
    argv = [word for word in sys.argv[1:] if word != TRACEBACK]
    prepare_streams()
    raise_limit()
    # of profiles and tags that nobody here reads, between other lines and without the file's name
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        settle_home()
        call(argv)
        # what cannot be written is said here, not by the interpreter on its way out
        sys.stdout.flush()
    except (UserError, OSError, KeyboardInterrupt) as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        _end(error)
