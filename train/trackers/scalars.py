"""What of a log record trackers draw, and under which names."""

from collections.abc import Mapping
from typing import Any

SCALARS = {
    "loss": "loss/train",
    "heldout_loss": "loss/heldout",
    "test_loss": "loss/test",
    "test_top1": "eval/finetune_top1",
    "test_top5": "eval/finetune_top5",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "skipped": "optim/skipped_steps",
    "img_per_s": "throughput/img_per_s",
    "img_per_s_per_gpu": "throughput/device/img_per_s",
    "mfu": "throughput/device/mfu",
    "data_wait_pct": "time/data_wait_pct",
    "step_ms": "time/step_ms",
    "memory_gib": "memory/peak_gib",
    "epoch": "data/epoch",
    "replaced_total": "data/replaced",
}
# what the names of a method's own numbers begin with
OF_MODEL = "model/"
# and those of the scores of features
OF_EVAL = "eval/"


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log record under the names they are drawn by; missing and null ones are left out."""
    # a method's own numbers, and scores, are drawn by the names that they have
    names = SCALARS | {key: key for key in record if key.startswith((OF_MODEL, OF_EVAL))}
    return {name: float(record[key]) for key, name in names.items() if record.get(key) is not None}
