"""Which files of a run folder are copied to its mirror, under the same names.

All but what is temporary, eval/ (runs and scores of their own) and wandb/.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from turbomim.train.folder import checkpoint

LEASE: Final = "lease.json"
OF_CHECKPOINT: Final = (*checkpoint.FILES, "SHA256SUMS", "COMPLETE")
# folders of a run that are no part of its copy
APART: Final = ("ckpt", "eval", "wandb")


def whole_in(files: Iterable[str]) -> list[str]:
    """Names of the checkpoints that are whole in a listing, newest first."""
    there = set(files)
    names = {name.split("/")[1] for name in there if re.fullmatch(r"ckpt/step-\d{8}/COMPLETE", name)}
    whole = [name for name in names if there.issuperset(f"ckpt/{name}/{file}" for file in OF_CHECKPOINT)]
    return sorted(whole, reverse=True)


def is_copied(name: str) -> bool:
    """Whether a file of a run folder, "/" between folders, is copied besides checkpoints."""
    *folders, file = name.split("/")
    hidden = any(part.startswith(".") or not part for part in (*folders, file))
    other = file == "lock" or file.startswith("decoding-") or name == LEASE
    return not hidden and not other and (folders or [""])[0] not in APART


def is_unfinished(name: str) -> bool:
    """Whether a file is the temporary one of a write, which `whole_file` gives another name at its end."""
    file = name.split("/")[-1]
    return file.startswith(".") and file.endswith(".tmp")


def files_of(folder: Path) -> list[str]:
    """The files of a run folder that are copied, but for checkpoints; links are not ours to follow."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent).relative_to(folder)
        # they are not walked into
        folders[:] = [name for name in folders if is_copied((here / name / "file").as_posix())]
        found += [(here / name).as_posix() for name in files if not Path(parent, name).is_symlink()]
    return sorted(name for name in found if is_copied(name))
