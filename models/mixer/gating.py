"""The gate of MixER: K-means on the contexts, experts for the clusters, one least-squares solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .._sizes import positive

__all__ = ["GateResult", "GateUpdate", "KMeansResult", "kmeans"]

Metric = Literal["l1", "l2"]


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of points.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    centroids : ndarray, shape (K, c)
    inertia : float
        Sum of the distances to the own centroid.
    converged : bool
        The centroids have stopped.
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float
    converged: bool

    @property
    def has_empty(self) -> bool:
        """Whether a cluster has no points."""
        return len(np.unique(self.labels)) < len(self.centroids)


def _distances(points: np.ndarray, centroids: np.ndarray, metric: Metric) -> np.ndarray:
    difference = points[:, None] - centroids[None]
    if metric == "l1":
        return np.abs(difference).sum(axis=2)
    return np.sqrt((difference**2).sum(axis=2))


def kmeans(
    points: np.ndarray,
    centroids: np.ndarray,
    *,
    metric: Metric = "l1",
    max_iter: int = 20,
    tol: float = 1e-4,
) -> KMeansResult:
    """Lloyd's iteration: points go to the nearest centroid, centroids to the mean of their points.

    Parameters
    ----------
    points : ndarray, shape (N, c)
    centroids : ndarray, shape (K, c)
        Where to start. A centroid without points stays where it is.
    metric : {"l1", "l2"}
        Of the assignment; centroids are means with either.
    max_iter : int
    tol : float
        Largest move of a centroid's entry at which the iteration has converged.
    """
    centroids = np.array(centroids, np.float64)
    converged = False
    for _ in range(max_iter):
        labels = _distances(points, centroids, metric).argmin(axis=1)
        new = centroids.copy()
        for k in np.unique(labels):
            new[k] = points[labels == k].mean(axis=0)
        converged = bool(np.abs(new - centroids).max() <= tol)
        centroids = new
        if converged:
            break
    distance = _distances(points, centroids, metric)
    labels = distance.argmin(axis=1)
    return KMeansResult(labels, centroids, float(distance.min(axis=1).sum()), converged)


def _plus_plus(points: np.ndarray, k: int, metric: Metric, rng: np.random.Generator) -> np.ndarray:
    """Start centroids in points far from each other (Arthur, Vassilvitskii 2007)."""
    chosen = [points[rng.integers(len(points))]]
    for _ in range(k - 1):
        distance = _distances(points, np.array(chosen), metric).min(axis=1) ** 2
        total = distance.sum()
        weights = distance / total if total > 0 else None
        chosen.append(points[rng.choice(len(points), p=weights)])
    return np.array(chosen)


@dataclass(frozen=True)
class GateResult:
    """What an update of the gate has found.

    Parameters
    ----------
    weight : Tensor, shape (c + 1, E)
        ``argmax([context, 1] @ weight)`` is the expert.
    labels : Tensor of int, shape (N,)
        Cluster of each environment.
    expert_of_cluster : Tensor of int, shape (E,)
    centroids : Tensor, shape (E, c), or None
        For the next update; None: start anew.
    skipped : None, "empty" or "not_converged"
        Why the gate was left as it was.
    """

    weight: Tensor
    labels: Tensor
    expert_of_cluster: Tensor
    centroids: Tensor | None
    skipped: Literal["empty", "not_converged"] | None = None

    @property
    def experts(self) -> Tensor:
        """Expert that the assignment gives each environment, (N,)."""
        return self.expert_of_cluster[self.labels]


@dataclass(frozen=True)
class GateUpdate:
    """Settings of the update; a pure function of what it is given.

    Parameters
    ----------
    n_experts : int
    metric : {"l1", "l2"}
        Distance of K-means.
    statistic : {"median", "mean"}
        Loss of an expert on a cluster, over its environments.
    max_iter, tol
        Of K-means.
    noise : float
        Standard deviation of what is added to the contexts in the least-squares problem.
    assignment : {"greedy", "hungarian"}
        Clusters choose experts one after the other, or the sum of the losses is least.
    init : {"paper", "kmeans++"}
        Centroids start in U(-1e-3, 1e-3), or by k-means++ with `restarts`, the best of which is
        kept; both go on from the previous centroids where there are any.
    restarts : int
    repair : bool
        Where the least-squares gate sends environments to other experts than the assignment (it
        cannot separate clusters in a row), take the gate of the nearest centroid in L2 if that
        sends fewer astray. Not in the paper.

    References
    ----------
    .. [1] Nzoyem et al., arXiv:2502.05335, algorithm 1 and section 3.
    """

    n_experts: int
    metric: Metric = "l1"
    statistic: Literal["median", "mean"] = "median"
    max_iter: int = 20
    tol: float = 1e-4
    noise: float = 1e-4
    assignment: Literal["greedy", "hungarian"] = "greedy"
    init: Literal["paper", "kmeans++"] = "paper"
    restarts: int = 10
    repair: bool = False

    def __post_init__(self) -> None:
        positive(n_experts=self.n_experts)
        for name, allowed in (
            ("metric", ("l1", "l2")), ("statistic", ("median", "mean")),
            ("assignment", ("greedy", "hungarian")), ("init", ("paper", "kmeans++")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed {', '.join(allowed)}")

    def __call__(
        self,
        contexts: Tensor,
        expert_losses: Tensor,
        weight: Tensor,
        centroids: Tensor | None,
        *,
        seed: int,
    ) -> GateResult:
        """Find a new gate.

        Parameters
        ----------
        contexts : Tensor, shape (N, c)
        expert_losses : Tensor, shape (N, E)
            Loss of every expert on every environment.
        weight : Tensor, shape (c + 1, E)
            The gate now; kept where the update is skipped.
        centroids : Tensor, shape (E, c), optional
            Of the previous update.
        seed : int

        Returns
        -------
        GateResult

        Raises
        ------
        ValueError
            Shapes that do not fit, or fewer environments than experts.
        """
        n, c = contexts.shape
        e = self.n_experts
        if expert_losses.shape != (n, e) or weight.shape != (c + 1, e):
            raise ValueError(
                f"expert_losses has shape {tuple(expert_losses.shape)} and weight "
                f"{tuple(weight.shape)}, expected {(n, e)} and {(c + 1, e)}"
            )
        if n < e:
            raise ValueError(f"{n} environments and n_experts={e}: need as many environments")
        points = contexts.detach().double().cpu().numpy()
        losses = expert_losses.detach().double().cpu().numpy()
        rng = np.random.default_rng(seed)
        found = self._cluster(points, centroids, rng)
        labels = torch.as_tensor(found.labels)
        if found.has_empty or not found.converged:
            reason: Literal["empty", "not_converged"] = (
                "empty" if found.has_empty else "not_converged"
            )
            nobody = torch.full((e,), -1, dtype=torch.long)
            return GateResult(weight, labels, nobody, None, reason)
        expert = self._assign(losses, found.labels)
        new = self._solve(points, expert[found.labels], found.centroids, expert, rng)
        return GateResult(
            torch.as_tensor(new).to(weight),
            labels,
            torch.as_tensor(expert),
            torch.as_tensor(found.centroids).to(contexts),
        )

    def _cluster(
        self, points: np.ndarray, centroids: Tensor | None, rng: np.random.Generator
    ) -> KMeansResult:
        e = self.n_experts
        settings = {"metric": self.metric, "max_iter": self.max_iter, "tol": self.tol}
        if centroids is not None:
            start = centroids.detach().double().cpu().numpy()
            return kmeans(points, start, **settings)  # type: ignore[arg-type]
        if self.init == "paper":
            start = rng.uniform(-1e-3, 1e-3, (e, points.shape[1]))
            return kmeans(points, start, **settings)  # type: ignore[arg-type]
        found = [
            kmeans(points, _plus_plus(points, e, self.metric, rng), **settings)  # type: ignore[arg-type]
            for _ in range(self.restarts)
        ]
        good = [f for f in found if f.converged and not f.has_empty]
        return min(good or found, key=lambda f: f.inertia)

    def _assign(self, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Expert of each cluster, one to one."""
        e = self.n_experts
        of = np.median if self.statistic == "median" else np.mean
        score = np.array([of(losses[labels == k], axis=0) for k in range(e)])
        if self.assignment == "hungarian":
            from scipy.optimize import linear_sum_assignment

            return np.asarray(linear_sum_assignment(score)[1], np.int64)
        expert = np.full(e, -1)
        for k in range(e):
            free = np.setdiff1d(np.arange(e), expert[:k])
            expert[k] = free[score[k, free].argmin()]
        return expert

    def _solve(
        self,
        points: np.ndarray,
        experts: np.ndarray,
        centroids: np.ndarray,
        expert_of_cluster: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        n, e = len(points), self.n_experts
        noisy = points + self.noise * rng.standard_normal(points.shape)
        design = np.concatenate([noisy, np.ones((n, 1))], axis=1)
        target = np.eye(e)[experts]
        weight: np.ndarray = np.linalg.lstsq(design, target, rcond=None)[0]
        if not self.repair:
            return weight
        exact = np.concatenate([points, np.ones((n, 1))], axis=1)

        def astray(w: np.ndarray) -> int:
            return int(((exact @ w).argmax(axis=1) != experts).sum())

        if not astray(weight):
            return weight
        nearest = np.empty_like(weight)
        # argmin |x - m|^2 = argmax (2 m x - |m|^2)
        nearest[:-1, expert_of_cluster] = 2 * centroids.T
        nearest[-1, expert_of_cluster] = -(centroids**2).sum(axis=1)
        return nearest if astray(nearest) < astray(weight) else weight
