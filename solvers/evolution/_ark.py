"""The additive Runge-Kutta pair ARK4(3)6L[2]SA: fourth order, stiffly accurate and L-stable.

References
----------
.. [1] Kennedy & Carpenter, "Additive Runge-Kutta schemes for convection-diffusion-reaction
   equations", Applied Numerical Mathematics 44 (2003) 139-181, appendix C.
"""

from __future__ import annotations

import numpy as np

__all__ = ["A_EXPLICIT", "A_IMPLICIT", "B_HAT", "GAMMA", "B", "C"]

GAMMA = 0.25

#: Times of the stages.
C = np.array([0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0])

#: Weights of the step, the same for both parts; those of the embedded third-order result.
B = np.array([82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4])
B_HAT = np.array([
    4586570599 / 29645900160, 0.0, 178811875 / 945068544, 814220225 / 1159782912,
    -3700637 / 11593932, 61727 / 225920,
])  # fmt: skip


def _lower(rows: list[list[float]]) -> np.ndarray:
    a = np.zeros((6, 6))
    for i, row in enumerate(rows):
        a[i + 1, : len(row)] = row
    return a


A_EXPLICIT = _lower([
    [1 / 2],
    [13861 / 62500, 6889 / 62500],
    [
        -116923316275 / 2393684061468, -2731218467317 / 15368042101831,
        9408046702089 / 11113171139209,
    ],
    [
        -451086348788 / 2902428689909, -2682348792572 / 7519795681897,
        12662868775082 / 11960479115383, 3355817975965 / 11060851509271,
    ],
    [
        647845179188 / 3216320057751, 73281519250 / 8382639484533,
        552539513391 / 3454668386233, 3354512671639 / 8306763924573, 4040 / 17871,
    ],
])  # fmt: skip

A_IMPLICIT = _lower([
    [1 / 4, 1 / 4],
    [8611 / 62500, -1743 / 31250, 1 / 4],
    [5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 1 / 4],
    [
        15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768,
        2285395 / 8070912, 1 / 4,
    ],
    [82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4],
])  # fmt: skip
