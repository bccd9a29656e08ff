"""`turbomim demo`: the whole way on photographs that ordinary Python packages ship.

With nothing to download.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError, one_line, to_stderr
from turbomim.pipeline.system.words import duration, sized
from turbomim.train.demo.photos import PhotosReport, cut_photos
from turbomim.train.demo.which_photograph import table_of_shares, which_photograph
from turbomim.train.export.timm import CREATE
from turbomim.train.export.weights import loaded_from
from turbomim.train.folder.log import Record, after_start, mean_over_time, read_metrics, seconds_of
from turbomim.train.machine.processor import cores
from turbomim.train.pictures.plot import draw_run_curves, series
from turbomim.train.pictures.reconstruction import draw_reconstructions
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.table import recipe
from turbomim.train.report.report import write_report
from turbomim.train.settings.config import Config
from turbomim.train.terminal.streams import print_plain, printing_never_raises

IMAGES = 480


def demo(
    folder: Path,
    *,
    epochs: float | None = None,
    images: int = IMAGES,
    compile_step: bool = True,
    console: Console | None = None,
) -> None:
    """Photographs, shards, pre-training, pictures and export under `folder`.

    A second call resumes or says done.

    Raises UserError for anything a user or a machine caused.
    """
    console = console or Console()
    begun = time.monotonic()
    report = cut_photos(folder / "photographs", images=images)
    print_stage(console, "1/4", describe_photographs(report))
    for split in ("train", "heldout"):
        make_demo_shards(folder / "photographs" / split, folder / "shards" / split, split)
    print_stage(console, "2/4", f"shards for training and for looking in {folder / 'shards'}")
    config = demo_config(folder, epochs, compile_step)
    print_stage(
        console, "3/4", "pre-training PixMIM; the first step compiles the model, which takes a while on a CPU"
    )
    outcome = pretrain(config, console=console)
    if outcome.status != "done":
        return
    records = read_metrics(folder / "metrics.jsonl")
    draw_run_curves(records, folder / "loss.png", "turbomim demo: PixMIM on photographs")
    draw_reconstructions(folder, images=5, out=folder / "reconstruction.png")
    asked = which_photograph(folder, Path(config.data.heldout))
    write_report([folder], folder / "report.html")
    print_stage(
        console,
        "4/4",
        f"pictures drawn, features scored, report written; {duration(time.monotonic() - begun)} in all",
    )
    print_if_possible(console, closing_words(folder, records, asked))


def print_stage(console: Console, number: str, text: str) -> None:
    """One line of progress."""
    print_if_possible(console, f"[{number}] {text}")


def print_if_possible(console: Console, text: str) -> None:
    """Print a text; a terminal that is gone stops no demo."""
    with printing_never_raises(
        console, lambda error: to_stderr(f"the demo goes on, but cannot print: {one_line(error)}")
    ):
        print_plain(console, text)


def describe_photographs(report: PhotosReport) -> str:
    """What was cut, in a line."""
    return (
        f"{report.train_images} JPEGs of {len(report.train_sources)} photographs to train on, "
        f"{report.heldout_images} of {len(report.heldout_sources)} others held out; "
        f"{sized(report.bytes)}"
    )


def make_demo_shards(source: Path, target: Path, split: str) -> None:
    """Make the shards of a split unless they are there: whole or not at all.

    Raises UserError if the folder holds something else.
    """
    if (target / "manifest.json").exists():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    make_shards(source, part, ShardSettings(name="demo", split=split, shard_size=100), workers=cores())
    try:
        part.rename(target)
    except OSError as error:
        raise UserError(f"{target} holds something else: choose another --folder, or remove it") from error


def demo_config(folder: Path, epochs: float | None, compile_step: bool) -> Config:
    """The demo recipe, its run folder being the demo's."""
    config = recipe("demo")
    optim = config.optim
    if epochs is not None:
        optim = dataclasses.replace(optim, epochs=epochs, warmup_epochs=min(optim.warmup_epochs, epochs / 4))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, path=str(folder / "shards" / "train"), heldout=str(folder / "shards" / "heldout")
        ),
        optim=optim,
        step=dataclasses.replace(config.step, compile=compile_step),
        run=dataclasses.replace(config.run, folder=str(folder.parent), name=folder.name),
    )


def closing_words(folder: Path, records: list[Record], asked: dict[str, Any] | None) -> str:
    """What came out, where it is, and what to try next."""
    scores = f"\n{table_of_shares(asked)}\n  (kept in {folder / 'eval' / 'source.json'})\n" if asked else ""
    losses = series(records, "loss")[1]
    steps, heldout = series(records, "heldout_loss")
    timed = after_start(records)
    rate, wait = mean_over_time(timed, "img_per_s"), mean_over_time(timed, "data_wait_pct")
    seconds = sum(seconds_of(record) for record in timed)
    encoder = folder / "export"
    return f"""
done: {records[-1]["position"]} samples seen, {rate:.0f} img/s, {wait:.1f} % of the time waiting for data, \
{duration(seconds)} of training
masked-patch loss: training {losses[-1]:.3f}; held-out photographs {heldout[0]:.3f} at step \
{steps[0]:.0f}, {heldout[-1]:.3f} at the end \
(1.0 is what predicting nothing scores)
{scores}
  {folder / "report.html"}   all of it on one page: open it in a browser
  {folder / "reconstruction.png"}   held-out photographs, masked, reconstructed
  {folder / "loss.png"}   the curves
  {folder / "metrics.jsonl"}   every log line
  {folder / "ckpt"}   checkpoints
  {encoder}   the encoder, for timm:
      {loaded_from(CREATE, encoder)}

next, with your own photographs:
  turbomim shard make FOLDER shards/mine/train
  turbomim pretrain demo --data.path shards/mine/train --run.name mine
  turbomim show runs/mine
  turbomim recipes          the published settings, for ImageNet and real GPUs
  turbomim doctor           what this machine has, and what will be slow on it"""
