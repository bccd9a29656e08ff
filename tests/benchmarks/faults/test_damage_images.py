"""Every kind of image, whole, damaged or hostile: what our sharding and our loader make of it."""

import pytest

from turbomim.benchmarks.faults import damage_images
from turbomim.benchmarks.faults.damage_images import DECODED, WRONG, loading, markdown, pillow, sharding
from turbomim.benchmarks.faults.image_kinds import Kind, damaged_kinds, kinds, photograph, whole_kinds

# libjpeg and libwebp make pixels of it without an error: only a stricter decoder, or a checksum, notices
UNSEEN = {
    "JPEG, 40 random bytes in the scan",
    "JPEG, an end marker in the scan",
    "WebP, 40 random bytes in the data",
}
# other formats are replaced, as `shard make` refuses them
NOT_TAKEN = {"BMP", "animated GIF"}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_the_loader_decodes_or_replaces(kind: Kind) -> None:
    verdict = loading(kind)
    if kind.name in UNSEEN:
        assert verdict.startswith(WRONG)
    elif kind.pixels is None or kind.name in NOT_TAKEN:
        assert verdict.startswith("replaced: ")
        assert len(verdict) > len("replaced: ")
    else:
        assert verdict == DECODED


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_sharding_takes_or_refuses(kind: Kind) -> None:
    """What it takes decodes; it reads headers only, so data that is damaged behind them passes."""
    verdict = sharding(kind)
    whole = kind.pixels is not None and kind.name not in NOT_TAKEN
    behind_the_header = (
        kind.name == "JPEG cut at 50 %" or "last 2 bytes" in kind.name or " in the " in kind.name
    )
    assert verdict.startswith("taken as " if whole or behind_the_header else "refused: ")


def test_the_table_tells_a_wrong_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that turns, cuts or changes pixels, and one that dies, stand out."""
    (kind,) = (kind for kind in whole_kinds() if kind.name == "PNG named .jpg")
    monkeypatch.setattr(damage_images, "by_pillow", lambda _: photograph())
    assert pillow(kind) == DECODED
    for pixels, verdict in (
        (photograph().swapaxes(0, 1), "silently wrong: rotated"),
        (photograph()[::-1], "silently wrong: off by"),
        (photograph().astype("uint16"), "silently wrong: 3-D uint16"),
        (photograph()[None], "silently wrong: 4-D uint8"),
        (photograph()[1:], "silently wrong: (89, 120, 3)"),
    ):
        monkeypatch.setattr(damage_images, "by_pillow", lambda _, pixels=pixels: pixels)
        assert pillow(kind).startswith(verdict)
        assert "**silently" in markdown([kind.name], {"Pillow": [pillow(kind)]})
    assert pillow(damaged_kinds()[0]).startswith(WRONG)
