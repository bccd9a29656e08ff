"""Planted bugs, and the test that each makes fail:

- no purge_step: `test_tensorboard_forgets_steps_after_the_resumed_one`;
- scores written beside the run's own events: `test_scores_are_a_curve_of_their_own`;
- nothing sent of the steps before it was switched on: `test_switched_on_later_it_has_the_whole_curve`;
- the last step taken for the checkpoint's, or of hidden events:
  `test_switched_off_for_a_while_it_lacks_nothing`.
"""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.runs import quiet
from tests.train.trackers.killed import drawn, killed_and_resumed

from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import read_metrics
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.trackers.tensorboard import TensorBoard, tensorboard_scores


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_forgets_steps_after_the_resumed_one(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = killed_and_resumed(drawn(tiny_split.folder, tmp_path, tensorboard=True), monkeypatch)
    events = read(tmp_path / "r" / "tb")
    losses, steps = events.Scalars("loss/train"), len(records)
    assert [event.step for event in losses] == list(range(1, steps + 1)), "none twice, none missing"
    assert [event.value for event in losses] == pytest.approx([record["loss"] for record in records])
    assert [event.step for event in events.Images("reconstruction")] == [*range(5, steps, 5), steps]


def test_switched_on_later_it_has_the_whole_curve(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = drawn(tiny_split.folder, tmp_path)
    records = killed_and_resumed(config, monkeypatch)
    pretrain(drawn(tiny_split.folder, tmp_path, tensorboard=True), console=quiet())
    assert read_metrics(tmp_path / "r" / "metrics.jsonl") == records, "the run was done"
    assert [event.step for event in read(tmp_path / "r" / "tb").Scalars("loss/train")] == [
        record["step"] for record in records
    ]


def test_switched_off_for_a_while_it_lacks_nothing(tmp_path: Path) -> None:
    def draw(after: int, until: int) -> list[int]:
        board = TensorBoard(tmp_path, after)
        for step in range(board.last_step + 1, until + 1):
            board.scalars(step, {"loss/train": 1.0})
        board.close(failed=False)
        return [event.step for event in read(tmp_path / "tb").Scalars("loss/train")]

    # killed at 9 and at 6, each time after a checkpoint at 4; gone on with to 12 without TensorBoard
    assert draw(0, 9) == [*range(1, 10)]
    assert draw(4, 6) == [*range(1, 7)]
    assert draw(12, 14) == [*range(1, 15)]


def test_scores_are_a_curve_of_their_own(tmp_path: Path) -> None:
    scores = {"trained: mean": {"20 neighbours": 0.25, "weighted": 0.5}}
    tensorboard_scores(tmp_path, 6, scores)
    assert list(tmp_path.iterdir()) == [], "a run without TensorBoard gets none"
    (tmp_path / "tb").mkdir()
    tensorboard_scores(tmp_path, 6, scores)
    assert [path.name for path in (tmp_path / "tb").iterdir()] == ["eval"], "the run's own file is left alone"
    events = EventAccumulator(str(tmp_path / "tb" / "eval"))
    events.Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert len(found) == 2 and [(6, 0.25)] in found.values() and [(6, 0.5)] in found.values()
    assert all(name.startswith("eval/") for name in found)
