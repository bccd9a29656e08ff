"""What weights a run began with, where these were no initial ones: import.json in its folder.

`turbomim import` writes it of a file, `turbomim pretrain --from` of another run.
"""

from pathlib import Path
from typing import Any, Final

from turbomim.pipeline.system.durable import read_json
from turbomim.pipeline.system.errors import UserError

RECORD: Final = "import.json"
# what stands in it for the program that wrote the weights where that is a run of ours
OURS: Final = "turbomim"


def read_begun(folder: Path) -> dict[str, Any]:
    """The record of a run; empty where there is none, or it cannot be read."""
    return read_json(folder / RECORD)


def begun_in_words(record: dict[str, Any]) -> str:
    """What a run began with, for people; empty for an empty record.

    `a.pth (mae), sha256 77ff`, or `runs/a at step 64, sha256 77ff`: of a path, which is nobody's business,
    the end.  A run that began so itself says it, too.
    """
    if not record:
        return ""
    path, digest = Path(str(record.get("file"))), f"sha256 {record.get('sha256')}"
    if record.get("from") != OURS:
        # a URL of the Hub is everybody's, and its file's name says nothing
        file = str(record.get("file"))
        return f"{file if file.startswith('hf://') else path.name} ({record.get('from')}), {digest}"
    before = record.get("before")
    first = begun_in_words(before) if isinstance(before, dict) else ""
    where = "/".join(path.parts[-2:])
    return f"{where} at step {record.get('step')}, {digest}" + (
        f", which began with {first}" if first else ""
    )


def check_begun(folder: Path, checkpoint: Path | None, run: Path | None) -> None:
    """Raise UserError if a run would begin, or has begun, with other weights than those that it is asked for.

    folder: of the run; checkpoint: what it goes on from, None where there is none; run: the one that it is
    asked to begin from, None if it is not asked.
    """
    record = read_begun(folder)
    if checkpoint is None and run is None and record:
        raise UserError(
            f"{folder} was to begin with {begun_in_words(record)}, and has no checkpoint: give "
            f"--from {record.get('file')} again, or another --run.name"
        )
    if checkpoint is not None and run is not None and record.get("file") != str(run.resolve()):
        raise UserError(
            f"{folder} holds a run that did not begin with the weights of {run}: leave --from out to go on "
            "with it, or give another --run.name"
        )
