"""Options that several commands have, each with its one help text; `flags.parse` reads dataclasses of them.

It imports tyro: only files of commands import it.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from turbomim.train.settings.config import Device

_FILE = "or an export's folder, or a FILE with a plain ViT, timm's or MAE's."
PretrainedPath = Annotated[
    Positional[Path],
    arg(metavar="RUN|FILE", help=f"Run folder, runs/NAME, whose newest whole checkpoint counts; {_FILE}"),
]
EncoderPath = Annotated[
    Positional[Path],
    arg(
        metavar="RUN|FILE",
        help="Run folder, runs/NAME, or a fine-tuning's, RUN/eval/finetune, whose newest whole checkpoint "
        f"counts; {_FILE}",
    ),
]
ImageSource = Annotated[
    Positional[str],
    arg(
        metavar="SOURCE",
        help="Folder of images, or of a folder of images a class; a list as `shard make` takes; or shards.",
    ),
]
# one run or more; what is done with them each command says
RunPaths = Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN …", help_behavior_hint="")]
ShardsPath = Annotated[
    Positional[str],
    arg(
        metavar="PATH",
        help="Split made by `turbomim shard make` or `turbomim shard index`: its folder, or its URL, "
        "s3://BUCKET/FOLDER.",
    ),
]
LearnedSplit = Annotated[str, arg(metavar="SHARDS", help="Labelled split that is learned from.")]
ScoredSplit = Annotated[str, arg(metavar="SHARDS", help="Labelled split that is scored, all of it.")]
CropSize = Annotated[
    int | None,
    arg(help="Side of the crops, pixels; the encoder's if not given.  Another resamples its positions."),
]
EncodingBatch = Annotated[int, arg(help="Images encoded at once: decides speed and memory alone.")]
EncodingDevice = Annotated[Device, arg(help="Where images are encoded.")]
