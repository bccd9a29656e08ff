"""Texts of a sheet are broken into lines."""

from PIL import ImageFont

from turbomim.pipeline.checking.sheet import wrap


def test_wrap_keeps_every_word_and_the_width() -> None:
    font = ImageFont.load_default(size=13)
    text = "statistics of the true low-passed patches were used, " * 6
    lines = wrap(text, 300, font)
    assert " ".join(lines).split() == text.split()
    assert len(lines) > 1 and all(font.getlength(line) <= 300 for line in lines)
    assert wrap("", 300, font) == []
    first, *parts = wrap("a " + "w" * 200, 50, font)
    assert first == "a" and "".join(parts) == "w" * 200, "a word that is too wide is broken"
    assert all(font.getlength(part) <= 50 for part in parts)
