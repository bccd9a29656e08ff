"""`turbomim.shard`: photographs to WebDataset shards."""

from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from os import PathLike
from typing import Any

from rich.console import Console

from turbomim.pipeline.making.pack import PackReport, make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.train.machine.processor import cores
from turbomim.train.settings.dictionary import from_options
from turbomim.train.terminal.progress import image_bar


def shard(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    lock: bool = True,
    console: Console | None = None,
    **settings: Any,
) -> PackReport:
    """Pack photographs into the WebDataset shards of one split, as `turbomim shard make` does.

    A call that was killed is resumed by the same call.  The shards are the same bytes, whoever makes them.

    Example:
        made = turbomim.shard("photographs", "shards/train", store="resized", short_side=224)
        print(made.manifest.samples, made.manifest.classes, made.bad)

    Args:
        src: A folder with a folder of images a class, a folder of images alone (no labels), or a .csv, .tsv
            or .txt list of paths and labels.  It may be a URL, s3://BUCKET/FOLDER.
        dst: A folder or URL for the shards: new, empty, or of an unfinished call.
        workers: Processes.  None: a thread a core does the work.  A script that starts processes needs
            `if __name__ == "__main__":`.
        executor: Where the work is done instead: any executor of concurrent.futures.
        lock: Keep other processes out of dst.
        console: Where the bar is drawn; standard output if None.
        **settings: Options of `turbomim shard make` by their names:
            store: "original" (bytes as they are), "resized" (JPEG) or "raw" (pixels);
            short_side: pixels that resized and raw images have there, 224; resampling: "bicubic";
            quality: of resized JPEGs, 95; subsampling: of their colours, "4:4:4";
            shard_size: images a shard, 1000; shard_count: shards in all, in its place;
            name: first part of the shards' names, that of src; split: the second, "train";
            root: what the paths of a list start from, its folder; columns: of a list, "path=NAME,label=NAME";
            skip: names to pass over, "PATTERN[,PATTERN]"; min_side: pixels, shorter ones are left out, 32;
            check: "header" or "full" (every pixel); on_bad: "quarantine" (left out) or "fail";
            seed: of the shuffle, 0.

    Returns:
        What was written: `manifest` (shards, samples, classes, fingerprint), `bad` (images left out,
        with path and reason), `kept` (shards of an earlier call), `notes` (lines).

    Raises:
        UserError: A setting does not exist or cannot be, src has no image, dst holds something else, the disk
            is full, or an image is not fit where on_bad is "fail".
    """
    asked = from_options(settings, ShardSettings, "unknown setting of shard")
    raise_limit()
    on_threads = executor is None and workers is None
    threads = ThreadPoolExecutor(cores(), "turbomim-shard") if on_threads else nullcontext(executor)
    with image_bar(console or Console()) as bar, threads as place:
        return make_shards(
            src,
            dst,
            asked,
            workers=1 if workers is None else workers,
            executor=place,
            progress=bar.show,
            lock=lock,
        )
