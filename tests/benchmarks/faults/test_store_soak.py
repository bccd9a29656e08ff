"""A short soak: a store that fails at every fifth request, and four kills, lose, double and swap no sample.

Planted, each seen to fail: a short answer that is taken (`_short` not raised); a reader that goes on one
micro-batch too early, or too late.
"""

from pathlib import Path

import pytest

from turbomim.benchmarks.faults import store_soak
from turbomim.benchmarks.faults.store_soak import Tally, soak, total
from turbomim.benchmarks.stores.weed import weed_server


def test_a_short_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_soak, "STAGE_KILLS", 4)
    monkeypatch.setattr(store_soak, "SERVER_KILL", 2)
    # the command sets what names the server
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "")
    with weed_server(tmp_path / "server") as server:
        tallies = list(soak(server, tmp_path, samples=200, faults=200, kills=4, done=[]))
    (tally,) = tallies
    assert tally.whole
    assert (tally.reader_kills, tally.server_kills) == (3, 1)
    sums = total(tallies)
    assert sums["faults"] >= 200 and len(sums["by_kind"]) >= 8
    assert tally.position == tally.samples >= 3 * store_soak.BATCH


def test_what_is_lost_doubled_or_swapped_is_counted() -> None:
    """Lines of a reader that passed over a micro-batch, gave one twice, or gave a sample's other bytes."""
    import json
    from collections.abc import Iterator

    import numpy as np

    from turbomim.pipeline.stream.turns import Turn

    truth = [(sample, 0, f"digest {sample}") for sample in range(256)]

    def expected() -> Iterator[Turn]:
        for first in range(0, 256, 64):
            ids_B = np.arange(first, first + 64)
            yield Turn(position=first, epochs_B=np.zeros(64, np.int64), ids_B=ids_B)

    def line(position: int, *, wrong: int = 0) -> str:
        rows = [[*truth[sample]] for sample in range(position, position + 64)]
        for row in rows[:wrong]:
            row[2] = "other"
        return json.dumps([position, rows])

    def counted(*lines: str) -> tuple[int, bool, bool, bool]:
        tally = Tally(stage=0, position=0)
        store_soak.compare(tally, [*lines], expected(), truth)
        return tally.position, bool(tally.lost), bool(tally.doubled), bool(tally.swapped)

    assert counted(line(0), line(64)) == (128, False, False, False)
    assert counted(line(0), line(128)) == (128, True, False, True)
    assert counted(line(0), line(0)) == (128, False, True, True)
    assert counted(line(0), line(64, wrong=1)) == (128, False, False, True)
