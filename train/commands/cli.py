"""`turbomim …`: argv to one function call.  Exit codes: 0 done or preempted, 1 error, 2 usage."""

import importlib
import os
import sys
import traceback
import warnings
from typing import Final, NoReturn

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError, unknown_name
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.system.remedies import OF_THE_MACHINE, remedy
from turbomim.train.machine.compiler import advice_on_cache
from turbomim.train.machine.home import ensure_home
from turbomim.train.terminal.interrupts import ending_when_interrupted
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
  bench store                   what shards in a bucket cost, beside a folder and beside other loaders
  bench groups                  what data.groups saves in traffic, and costs in shuffling
  bench gpu                     what to run first on a machine with a GPU: tests, rates, profiles, one file
  doctor [--measure]            versions, devices, and what will be slow on this machine and why

`turbomim pretrain --help` lists every setting; most other commands have --help too.
What a user or a file caused ends in one line; with --traceback the whole error stands before it."""

# each command: the file that it lives in, and there its function of argv
COMMANDS: Final = {
    "demo": "train.commands.demo:demo_command",
    "shard make": "train.commands.shard.make:shard_make_command",
    "shard index": "train.commands.shard.index:shard_index_command",
    "shard verify": "train.commands.shard.verify:shard_verify_command",
    "shard inspect": "train.commands.shard.inspect:shard_inspect_command",
    "shard cat": "train.commands.shard.cat:shard_cat_command",
    "pretrain": "train.commands.pretrain:pretrain_command",
    "recipes": "train.commands.recipes:recipes_command",
    "show": "train.commands.show:show_command",
    "report": "train.commands.report:report_command",
    "compare": "train.commands.compare:compare_command",
    "eval knn": "train.commands.eval.frozen:eval_knn_command",
    "eval linear": "train.commands.eval.linear:eval_linear_command",
    "eval finetune": "train.commands.eval.finetune:eval_finetune_command",
    "analyze frequency": "train.analyze.frequency:analyze_frequency_command",
    "analyze layers": "train.analyze.layers:analyze_layers_command",
    "analyze coverage": "train.analyze.coverage:analyze_coverage_command",
    "analyze flatness": "train.analyze.flatness:analyze_flatness_command",
    "analyze avgdist": "train.analyze.avgdist:analyze_avgdist_command",
    "analyze robustness": "train.analyze.robustness:analyze_robustness_command",
    "embed": "train.commands.embed:embed_command",
    "import": "train.commands.import_:import_command",
    "export": "train.commands.export:export_command",
    "tune loader": "train.commands.tune.loader:tune_loader_command",
    "tune step": "train.commands.tune.step:tune_step_command",
    # the trainer imports no benchmark: these are reached by name alone
    "bench loader": "benchmarks.loader.bench:bench_loader_command",
    "bench groups": "benchmarks.loader.groups:bench_groups_command",
    "bench kernels": "benchmarks.kernels.bench:bench_kernels_command",
    "bench step": "benchmarks.step.bench:bench_step_command",
    "bench store": "benchmarks.stores.bench:bench_store_command",
    "bench train": "benchmarks.step.train:bench_train_command",
    "bench all": "benchmarks.all:bench_all_command",
    "bench gpu": "benchmarks.gpu.bench:bench_gpu_command",
    "bench report": "benchmarks.report:bench_report_command",
    "doctor": "train.commands.doctor:doctor_command",
}


def find_function(argv: list[str]) -> tuple[str, list[str]]:
    """FILE:FUNCTION of the command that argv, not empty, begins with, and the rest of argv.

    Raises UsageError if there is none of that name.
    """
    commands = {tuple(name.split()): function for name, function in COMMANDS.items()}
    for words in (1, 2):
        if tuple(argv[:words]) in commands:
            return commands[tuple(argv[:words])], argv[words:]
    verbs = [words[1] for words in commands if words[0] == argv[0] and len(words) == 2]
    if not verbs:
        raise unknown_name("unknown command", argv[0], dict.fromkeys(words[0] for words in commands))
    if len(argv) == 1 or argv[1] in ("", "-h", "--help"):
        raise UsageError(f"{argv[0]} needs a command: {', '.join(verbs)} (each has --help)")
    raise unknown_name(f"unknown {argv[0]} command", argv[1], verbs)


def import_and_call(function: str, argv: list[str]) -> None:
    """Call FILE:FUNCTION, imported only now: most import torch, which takes seconds."""
    file, _, name = function.partition(":")
    getattr(importlib.import_module(f"turbomim.{file}"), name)(argv)


def call(argv: list[str]) -> None:
    """Call what argv names.  Raises UserError, OSError, SystemExit."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        if not argv:
            raise SystemExit(2)
    elif argv[0] == "--version":
        print(__version__)
    else:
        import_and_call(*find_function(argv))


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
        helps = remedy(error, advice_on_cache(error))
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
        with ending_when_interrupted():
            ensure_home()
            call(argv)
        # what cannot be written is said here, not by the interpreter on its way out
        sys.stdout.flush()
    except (UserError, OSError, KeyboardInterrupt) as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        _end(error)
