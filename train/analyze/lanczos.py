"""Eigenvalues of a symmetric matrix that is known by its products with vectors alone: Lanczos.

Source: Golub and Van Loan, Matrix Computations, chapter 10; with full re-orthogonalisation, so that no
eigenvalue appears twice by rounding.  Suffixes: N rows of the matrix, S steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ritz:
    """What S steps found, largest value first, each (S,) float64.

    values: approximate eigenvalues; bounds: a true eigenvalue is no farther than this, but for the rounding
    of products, at least one of the largest value's; weights: squared share of the start vector along each,
    which sum to 1.
    """

    values_S: Tensor
    bounds_S: Tensor
    weights_S: Tensor


def lanczos(product: Callable[[Tensor], Tensor], start_N: Tensor, steps: int) -> Ritz:
    """Ritz values of the matrix that `product` multiplies by, from the Krylov space of `start`.

    product: (N,) to (N,), linear and symmetric; start (N,), not zero; its dtype and device are those of the
    work, and S + 1 vectors of its size are kept.  Fewer than `steps` where the space is exhausted before.
    Raises ValueError if the start is zero, or a product is not finite.
    """
    length = float(start_N.norm())
    if not length:
        raise ValueError("the start vector is zero: no direction to begin with")
    steps = min(steps, len(start_N))
    basis_SN = start_N.new_empty(steps, len(start_N))
    basis_SN[0] = start_N / length
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        next_N = product(basis_SN[step])
        diagonal.append(float(basis_SN[step] @ next_N))
        known = basis_SN[: step + 1]
        # twice is enough (Kahan and Parlett)
        for _ in range(2):
            next_N = next_N - (known @ next_N) @ known
        rest = float(next_N.norm())
        if not (abs(diagonal[-1]) + rest < float("inf")):
            raise ValueError("a product with the matrix is not finite")
        beside.append(rest)
        largest = max(map(abs, diagonal + beside))
        if step + 1 == steps or rest <= 100 * torch.finfo(start_N.dtype).eps * largest:
            break
        basis_SN[step + 1] = next_N / rest
    off_diagonal = torch.tensor(beside[:-1], dtype=torch.float64)
    matrix_SS = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix_SS = matrix_SS + torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    values_S, vectors_SS = torch.linalg.eigh(matrix_SS)
    rounding = torch.finfo(start_N.dtype).eps * float(values_S.abs().max())
    return Ritz(
        values_S=values_S.flip(0),
        bounds_S=(beside[-1] * vectors_SS[-1]).abs().clamp(min=rounding).flip(0),
        weights_S=vectors_SS[0].square().flip(0),
    )
