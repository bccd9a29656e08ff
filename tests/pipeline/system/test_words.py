"""Numbers in words."""

import pytest

from turbomim.pipeline.system.words import sized

SIZES = {
    0: "0 bytes",
    1: "1 byte",
    999: "999 bytes",
    1_000: "1.0 kB",
    12_345: "12.3 kB",
    999_949: "999.9 kB",
    999_950: "1.0 MB",
    5_800_000: "5.8 MB",
    999_960_000: "1.0 GB",
    1_280_000_000_000: "1,280.0 GB",
}


@pytest.mark.parametrize("size", SIZES)
def test_bytes_have_the_unit_that_shows_them(size: int) -> None:
    assert sized(size) == SIZES[size]
