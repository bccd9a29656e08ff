"""The kernel benchmark's own forms against each other, and that it times no wrong result.

Which test fails for which mistake (each was made once, on purpose):
no modulus: test_two_ways_to_filter_agree; a disc centred on the zero frequency,
an edge pixel repeated, taps that do not add up to 1: test_filters_are_the_kernels;
an error that nobody looks at: test_a_wrong_result_is_not_timed;
time of one call for time of all: test_rows_are_microseconds_of_a_thousand_images.
"""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from turbomim.benchmarks import timing
from turbomim.benchmarks.kernels import static
from turbomim.benchmarks.kernels.bench import (
    Form,
    Question,
    bench_kernels_command,
    difference,
    measure,
)
from turbomim.benchmarks.kernels.eager_targets import (
    convolutions,
    dft_products,
    fft_disc,
    patches_and_targets,
)
from turbomim.benchmarks.tables import markdown_table
from turbomim.kernels.masked_patches import masked_patches
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize("radius", [5.0, 17.0])
def test_two_ways_to_filter_agree(radius: float) -> None:
    images = torch.rand(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dft_products(radius)(images), fft_disc(radius)(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("target", "filtered"), [("gaussian", convolutions(9)), ("ideal", fft_disc(9))])
def test_filters_are_the_kernels(target: TargetKind, filtered: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8, generator=generator)
    order = torch.stack([torch.randperm(36, generator=generator) for _ in range(2)])
    keep, mask = order[:, :9].contiguous(), order[:, 9:].contiguous()
    exact = patches_and_targets(images, keep, mask, filtered, 8, torch.float64)
    wanted = PatchTarget(
        patch=8, kind=target, radius=9.0, norm_pix=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    ours = masked_patches(images, keep, mask, wanted, dtype=torch.float32)
    assert max(difference(a, b) for a, b in zip(ours, exact, strict=True)) < 1e-4


def question(*forms: Form) -> Question:
    return Question(name="two", forms=forms, floor=1000, error=lambda result: abs(result - 2), tolerance=0.5)


def test_a_wrong_result_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match=r"two, wrong: off by 1 from float64, more than 0\.5: not timed"):
        list(measure(question(Form(name="wrong", run=lambda: 3)), 4, 2, 1, 1e9))
    (measured,) = measure(question(Form(name="else", run=lambda: 3, other=True)), 4, 2, 1, 1e9)
    assert measured[1][-1] == "another filter"


def test_rows_are_microseconds_of_a_thousand_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the forms turn: a sleep is longer where others work."""
    now = 0.0

    def takes(seconds: float) -> int:
        nonlocal now
        now += seconds
        return 2

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    forms = (Form(name="slow", run=lambda: takes(0.004)), Form(name="fast", run=lambda: takes(0.0001)))
    (line, row), (_, fast) = measure(question(*forms), 4, 3, 5, 1e6)
    # 4 ms for 4 images, 1,000 bytes each
    assert json.loads(line)["p50"] == pytest.approx(1_000_000, rel=1e-3)
    assert float(row[2].replace(",", "")) == pytest.approx(1_000_000, rel=1e-3)
    assert json.loads(line)["floor_gb_per_s"] == 0
    assert json.loads(line)["share_of_copy"] == pytest.approx(1)
    assert row[3] == "1.00" and float(fast[3]) == 40
    assert len(markdown_table([row, fast], words=2).splitlines()) == 3


def test_static_tables_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(static, "print_tables", lambda *, markdown: calls.append(markdown))
    bench_kernels_command(["--static", "--markdown"])
    bench_kernels_command(["--static"])
    assert calls == [True, False]


def test_one_round_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 rounds"):
        bench_kernels_command(["--rounds", "1"])
