"""Plug-and-play iterations on tempered data, each sample by its own noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .forward import as_forward, temper
from .pnp import Certificate, InverseResult, _positive, check_data, pnp_pgd
from .prior import as_prior

__all__ = ["pnp_tempered"]


def pnp_tempered(
    forward: Any,
    data: Any,
    prior: Any,
    *,
    sigma_noise: float | np.ndarray,
    method: Callable[..., InverseResult] = pnp_pgd,
    at: Any = None,
    x0: Any = None,
    **options: Any,
) -> InverseResult:
    """Temper the data, then iterate with the weight that the noise asks for.

    Parameters
    ----------
    forward, data, prior
        As for `pnp_pgd`; the prior has to know the noise of its training.
    sigma_noise : float or ndarray, shape (batch,)
        Standard deviation of the noise. Samples of equal noise iterate together: the directions
        whose noise is inflated depend on it.
    method : callable
        `pnp_pgd`, `pnp_admm` or `pnp_drs`.
    at : ndarray, optional
        Of a nonlinear map, see `temper`.
    x0 : ndarray, optional
    **options
        Of the method, such as ``max_iter`` and ``tol``.

    Returns
    -------
    InverseResult
        Of all samples. The certificate is that of the sample for which most was inflated, and says
        yes only where it holds for all.

    Raises
    ------
    ValueError
        As the method and `temper`; or a prior that does not say at which noise it was trained.
    """
    made = as_forward(forward)
    y, single = check_data(data, made)
    known = as_prior(prior, made.in_shape)
    if known.sigma is None:
        raise ValueError("the prior does not say at which noise it was trained: give sigma")
    noise = _positive("sigma_noise", sigma_noise, len(y))
    starts = None if x0 is None else np.broadcast_to(x0, (len(y), *made.in_shape))
    parts: list[tuple[np.ndarray, InverseResult, int]] = []
    for level in np.unique(noise):
        index = np.flatnonzero(noise == level)
        tempered, weigh = temper(made, float(level), known.sigma, at=at)
        weight = float(level) ** 2 / known.sigma**2
        r = method(
            tempered, weigh(y[index]), known, x0=None if starts is None else starts[index],
            sigma_noise=float(level),
            **({"step": 1 / weight} if method is pnp_pgd else {"rho": weight}), **options,
        )  # fmt: skip
        parts.append((index, r, tempered.inflated))
    out = _together(parts, len(y))
    return replace(out, x=out.x[0]) if single else out


def _together(parts: list[tuple[np.ndarray, InverseResult, int]], n: int) -> InverseResult:
    order = np.argsort(np.concatenate([index for index, _, _ in parts]))
    length = max(len(r.residuals) for _, r, _ in parts)

    def rows(name: str) -> np.ndarray:
        return np.concatenate([getattr(r, name) for _, r, _ in parts])[order]

    def table(name: str) -> np.ndarray:
        columns = []
        for _, r, _ in parts:
            values = getattr(r, name)
            missing = np.full((length - len(values), values.shape[1]), np.nan)
            columns.append(np.concatenate([values, missing]))
        return np.concatenate(columns, axis=1)[:, order]

    restarts = [(k, int(index[i])) for index, r, _ in parts for k, i in r.restarts]
    split = None if any(r.split is None for _, r, _ in parts) else rows("split")
    return InverseResult(
        x=rows("x"), objective=table("objective"), residuals=table("residuals"),
        converged=rows("converged"), diverged=rows("diverged"), iterations=rows("iterations"),
        certificate=_worst(parts), misfit=rows("misfit"), regularizer=rows("regularizer"),
        fixed_point=rows("fixed_point"), weight=rows("weight"), restarts=tuple(sorted(restarts)),
        seconds=sum(r.seconds for _, r, _ in parts), split=split,
    )  # fmt: skip


def _worst(parts: list[tuple[np.ndarray, InverseResult, int]]) -> Certificate | None:
    found = [(inflated, r.certificate) for _, r, inflated in parts if r.certificate is not None]
    if not found:
        return None
    certificates = [c for _, c in found]
    _, worst = max(found, key=lambda pair: (not pair[1].guaranteed, pair[0]))
    rises = [c.largest_increase for c in certificates if np.isfinite(c.largest_increase)]
    return replace(
        worst,
        guaranteed=all(c.guaranteed for c in certificates),
        consistent=all(c.consistent for c in certificates),
        monotone=all(c.monotone for c in certificates),
        largest_increase=max(rises, default=float("nan")),
    )
