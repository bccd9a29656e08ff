"""Parts of shards as requests: each part is found again, no byte comes twice, and near ones come together.

Planted, each seen to fail: parts that only touch are not joined; a limit that is not kept; an end that a
shorter part sets back; parts of two shards as one.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbomim.pipeline.reading.requests import MOST, NEAR, Requests, merged, one_each

Part = tuple[int, int, int]


def of(function: object, parts: Sequence[Part]) -> Requests:
    columns = np.array(parts, np.int64).reshape(-1, 3).T
    return function(*columns)  # type: ignore[operator,no-any-return]


def rows(requests: Requests) -> list[Part]:
    columns = (requests.shard_R, requests.begin_R, requests.end_R)
    return list(zip(*(column_R.tolist() for column_R in columns), strict=True))


def content(shard: int, begin: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """What stands in a shard: no two bytes are the same."""
    return shard * 10**9 + np.arange(begin, end)


parts = st.tuples(st.integers(0, 2), st.integers(0, 60_000), st.integers(1, 9_000)).map(
    lambda part: (part[0], part[1], part[1] + part[2])
)


@given(st.lists(parts, min_size=1, max_size=40))
@pytest.mark.parametrize("function", [one_each, merged])
def test_every_part_is_found_again(function: object, parts: list[Part]) -> None:
    requests = of(function, parts)
    memory = np.concatenate([content(*row) for row in rows(requests)])
    assert len(memory) == requests.bytes
    for (shard, begin, end), at in zip(parts, requests.at_P.tolist(), strict=True):
        np.testing.assert_array_equal(memory[at : at + end - begin], content(shard, begin, end))


@given(st.lists(parts, min_size=1, max_size=40))
def test_no_byte_comes_twice_and_near_ones_come_together(parts: list[Part]) -> None:
    found = rows(of(merged, parts))
    assert found == sorted(found)
    for (shard, _, end), (other, begin, _) in pairwise(found):
        # far below MOST: what is still apart is not near
        assert shard < other or begin > end + NEAR
    wanted = np.unique(np.concatenate([content(*part) for part in parts]))
    came = np.concatenate([content(*row) for row in found])
    assert len(np.unique(came)) == len(came)
    # between two parts, no more than NEAR that nobody wants
    gaps = np.diff(wanted) - 1
    assert len(came) - len(wanted) == gaps[(gaps > 0) & (gaps <= NEAR)].sum()


def test_the_example() -> None:
    found = of(merged, [(0, 0, 700), (0, 9000, 9500), (0, 1024, 2000)])
    assert rows(found) == [(0, 0, 2000), (0, 9000, 9500)]
    assert found.at_P.tolist() == [0, 2000, 1024]


def test_a_request_has_a_limit() -> None:
    half = MOST // 2
    side_by_side = [(0, number * half, (number + 1) * half) for number in range(5)]
    assert [end - begin for _, begin, end in rows(of(merged, side_by_side))] == [MOST, MOST, half]
    assert rows(of(merged, [(0, 0, 3 * MOST), (0, 5, 9)])) == [(0, 0, 3 * MOST)], "one part may be larger"


def test_nothing_is_asked_for_nothing() -> None:
    assert rows(of(merged, [])) == [] and of(merged, []).bytes == 0
