"""Results of evaluations: kept beside the run, or in a file, and printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from turbomim.pipeline.system.durable import check_writable, read_json, write_json
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.source import Source
from turbomim.train.terminal.streams import table_console
from turbomim.train.trackers.tensorboard import tensorboard_scores

Scores = dict[str, dict[str, float]]
# of a result, what decides it besides the weights
SETTINGS = (
    "augment", "size", "train", "train_samples", "test", "epochs", "warmup_epochs", "lr", "head_batch", "seed"
)  # fmt: skip


def result_file(wanted: Path | None, source: Source, name: str) -> Path | None:
    """Where a result goes: the file that is wanted, else RUN/eval/NAME.json; of a FILE's encoder nowhere.

    Raises UserError, before the work, if it cannot be written.
    """
    if wanted is not None and wanted.is_dir():
        raise UsageError(f"--json {wanted} is a folder: give a file")
    path = source.folder / f"{name}.json" if wanted is None and source.step is not None else wanted
    if path is not None:
        try:
            check_writable(path.parent)
        except UserError as error:
            raise UserError(f"{error}; --json FILE puts the result elsewhere") from error
    return path


def write_result(result: Mapping[str, Any], path: Path | None, *, beside_run: bool) -> str:
    """Write a result to its file, if it has one; beside_run: that of its run.

    `turbomim report`, `compare` and the model card of an export read what is there; TensorBoard gets it too.
    Returns which result of other settings gave way to it; empty if none did.
    """
    line = replaced_result(result, path) if path is not None and beside_run else ""
    if path is not None:
        write_json(path, result)
    if "run" in result:
        tensorboard_scores(Path(result["run"]), result["step"], result["scores"])
    return line


def replaced_result(result: Mapping[str, Any], path: Path) -> str:
    """Which result of other settings, in the file, gives way to this one; empty if none does."""
    before = read_json(path)
    other = [key for key in SETTINGS if key in before and before[key] != result.get(key)]
    changes = "; ".join(f"{key} {before[key]}, now {result.get(key)}" for key in other)
    return changes and f"{path} was of other settings ({changes}) and is replaced: --json FILE keeps both"


def sample_counts(split: Literal["train", "test"], asked: int, used: int) -> dict[str, int]:
    """What a result says of a split: the samples that it is of, and how many of those asked for are not."""
    return {f"{split}_samples": used, f"{split}_left_out": asked - used}


def left_out_words(result: Mapping[str, Any], split: Literal["train", "test"]) -> str:
    """How many samples of a split a result is not of, after the number that it is of; empty for none."""
    count = result.get(f"{split}_left_out", 0)
    return f" ({count:,} left out)" if count else ""


def source_name(result: Mapping[str, Any]) -> str:
    """What was evaluated."""
    if "run" not in result:
        return str(result["file"])
    average = f", moving average of the weights (optim.ema {result['ema']:g})" if "ema" in result else ""
    return f"{result['run']}, step {result['step']}{average}"


def print_table(result: dict[str, Any]) -> None:
    """The scores in %, one feature a line."""
    scores: Scores = result["scores"]
    columns = list(next(iter(scores.values())))
    table = Table(
        title=(
            f"{source_name(result)}: {result['train_samples']:,} samples of "
            f"{result['train']} to learn from{left_out_words(result, 'train')}, "
            f"{result['test_samples']:,} of {result['test']} scored{left_out_words(result, 'test')}, %"
        ),
        title_justify="left",
    )
    table.add_column("features")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in scores.items():
        table.add_row(name, *(f"{100 * values[column]:.1f}" for column in columns))
    table_console().print(table, markup=False)
