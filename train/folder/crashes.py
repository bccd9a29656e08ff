"""What a process that died leaves in its run folder, and what the next one makes of it.

The samples that were under way are decoded one by one in a process of its own.  One that ends that process,
too, goes on a list beside the run: from then on it is replaced, as any that does not decode, on all ranks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from turbomim.pipeline.decoding.try_images import deadly_samples
from turbomim.pipeline.decoding.under_way import forget_under_way, left_under_way
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import rundir
from turbomim.train.folder.log import read_metrics

DEADLY_LIST: Final = "deadly.jsonl"


def read_deadly_samples(folder: Path) -> dict[str, dict[int, str]]:
    """Read a run's list: by a split's fingerprint, the reason of each sample that no process survives.

    Raises UserError if it is not one.
    """
    found: dict[str, dict[int, str]] = {}
    path = folder / DEADLY_LIST
    try:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            found.setdefault(entry["fingerprint"], {})[int(entry["sample"])] = str(entry["reason"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a list of samples: remove it, and run the same command again"
        ) from error
    return found


def explain_last_death(folder: Path, splits: Sequence[Split], *, on_gpu: bool) -> list[str]:
    """Say in lines how the last process ended, if it could not, and put samples that ended it on the list.

    Call it with the folder locked.  on_gpu: photographs are decoded there.
    """
    status = rundir.read_status(folder)
    under_way = left_under_way(folder)
    if status.get("status") != "running" and not under_way:
        return []
    step = max((record["step"] for record in read_metrics(folder / "metrics.jsonl")), default=0)
    said = [
        f"a process of this run died after step {step} without a word: it was killed, memory ran out, or a "
        "library crashed"
    ]
    known, some_untried = read_deadly_samples(folder), False
    for split in splits:
        fingerprint = split.manifest.fingerprint
        before = known.setdefault(fingerprint, {})
        left = [sample for sample in under_way.get(fingerprint, ()) if sample not in before]
        if not left:
            continue
        deadly, untried = deadly_samples(split, left, on_gpu=on_gpu)
        before |= deadly
        said += [
            f"{split.locate(sample)}: {how}; it is replaced from now on" for sample, how in deadly.items()
        ]
        if untried:
            said.append(f"of {counted(len(left), 'sample')} under way not all could be tried: {untried}")
            some_untried = True
        elif not deadly:
            said.append(f"no process dies over any of the {counted(len(left), 'sample')} under way")
    entries = [
        {"fingerprint": fingerprint, "sample": sample, "reason": reason}
        for fingerprint, samples in known.items()
        for sample, reason in sorted(samples.items())
    ]
    if entries:
        write_durably(folder / DEADLY_LIST, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    if not some_untried:
        forget_under_way(folder)
    return said
