"""Patches and predictions back to pixels."""

from typing import Any

import numpy as np
import pytest

from turbomim.train.pictures.pixels import denormalise, to_uint8, unpatchify


def patchify_by_hand(picture: np.ndarray[Any, Any], patch: int) -> np.ndarray[Any, Any]:
    side = picture.shape[0] // patch
    rows = []
    for r in range(side):
        for c in range(side):
            block = picture[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            rows.append([block[y, x, k] for y in range(patch) for x in range(patch) for k in range(3)])
    return np.array(rows, dtype=picture.dtype)


@pytest.mark.parametrize(("side", "patch"), [(1, 4), (3, 4), (7, 2), (2, 16)])
def test_unpatchify_undoes_patchify(side: int, patch: int) -> None:
    picture = np.random.default_rng(0).random((side * patch, side * patch, 3))
    back = unpatchify(patchify_by_hand(picture, patch), patch)
    np.testing.assert_array_equal(back, picture)


@pytest.mark.parametrize("shape", [(6, 48), (4, 47)])
def test_unpatchify_refuses_other_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \(n·n, 48\)"):
        unpatchify(np.zeros(shape), 4)


def test_denormalise_undoes_patch_normalisation() -> None:
    patches = np.random.default_rng(1).random((9, 48))
    mean, var = patches.mean(1, keepdims=True), patches.var(1, ddof=1, keepdims=True)
    normal = (patches - mean) / np.sqrt(var + 1e-6)
    np.testing.assert_allclose(denormalise(normal, mean, var), patches, atol=1e-12)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        to_uint8(np.zeros((2, 2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\)"):
        to_uint8(np.zeros((2, 2)))
