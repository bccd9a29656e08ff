"""The names of a fine-tuning's classes, kept in its folder: shards may move, and then nobody knows them."""

import json
from pathlib import Path

from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.tars.split import open_split
from turbomim.train.settings.finetune import FinetuneConfig

FILE = "classes.json"


def write_class_names(folder: Path, names: tuple[str, ...]) -> None:
    """Write classes.json, the names by label."""
    write_json(folder / FILE, list(names))


def read_class_names(folder: Path, config: FinetuneConfig) -> tuple[str, ...]:
    """A name for each of the head's outputs: the train split's, and the number of an output without one.

    An older fine-tuning has no classes.json: its train shards are asked, if they are still there.
    Raises UserError for a file that is no list of names, or has more names than the head has outputs.
    """
    path, outputs = folder / FILE, config.finetune.classes
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = _names_of_shards(config.data.path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}: restore it, or remove it") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is no list of names: restore it, or remove it")
    if len(names) > outputs:
        raise UserError(
            f"{path} has {len(names)} names, the head {outputs} outputs: restore it, or remove it"
        )
    return (*names, *map(str, range(len(names), outputs)))


def _names_of_shards(path: str) -> list[str]:
    if is_remote(path) or not Path(path).is_dir():
        return []
    try:
        return [*open_split(path).manifest.classes]
    except UserError:
        return []
