"""Neural networks turned into neural operators.

`to_operator` converts a network; the layers are of use by themselves; `discretization_error` says
whether a model is an operator.
"""

from __future__ import annotations

from typing import Any

from .attention import QuadratureAttention, quadrature_attention
from .convert import LayerReport, OperatorModule, Scope, register_conversion, to_operator
from .discretization import DiscretizationTable, discretization_error, observed_order
from .errors import ConversionWarning, UnsupportedLayerError
from .geometry import PointCloud, grid, quadrature_weights, resample
from .graph import GraphIntegral, Neighbors, find_neighbors
from .integral import FunctionTable, IntegralLinear, PatchExpansion, PatchIntegral
from .kernels import (
    KernelConv1d,
    KernelConv2d,
    KernelConv3d,
    KernelConvTranspose1d,
    KernelConvTranspose2d,
    KernelConvTranspose3d,
    kernel_symbol,
)
from .local import Antialiased, FiniteDifferenceConv, LocalIntegral
from .norms import GlobalMean, WeightedBatchNorm, WeightedGroupNorm, WeightedInstanceNorm
from .operators import (
    InputOutputInterpolation,
    OperatorCNN,
    OperatorGNN,
    OperatorMLP,
    OperatorResNet,
    OperatorTransformer,
    OperatorUNet,
    OperatorViT,
)
from .points import PointTransformer
from .pooling import PhysicalPool, PhysicalUpsample

__all__ = [
    "Antialiased",
    "ConversionWarning",
    "DiscretizationTable",
    "FiniteDifferenceConv",
    "FunctionTable",
    "GlobalMean",
    "GraphIntegral",
    "InputOutputInterpolation",
    "IntegralLinear",
    "KernelConv1d",
    "KernelConv2d",
    "KernelConv3d",
    "KernelConvTranspose1d",
    "KernelConvTranspose2d",
    "KernelConvTranspose3d",
    "LayerReport",
    "LocalIntegral",
    "Neighbors",
    "OperatorCNN",
    "OperatorGNN",
    "OperatorMLP",
    "OperatorModule",
    "OperatorResNet",
    "OperatorTransformer",
    "OperatorUNet",
    "OperatorViT",
    "PatchExpansion",
    "PatchIntegral",
    "PhysicalPool",
    "PhysicalUpsample",
    "PointCloud",
    "PointTransformer",
    "QuadratureAttention",
    "Scope",
    "UnsupportedLayerError",
    "WeightedBatchNorm",
    "WeightedGroupNorm",
    "WeightedInstanceNorm",
    "discretization_error",
    "find_neighbors",
    "grid",
    "kernel_symbol",
    "observed_order",
    "quadrature_attention",
    "quadrature_weights",
    "register_conversion",
    "resample",
    "to_operator",
]


def __getattr__(name: str) -> Any:
    if name == "SpectralConv":
        from ..baselines import spectral_conv

        return spectral_conv()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
