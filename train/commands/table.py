"""All commands: where each of them is, what follows its name, and a line on what it is for.

A command is found by the name of its file, which is imported only then: no command waits for what only
another needs.
"""

import importlib
from typing import Any, Final, NamedTuple


class Command(NamedTuple):
    """A command's FILE:FUNCTION of argv, the FILE:CLASS of its flags, and what help says of it.

    settings: the FILE:CLASS of the settings that it takes too, --section.field VALUE.  The files of both
    classes import no torch: --help and completion need not wait for it.
    """

    function: str
    options: str
    words: str
    about: str
    settings: str = ""


SETTINGS: Final = "train.settings.config:Config"
FINETUNE_SETTINGS: Final = "train.settings.finetune:FinetuneConfig"

COMMANDS: Final = {
    "demo": Command(
        "train.commands.demo:demo_command",
        "train.commands.demo:Demo",
        "",
        "the whole way, from photographs to a pre-trained encoder, in minutes",
    ),
    "shard make": Command(
        "train.commands.shard.make:shard_make_command",
        "train.commands.shard.make:ShardMake",
        "SRC DST",
        "a folder or a list (.csv, .tsv) of images to WebDataset shards; resumes",
    ),
    "shard index": Command(
        "train.commands.shard.index:shard_index_command",
        "train.commands.shard.index:ShardIndex",
        "PATH",
        "what foreign WebDataset shards need to be trained on",
    ),
    "shard verify": Command(
        "train.commands.shard.verify:shard_verify_command",
        "train.commands.shard.verify:ShardVerify",
        "PATH",
        "every checksum, every header and, with --images, every pixel",
    ),
    "shard inspect": Command(
        "train.commands.shard.inspect:shard_inspect_command",
        "train.commands.shard.inspect:ShardInspect",
        "PATH",
        "what is in a split, and with --sheet FILE.png some of it to look at",
    ),
    "shard cat": Command(
        "train.commands.shard.cat:shard_cat_command",
        "train.commands.shard.cat:ShardCat",
        "PATH SHARD.tar:KEY",
        "one image's bytes",
    ),
    "pretrain": Command(
        "train.commands.pretrain:pretrain_command",
        "train.commands.pretrain_help:Pretrain",
        "RECIPE --data.path PATH [--section.field VALUE …]",
        "pre-train; --help lists every setting, --dry-run says what would be trained",
    ),
    "recipes": Command(
        "train.commands.recipes:recipes_command",
        "train.commands.recipes:Recipes",
        "[NAME]",
        "the recipes in a table; of one its source, results, FLOPs and assumed hours",
    ),
    "show": Command(
        "train.commands.show:show_command",
        "train.commands.show:Show",
        "RUN",
        "reconstruction pictures of a run; --targets IMAGE: what the model must predict",
    ),
    "eval knn": Command(
        "train.commands.eval.knn:eval_knn_command",
        "train.commands.eval.options:Eval",
        "RUN|FILE",
        "nearest neighbours of frozen features, beside untrained ones and raw pixels",
        SETTINGS,
    ),
    "eval linear": Command(
        "train.commands.eval.linear:eval_linear_command",
        "train.commands.eval.options:EvalLinear",
        "RUN|FILE",
        "a linear layer on frozen features, solved or trained as in the papers",
        SETTINGS,
    ),
    "eval finetune": Command(
        "train.commands.eval.finetune:eval_finetune_command",
        "train.commands.eval.options:FinetuneHelp",
        "RUN|FILE",
        "what the encoder is worth where all of it is trained on labels",
        FINETUNE_SETTINGS,
    ),
    "embed": Command(
        "train.commands.embed:embed_command",
        "train.commands.embed:Embed",
        "RUN|FILE SOURCE --out FILE",
        "features of a folder of images, or of shards, as .npz or .safetensors",
        SETTINGS,
    ),
    "predict": Command(
        "train.commands.predict:predict_command",
        "train.commands.predict:Predict",
        "FINETUNING SOURCE --out FILE",
        "the likeliest classes of a folder of images, or of shards, as .csv, .jsonl or .npz",
    ),
    "analyze frequency": Command(
        "train.analyze.frequency:analyze_frequency_command",
        "train.analyze.options:Frequency",
        "RUN|FILE…",
        "how fine the features of each block are, by Fourier transforms",
        SETTINGS,
    ),
    "analyze layers": Command(
        "train.analyze.layers:analyze_layers_command",
        "train.analyze.options:Layers",
        "RUN",
        "which blocks an MFF run fuses, over its steps",
    ),
    "analyze coverage": Command(
        "train.analyze.coverage:analyze_coverage_command",
        "train.analyze.options:Coverage",
        "",
        "how much of images and objects crops and masks keep",
    ),
    "analyze flatness": Command(
        "train.analyze.flatness:analyze_flatness_command",
        "train.analyze.options:Flatness",
        "RUN…",
        "the leading eigenvalues of the loss's Hessian",
    ),
    "analyze avgdist": Command(
        "train.analyze.avgdist:analyze_avgdist_command",
        "train.analyze.options:AvgDist",
        "",
        "how far masked pixels are from visible ones",
    ),
    "analyze robustness": Command(
        "train.analyze.robustness:analyze_robustness_command",
        "train.analyze.options:Robustness",
        "RUN|FILE",
        "scores under noise, blur, contrast, brightness, JPEG and pixelation",
        SETTINGS,
    ),
    "report": Command(
        "train.commands.report:report_command",
        "train.commands.report:Report",
        "RUN [RUN…]",
        "one HTML page with everything about runs, for people and for print",
    ),
    "compare": Command(
        "train.commands.compare:compare_command",
        "train.commands.compare:Compare",
        "RUN RUN…",
        "runs side by side: settings, losses, scores, what must not be compared",
    ),
    "import": Command(
        "train.commands.import_:import_command",
        "train.commands.import_:Import",
        "FILE --from PROGRAM --run.name NAME",
        "begin a run with another program's weights",
        SETTINGS,
    ),
    "export": Command(
        "train.commands.export:export_command",
        "train.commands.export:Export",
        "RUN --to PROGRAM [--out FOLDER]",
        "a run's weights as other programs load them, checked, with a model card",
    ),
    "tune loader": Command(
        "train.commands.tune.loader:tune_loader_command",
        "train.commands.tune.options:TuneLoader",
        "--data SHARDS",
        "which settings of the loader are fastest here",
    ),
    "tune step": Command(
        "train.commands.tune.step:tune_step_command",
        "train.commands.tune.options:TuneStep",
        "RECIPE --data SHARDS",
        "which micro-batch, compile mode and recomputation are fastest here",
        SETTINGS,
    ),
    # the trainer imports no benchmark: these are reached by name alone
    "bench loader": Command(
        "benchmarks.loader.bench:bench_loader_command",
        "benchmarks.options:BenchLoader",
        "--images FOLDER",
        "the loader beside others, on your own photographs",
    ),
    "bench groups": Command(
        "benchmarks.loader.groups:bench_groups_command",
        "benchmarks.loader.groups:BenchGroups",
        "",
        "what data.groups saves in traffic, and costs in shuffling",
    ),
    "bench kernels": Command(
        "benchmarks.kernels.bench:bench_kernels_command",
        "benchmarks.options:BenchKernels",
        "",
        "masks, patches, targets and the loss, ours and others",
    ),
    "bench step": Command(
        "benchmarks.step.bench:bench_step_command",
        "benchmarks.options:BenchStep",
        "",
        "the training step beside a textbook MAE and Hugging Face's",
    ),
    "bench store": Command(
        "benchmarks.stores.bench:bench_store_command",
        "benchmarks.options:BenchStore",
        "",
        "what shards in a bucket cost, beside a folder and beside other loaders",
    ),
    "bench train": Command(
        "benchmarks.step.train:bench_train_command",
        "benchmarks.options:BenchTrain",
        "--data SHARDS",
        "training on shards beside the same step on a batch in memory",
    ),
    "bench all": Command(
        "benchmarks.all:bench_all_command",
        "benchmarks.all:parser",
        "",
        "loader, kernels, step and training, in ten minutes, to one file",
    ),
    "bench gpu": Command(
        "benchmarks.gpu.bench:bench_gpu_command",
        "benchmarks.gpu.bench:parser",
        "",
        "what to run first on a machine with a GPU: tests, rates, profiles, one file",
    ),
    "bench report": Command(
        "benchmarks.report:bench_report_command",
        "benchmarks.report:BenchReport",
        "",
        "tables and a plot of results",
    ),
    "doctor": Command(
        "train.commands.doctor:doctor_command",
        "train.commands.doctor:Doctor",
        "[--measure]",
        "versions, devices, and what will be slow on this machine and why",
    ),
}

# the first words of two: what their commands have in common
GROUPS: Final = {
    "shard": "images to shards, and what is in shards",
    "eval": "what an encoder's features are worth",
    "analyze": "features, fusion, loss surface, crops and masks in figures: JSON and PNG",
    "tune": "measure this machine's best settings, and keep them",
    "bench": "measure against others; report: tables and a plot of the results",
}


def verbs(group: str) -> list[str]:
    """The second words of a group's commands; none if there is no such group."""
    return [name.removeprefix(f"{group} ") for name in COMMANDS if name.startswith(f"{group} ")]


def imported(name: str) -> Any:
    """What FILE:NAME names, imported only now: most files of commands import torch, which takes seconds."""
    file, _, name = name.partition(":")
    return getattr(importlib.import_module(f"turbomim.{file}"), name)


def options_of(name: str) -> Any:
    """What a command's flags are of: a dataclass, or a function that gives a parser of argparse."""
    return imported(COMMANDS[name].options)
