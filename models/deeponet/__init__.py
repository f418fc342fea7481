r"""DeepONet and its kin: operators whose output can be asked for anywhere.

``G(u)(y) = sum_k b_k(u) t_k(y) + b_0``: a branch net sees the input function at fixed sensors, a
trunk net sees the point of the query. All models here take ``(u, y)``:

- ``model(u, y)`` with ``u`` (B, m) and ``y`` (N, d): every function at every point, (B, N);
- ``model(u, y)`` with ``y`` (B, N, d): points of its own for each function, (B, N);
- ``model.forward_pairs(u, y)`` with ``y`` (B, d): one point a function, (B,).

With several outputs a channel axis comes last. ``u`` is a tuple where there are several input
functions.

References
----------
.. [1] Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021) 218-229,
   arXiv:1910.03193.
.. [2] Lu, Meng, Cai, Mao, Goswami, Zhang, Karniadakis, CMAME 393 (2022) 114778, arXiv:2111.05512.
"""

from __future__ import annotations

from ._build import (
    build_deeponet,
    build_fnn,
    build_mionet,
    build_modified_deeponet,
    build_pod_deeponet,
)
from ._coordinates import FourierFeatures, PeriodicFeatures, ZeroOnSides, resample_to_sensors
from ._models import FNN, DeepONet, MIONet, ModifiedDeepONet
from ._nets import MLP, CNNBranch, StackedMLP
from ._pod import PODDeepONet, pod_basis

__all__ = [
    "FNN",
    "MLP",
    "CNNBranch",
    "DeepONet",
    "FourierFeatures",
    "MIONet",
    "ModifiedDeepONet",
    "PODDeepONet",
    "PeriodicFeatures",
    "StackedMLP",
    "ZeroOnSides",
    "build_deeponet",
    "build_fnn",
    "build_mionet",
    "build_modified_deeponet",
    "build_pod_deeponet",
    "pod_basis",
    "resample_to_sensors",
]
