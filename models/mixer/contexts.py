"""One learned vector an environment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Contexts", "nearest_contexts"]


class Contexts(nn.Module):
    """Vectors that tell environments apart; zero at first.

    Parameters
    ----------
    n_environments, size : int

    Attributes
    ----------
    values : Parameter, shape (n_environments, size)
    """

    def __init__(self, n_environments: int, size: int) -> None:
        super().__init__()
        if n_environments < 1 or size < 1:
            raise ValueError(
                f"n_environments={n_environments}, size={size}: need integers of at least 1"
            )
        self.values = nn.Parameter(torch.zeros(n_environments, size))

    def forward(self, environments: Tensor) -> Tensor:
        """Look up, (B,) -> (B, size)."""
        return self.values.index_select(0, environments)


def nearest_contexts(values: Tensor, of: Tensor, count: int) -> Tensor:
    """Numbers of the `count` contexts nearest in L1 to each of `of`, itself first.

    Parameters
    ----------
    values : Tensor, shape (N, c)
    of : Tensor, shape (B,)
        Numbers of contexts.
    count : int
        At most N.

    Returns
    -------
    Tensor, shape (B, count)
    """
    distance = torch.cdist(values[of], values, p=1.0)
    # itself first, also among equals
    distance[torch.arange(len(of), device=of.device), of] = -1.0
    return distance.topk(count, largest=False, sorted=True).indices
