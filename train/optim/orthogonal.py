"""Matrices with all singular values brought near 1: Muon's direction.

Shapes: N matrices, A rows, B columns.
"""

from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor

# of each step, a, b and c of the factor a + b s² + c s⁴ of a singular value s: after each, values from 0.001
# to 1 are as near to 1 as so many steps can bring them.  Divided by about 1.01, so that they stay bounded in
# bfloat16.  Source: Polar Express, arXiv:2505.16932 algorithm 1, as timm 1.0.31 has it
COEFFICIENTS = [
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
]


def orthogonalised(matrices_NAB: Tensor, steps: int) -> Tensor:
    """U V' of each matrix U S V', about: Newton-Schulz steps over all matrices in one batch.

    (N, A, B) float32 or bfloat16 in, the same out, and the products are computed in it: bfloat16 is enough
    for a direction.  steps: 1 to len(COEFFICIENTS).  A matrix of zeros stays zero.
    """
    found: Tensor = zeropower_via_newtonschulz(matrices_NAB, steps, COEFFICIENTS, dtype=matrices_NAB.dtype)
    return found
