"""Smaller images first: which steps have which size, and what is refused.

Planted, each seen to fail the test named: shares as floats, a border rounded up, a stage without a step kept
(`test_borders_are_exact_shares_of_the_steps`); the range of a size's steps ignored, or the mean of the sizes
instead of that of the steps (`test_flops_are_the_mean_over_the_steps`); sizes kept at another size
(`test_another_size_has_no_smaller_images`); borders moved in a run that is prolonged
(`test_a_run_with_smaller_images_is_not_prolonged`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.runs import config_for

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.resize import at_size
from turbomim.train.machine.price import recipe_price
from turbomim.train.models.methods import flops_per_image, mean_flops
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import differences
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.settings.schedule import as_long
from turbomim.train.settings.sizes import in_words, stage_of, stages


@pytest.mark.parametrize(
    ("sizes", "steps", "right"),
    [
        ("", 10, [(32, 0, 10)]),
        ("16:0.4,24:0.3", 10, [(16, 0, 4), (24, 4, 7), (32, 7, 10)]),
        # 0.57 * 100 of floats is 56.99999999999999, and 0.1 + 0.7 of them 0.7999999999999999
        ("16:0.57", 100, [(16, 0, 57), (32, 57, 100)]),
        ("16:0.1,24:.7", 10, [(16, 0, 1), (24, 1, 8), (32, 8, 10)]),
        # parts of a step are of the next size, and so is every stage without one
        ("16:0.4,24:0.3", 9, [(16, 0, 3), (24, 3, 6), (32, 6, 9)]),
        ("16:0.1,24:0.5", 5, [(24, 0, 3), (32, 3, 5)]),
        ("16:0.999", 3, [(16, 0, 2), (32, 2, 3)]),
        ("16:0.4", 1, [(32, 0, 1)]),
    ],
)
def test_borders_are_exact_shares_of_the_steps(
    sizes: str, steps: int, right: list[tuple[int, int, int]]
) -> None:
    found = stages(sizes, 32, steps)
    assert [(stage.size, stage.steps.start, stage.steps.stop) for stage in found] == right
    of_step = [stage_of(step, found).size for step in range(steps)]
    assert of_step == [size for size, first, end in right for _ in range(first, end)]


def test_the_stages_are_told() -> None:
    words = "images of 16 pixels in steps 1 to 4,000, of 24 to step 7,000, of 32 to step 10,000"
    assert in_words(stages("16:0.4,24:0.3", 32, 10_000)) == words


def small(sizes: str, tmp_path: Path, **model: object) -> Config:
    return config_for(tmp_path, tmp_path, data={"sizes": sizes}, model={"patch": 4, **model})


@pytest.mark.parametrize(
    ("sizes", "model", "words"),
    [
        ("16", {}, "must be empty, or sides with their shares of the run like 16:0.4,24:0.3"),
        ("16:1.4", {}, "must be empty, or sides"),
        ("16:0.4;24:0.3", {}, "must be empty, or sides"),
        ("24:0.4,16:0.3", {}, r"must be rising sides below data.size \(32\)"),
        ("16:0.4,16:0.3", {}, "must be rising sides"),
        ("32:0.4", {}, "must be rising sides"),
        ("16:0.4,24:0.6", {}, "must be shares above 0 whose sum is below 1"),
        ("16:0.0", {}, "must be shares above 0"),
        ("16:.1,20:.1,24:.1,28:.1", {}, "must be at most 3 sides"),
        ("12:0.4", {}, "data.size = 12: must be at least 16 pixels"),
        ("18:0.4", {}, r"data.size = 18: must be a multiple of model.patch \(4\)"),
        (
            "20:0.4",
            {"mask_unit": 2},
            "model.mask_unit = 2: must be a divisor of the image's 5 patches a side",
        ),
        ("16:0.4", {"mask_ratio": 0.95}, "model.mask_ratio = 0.95: must be a ratio that keeps 1 to 15"),
        ("16:0.4", {"method": "simmim", "target": "raw"}, "must be empty with method simmim: mae and mff"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    sizes: str, model: dict[str, object], words: str, tmp_path: Path
) -> None:
    if model.get("method") == "simmim":
        # of a simmim model the decoder's settings are left at their defaults
        model |= {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}
    with pytest.raises(UsageError, match=words) as error:
        small(sizes, tmp_path, **model)
    assert str(error.value).startswith(f"data.sizes = '{sizes}': ") and "\n" not in str(error.value)


def test_the_filter_keeps_the_cycles_of_the_whole_picture(tmp_path: Path) -> None:
    """Of 16 pixels 11.3 cycles are the highest: a filter of 12 has nothing to do there, one of 6 has."""
    for radius, target in ((6.0, "gaussian"), (12.0, "raw")):
        (model,) = [each.model for each in small("16:0.4", tmp_path, radius=radius).smaller()]
        assert (model.target, model.radius) == (target, radius)


def test_a_fine_tuning_has_one_size(tmp_path: Path) -> None:
    data = small("16:0.4", tmp_path).data
    with pytest.raises(UsageError, match=r"data\.sizes = '16:0\.4': must be empty: a fine-tuning"):
        FinetuneConfig(data=data, model=replace(FinetuneConfig().model, patch=4))


def test_another_size_has_no_smaller_images(tmp_path: Path) -> None:
    config = small("16:0.4", tmp_path)
    assert [at_size(config, size).data.sizes for size in (None, 32, 16)] == ["", "", ""]
    assert at_size(config, None) == replace(config, data=replace(config.data, sizes=""))


def test_another_schedule_of_sizes_is_another_run(tmp_path: Path) -> None:
    one, other = small("16:0.4", tmp_path), small("16:0.5", tmp_path)
    assert differences(one, other) == ["data.sizes: 16:0.4 -> 16:0.5"]


def test_a_run_with_smaller_images_is_not_prolonged(tmp_path: Path) -> None:
    """Its borders would be at other steps, which it has behind it."""
    for sizes, prolonged in (("", True), ("16:0.4", False)):
        config = small(sizes, tmp_path)
        optim = replace(config.optim, schedule="wsd")
        held, longer = (replace(config, optim=replace(optim, epochs=epochs)) for epochs in (10, 20))
        assert (as_long(held, longer) == longer) == prolonged
        assert bool(differences(as_long(held, longer), longer)) != prolonged


def test_flops_are_the_mean_over_the_steps(tmp_path: Path) -> None:
    config = small("16:0.5,24:0.1", tmp_path)
    of16, of24 = (flops_per_image(each) for each in config.smaller())
    of32 = flops_per_image(config)
    assert of16 < of24 < of32
    assert mean_flops(config, 10) == pytest.approx(0.5 * of16 + 0.1 * of24 + 0.4 * of32)
    assert mean_flops(config, 10, range(4, 7)) == pytest.approx((of16 + of24 + of32) / 3)
    assert mean_flops(config, 10, range(7, 10)) == of32
    assert mean_flops(small("", tmp_path), 10, range(4, 7)) == of32
    # as `turbomim recipes` has it
    assert recipe_price(config) == f"{mean_flops(config, 10) / 1e6:.1f} MFLOP an image"
