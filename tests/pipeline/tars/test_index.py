"""The index of a tar: any members are parsed as a plain split does, damage is refused, strays are found."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbomim.pipeline.tars.index import OURS, Members, check_bounds, check_layout, parse_index
from turbomim.pipeline.tars.tar import round_up

FOREIGN = Members(image=("jpg", "jpeg"), label="cls")

Member = tuple[str, int, int]


def text_of(samples: list[list[Member]]) -> bytes:
    lines = [
        " ".join(
            f"{extension} {offset} {size} key{number}.{extension}" for extension, offset, size in members
        )
        for number, members in enumerate(samples)
    ]
    return "\n".join((f"v1.2 {len(samples)}", *lines, "")).encode()


def plainly(samples: list[list[Member]], members: Members) -> list[list[int]]:
    """What `parse_index` gives, by the rule as it is worded: (samples, 4)."""
    rows = []
    for sample in samples:
        ((_, image, image_bytes),) = (member for member in sample if member[0] in members.image)
        _, label, label_bytes = next((m for m in sample if m[0] == members.label), ("", image, 0))
        rows.append([label, label_bytes, image, image_bytes])
    return rows


sizes = st.tuples(st.integers(1, 6), st.integers(0, 2**31 - 1), st.sampled_from(OURS.image))


@given(st.lists(sizes, max_size=30))
def test_any_index_of_ours(pairs: list[tuple[int, int, str]]) -> None:
    place, samples = 0, []
    for label, image, extension in pairs:
        label_at = place + 512
        image_at = label_at + 512 + 512
        place = round_up(image_at + image, 512)
        samples.append([("cls", label_at, label), (extension, image_at, image)])
    columns_4N = parse_index(text_of(samples))
    assert columns_4N.T.tolist() == plainly(samples, OURS)
    check_layout(columns_4N, len(pairs), round_up(place + 1024, 10240))
    with pytest.raises(ValueError, match="another tar"):
        check_layout(columns_4N, len(pairs), round_up(place + 1024, 10240) + 10240)


numbers = st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))


@st.composite
def foreign_samples(draw: st.DrawFn) -> list[list[Member]]:
    """Samples of one image each, with or without a label, between any other members."""
    samples = []
    for _ in range(draw(st.integers(0, 12))):
        extensions = draw(st.lists(st.sampled_from(["json", "txt", "jpg.json", "j", "seg.png"]), max_size=3))
        extensions += draw(st.sampled_from([["jpg"], ["jpeg"], ["cls", "jpg"]]))
        extensions = draw(st.permutations(extensions))
        samples.append([(extension, *draw(numbers)) for extension in extensions])
    return samples


@given(foreign_samples())
def test_any_index_of_others(samples: list[list[Member]]) -> None:
    assert parse_index(text_of(samples), FOREIGN).T.tolist() == plainly(samples, FOREIGN)
    unlabelled = Members(image=FOREIGN.image, label=None)
    assert parse_index(text_of(samples), unlabelled).T.tolist() == plainly(samples, unlabelled)


@given(foreign_samples(), st.data())
def test_a_sample_needs_exactly_one_image(samples: list[list[Member]], data: st.DataObject) -> None:
    two = data.draw(st.booleans())
    samples.append([("cls", 512, 1), ("png", 512, 1), *[("jpg", 512, 1), ("jpeg", 512, 1)] * two])
    with pytest.raises(ValueError, match=f"line {len(samples) + 1} has {2 * two} images"):
        parse_index(text_of(samples), FOREIGN)


GOOD_LINE = b"cls 512 1 a.cls jpg 1536 700 a.jpg\n"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"v1.1 1\n" + GOOD_LINE,
        b"v1.2 -1\n",
        b"v1.2 2\n" + GOOD_LINE,
        b"v1.2 0\n" + GOOD_LINE,
        b"v1.2 1\n" + GOOD_LINE[:-1],
        b"v1.2 1\n" + GOOD_LINE[:-1] + b" ",
        b"v1.2 1\n" + GOOD_LINE[:-1] + b" x\n",
        b"v1.2 1\n" + GOOD_LINE.replace(b"1 a", b"1\na"),
        b"v1.2 2\n" + GOOD_LINE.replace(b"1 a", b"1\na"),
        b"v1.2 1\n\n" + GOOD_LINE,
        b"v1.2 1\n" + GOOD_LINE.replace(b" 512", b" 5x2"),
        b"v1.2 1\n" + GOOD_LINE.replace(b" 512", b" -12"),
        b"v1.2 1\n" + GOOD_LINE.replace(b" 512", b" "),
        b"v1.2 1\n" + GOOD_LINE.replace(b" 700", b" " + b"7" * 19),
        b"v1.2 1\njpg 512 700 a.jpg cls 2048 1 a.cls\n",
        b"v1.2 1\ncls 512 1 a.cls\n",
        b"v1.2 1\njpg 1536 700 a.jpg\n",
        b"v1.2 1\njpg 512 700 a.jpg\n",
        b"v1.2 1\ncls 512 0 a.cls jpg 1024 700 a.jpg\n",
        b"v1.2 1\n" + GOOD_LINE.replace(b"jpg", b"gif"),
        b"v1.2 1\n" + GOOD_LINE[:-1] + b" cls 512 1 a.cls\n",
    ],
)
def test_a_damaged_index_is_refused(text: bytes) -> None:
    good = parse_index(b"v1.2 1\n" + GOOD_LINE)
    assert good.tolist() == [[512], [1], [1536], [700]]
    check_layout(good, 1, 10240)
    with pytest.raises(ValueError, match=r"line|offset"):
        check_layout(parse_index(text), 1, 10240)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([512, 1, 1536, 700], None),
        ([1536, 0, 1536, 700], None),
        ([512, 18, 0, 0], "another tar"),
        ([512, 1, 1537, 700], "another tar"),
        ([9728, 513, 1536, 700], "another tar"),
        ([512, 1, 1536, 8705], "another tar"),
        ([512, 19, 1536, 700], "18 bytes"),
    ],
)
def test_members_of_others_lie_on_blocks_in_the_tar(columns: list[int], words: str | None) -> None:
    columns_4N = np.array(columns, np.int64)[:, None]
    if words is None:
        check_bounds(columns_4N, 1, 10240)
        return
    with pytest.raises(ValueError, match=words):
        check_bounds(columns_4N, 1, 10240)


def test_samples_are_counted() -> None:
    with pytest.raises(ValueError, match="lists 1 samples, the manifest 2"):
        check_bounds(parse_index(b"v1.2 1\n" + GOOD_LINE), 2, 10240)


def test_members_of_a_manifest() -> None:
    assert Members.of({}) == OURS
    assert Members.of({"indexed": {"image": ["jpg", "jpeg"], "label": "cls"}}) == FOREIGN
    last = {"image": ["jpg", "jpeg"], "label": "cls", "keys": "last-dot"}
    assert Members.of({"indexed": last}) == replace(FOREIGN, keys="last-dot")
    assert Members.of({"indexed": {"image": ["jpg"], "label": None}}) == Members(image=("jpg",), label=None)
    records: tuple[object, ...] = (
        5,
        {"images": ["jpg"]},
        {"image": [7], "label": None},
        {"image": ["a b"], "label": None},
        {"image": [], "label": None},
        {"image": ["jpg"], "label": None, "keys": "middle"},
    )
    for record in records:
        with pytest.raises(ValueError, match="indexed"):
            Members.of({"indexed": record})
