"""The short form of the benchmark: a run out of a failing store has the losses of one from the disk.

Planted: a sample's neighbour in the place of it, in what a store gives (read_ahead.py).
"""

from pathlib import Path

from turbomim.benchmarks.faults.store_losses import STEPS, compare
from turbomim.benchmarks.stores.weed import Weed


def test_faults_and_a_kill_change_no_loss(store: Weed, s3: str, tmp_path: Path) -> None:
    rows = list(compare(tmp_path, store, ["disk", "S3, through faults"]))
    assert [(row["way"], row["steps"], row["same"]) for row in rows] == [
        ("disk", STEPS, True),
        ("S3, through faults", STEPS, True),
    ]
    assert rows[1]["faults"] >= 5
