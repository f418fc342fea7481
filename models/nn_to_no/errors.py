"""What cannot be read as an operator between function spaces."""

from __future__ import annotations

__all__ = ["ConversionWarning", "UnsupportedLayerError"]


class UnsupportedLayerError(ValueError):
    """A layer has no continuous analogue here; names its path in the module, type and reason.

    Parameters
    ----------
    path : str
        Of the layer in the module, ``"encoder.0.conv"``.
    kind : str
        Type of the layer.
    reason : str
    """

    def __init__(self, path: str, kind: str, reason: str) -> None:
        super().__init__(f"{path or '(the module itself)'} ({kind}): {reason}")
        self.path, self.kind, self.reason = path, kind, reason


class ConversionWarning(UserWarning):
    """A layer was kept as it is, so the result depends on the grid there."""
