"""Which launch options `turbomim tune kernels` chooses, by a clock that is told the answer.

Which test fails for which mistake (each was made once, on purpose):
the slowest chosen, a change for next to nothing, options not passed on: test_chooses_the_fastest;
an option without room ends it: test_options_without_room_are_left_out;
the pinned options win over the tried ones: test_options_replace_the_pinned_ones.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from triton.runtime.errors import OutOfResources

from turbomim.kernels import masked_patches, masking
from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands.tune import kernels as tune_kernels
from turbomim.train.commands.tune.kernels import Launch, Options, command, launches, replacing, verdict

OPTIONS = tuple({"num_warps": warps} for warps in (1, 2, 4, 8))


def timed(times: dict[int, float], pinned: int = 4) -> str:
    """The verdict where each number of warps takes so many milliseconds; none: no room for it."""
    seen: list[Options] = []

    def clock(run: Callable[[], object]) -> float:
        run()
        warps = seen[-1].get("num_warps", pinned)
        if warps not in times:
            raise OutOfResources(2, 1, "shared memory")
        return times[warps]

    launch = Launch(name="kernel", run=seen.append, pinned={"num_warps": pinned}, options=OPTIONS)
    return verdict(launch, clock)


def test_chooses_the_fastest() -> None:
    slower = {1: 0.4, 2: 0.1, 4: 0.2, 8: 0.3}
    assert timed(slower) == (
        "kernel: pinned num_warps=4 200.0 µs, fastest num_warps=2 100.0 µs: change it to num_warps=2"
    )
    assert timed(slower, pinned=2).endswith("fastest num_warps=2 100.0 µs: keep it")
    # two percent is what measurements vary by
    assert timed({1: 1, 2: 0.098, 4: 0.1, 8: 1}).endswith("fastest num_warps=2 98.0 µs: keep it")


def test_options_without_room_are_left_out() -> None:
    assert timed({4: 0.2, 8: 0.3}).endswith("fastest num_warps=4 200.0 µs: keep it")


def test_options_replace_the_pinned_ones() -> None:
    calls: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments, **constants: calls.append((grid, arguments, constants))

    replacing({"num_warps": 8})(Kernel())[(3,)](1, 2, S=224, num_warps=4)
    assert calls == [((3,), (1, 2), {"S": 224, "num_warps": 8})]


def test_every_launch_names_its_pinned_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_kernels, "BATCH", 1)
    found = launches(torch.device("cpu"))
    assert [launch.name for launch in found] == [
        "random_masking",
        "masked_patches raw",
        "masked_patches gaussian",
    ]
    for launch in found:
        assert launch.pinned in launch.options, "what is pinned is among what is tried"
    assert found[0].pinned["CHUNK"] == masking.kernel_constants(196, 49)["CHUNK"]
    raw = masked_patches.kernel_constants(224, 16, "raw", 40.0, True)
    assert found[1].pinned == {"num_warps": raw["num_warps"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^tune kernels measures on a CUDA GPU, and there is none here.*$"):
        command([])
