"""Baselines on grids: plain networks, and neuraloperator's models repaired where 2.0.0 is wrong."""

from __future__ import annotations

from .fno import GridFNO, build_fno, build_tfno
from .resnet import DilatedResNet, ResNet, build_dilresnet, build_resnet
from .spectral import spectral_conv
from .unet import UNet, build_unet
from .uno import GridUNO, build_uno
from .vit import ViT, build_vit

__all__ = [
    "DilatedResNet",
    "GridFNO",
    "GridUNO",
    "ResNet",
    "UNet",
    "ViT",
    "build_dilresnet",
    "build_fno",
    "build_resnet",
    "build_tfno",
    "build_unet",
    "build_uno",
    "build_vit",
    "spectral_conv",
]
