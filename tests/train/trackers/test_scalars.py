from tests.train.folder.test_seeing import RECORD

from turbomim.train.trackers.scalars import SCALARS, scalars_of


def test_numbers_that_are_not_finite_or_missing_are_left_out() -> None:
    names = scalars_of(RECORD)
    assert names["loss/train"] == 0.4231 and names["throughput/device/mfu"] == 0.401
    of_finetuning = {"loss/test", "eval/finetune_top1", "eval/finetune_top5"}
    assert set(names) == set(SCALARS.values()) - of_finetuning
    assert "loss/train" not in scalars_of(RECORD | {"loss": None})
