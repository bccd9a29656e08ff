"""Matrices with all singular values brought near 1: Muon's direction.

Shapes: N matrices, A rows, B columns.
"""

from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor

# a quintic polynomial whose slope at 0 is as large as it can be; it brings singular values to 0.7 to 1.2.
# Source: kellerjordan.github.io/posts/muon, as torch.optim.Muon has it
COEFFICIENTS = [(3.4445, -4.7750, 2.0315)]
STEPS = 5


def orthogonalised(matrices_NAB: Tensor) -> Tensor:
    """U V' of each matrix U S V', about: five Newton-Schulz steps over all matrices in one batch.

    (N, A, B) float32 or bfloat16 in, the same out, and the products are computed in it: bfloat16 is enough
    for a direction.  A matrix of zeros stays zero.
    """
    found: Tensor = zeropower_via_newtonschulz(matrices_NAB, STEPS, COEFFICIENTS, dtype=matrices_NAB.dtype)
    return found
