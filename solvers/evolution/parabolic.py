"""Diffusion, reaction and sorption on grids with walls: implicit diffusion, explicit reaction."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..finite_volume import BoundaryValues, FiniteVolumeSystem, check_field, discretize, face_values
from ..grids import Boundary, Grid, normalize_boundary
from ..names import check_name
from ..result import SolverDidNotConverge, SolveResult
from ._ark import A_EXPLICIT, A_IMPLICIT, B_HAT, GAMMA, B, C
from ._common import check_positive, check_times, relative_change, step_gaps

__all__ = ["Storage", "solve_parabolic"]

#: Steps are the gap between stored times over 2**level.
_MAX_LEVEL = 40
#: Difference between whole and halved steps over the error of the halved ones: 15 for the method's
#: fourth order, 7 for the third that stiff boundary layers leave of it.
_RATIO = 10.0
_NEWTON = 30
_NEWTON_TOL = 1e-12


@dataclass(frozen=True)
class Storage:
    """What a unit volume holds at concentration `u`: ``content(u)``, and its derivative.

    Parameters
    ----------
    content, derivative : callable, ndarray -> ndarray
        Pointwise and increasing; evaluated for ``u > 0`` alone if `positive`.
    positive : bool
        Concentrations must stay positive.
    """

    content: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    positive: bool = True


class _StepFailed(Exception):
    """A step that must be tried again with half its length."""


class _Diffusion:
    """``-div(a grad u)`` of one component, ``K u``, and solutions of ``(m V + s K) u = b``."""

    def __init__(
        self, a: np.ndarray, grid: Grid, boundary: Boundary, values: BoundaryValues,
        robin: Mapping[tuple[int, int], float], capacity: np.ndarray, average: str, space: str,
    ) -> None:  # fmt: skip
        c = np.zeros(grid.shape)
        data: dict[tuple[int, int], Any] = {}
        for k, pair in enumerate(boundary):
            for side, kind in enumerate(pair):
                if kind == "periodic":
                    continue
                g = face_values(values, grid, k, side)
                if (k, side) in robin:
                    alpha = robin[k, side]
                    row = np.moveaxis(c, k, 0)[-side, ...]
                    h = grid.spacing[k]
                    if grid.axes[k].location == "node":  # the half cell at the wall
                        row += alpha / (0.5 * h)
                    else:  # the wall lies half a cell from the center
                        shrink = 1.0 / (1.0 + 0.5 * alpha * h / np.moveaxis(a, k, 0)[-side, ...])
                        row += alpha * shrink / h
                        g = g * shrink
                data[k, side] = g
        # with a reaction of 1 the matrix is never singular, so that the fluxes are left as they are
        system = discretize(
            a, 0.0, grid, boundary=list(boundary), boundary_values=data, reaction=1.0 + c,
            average=average,
        )  # fmt: skip
        wall = system.volume * c[system.unknowns]
        self.system: FiniteVolumeSystem = replace(system, reaction=wall if c.any() else None)
        self.volume, self.rhs = system.volume, system.rhs
        self.capacity = capacity[system.unknowns]
        self.cache: dict[float, Callable[[np.ndarray], np.ndarray]] = {}
        self.modes: tuple[list[np.ndarray], np.ndarray] | None = None
        constant = np.ptp(a) == 0 and np.ptp(capacity) == 0 and max(grid.shape) <= 1024
        if constant and (grid.dim > 1 or space == "spectral"):
            self.modes = self._modes(float(a.flat[0]), grid, boundary, robin, space == "spectral")
        self.spectral = space == "spectral"
        self.matrix: Any = None

    @staticmethod
    def _modes(
        a: float, grid: Grid, boundary: Boundary, robin: Mapping[tuple[int, int], float],
        exact: bool,
    ) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
        """Eigenvectors per axis, orthonormal in the volumes, and the sums of the eigenvalues.

        With a constant coefficient those of the finite volumes are sines and cosines (no Robin
        sides), so that the spectral method differs in the eigenvalues alone.
        """
        bases, total = [], np.zeros(())
        for k, axis in enumerate(grid.axes):
            line = Grid((axis,))
            walls = {(0, s): robin[k, s] for s in (0, 1) if (k, s) in robin}
            one = np.ones(axis.n)
            d = _Diffusion(a * one, line, (boundary[k],), 0.0, walls, one, "arithmetic", "line")
            root = 1.0 / np.sqrt(d.volume)
            dense = d.system.matrix().toarray()
            values, vectors = np.linalg.eigh(root[:, None] * dense * root)
            if exact:
                index, length = np.arange(values.size), axis.upper - axis.lower
                pair = boundary[k]
                if pair[0] == "periodic":
                    wave = 2.0 * ((index + 1) // 2)
                elif pair[0] == pair[1]:
                    wave = index + float(pair[0] == "dirichlet")
                else:
                    wave = index + 0.5
                values = a * (np.pi / length * wave) ** 2
            bases.append(root[:, None] * vectors)
            total = np.add.outer(total, values)
        return bases, np.maximum(total, 0.0)

    def _transform(self, x: np.ndarray, inverse: bool) -> np.ndarray:
        assert self.modes is not None
        bases = [p if inverse else p.T for p in self.modes[0]]
        if len(bases) == 2:
            return bases[0] @ x @ bases[1].T
        for k, m in enumerate(bases):
            x = np.moveaxis(np.tensordot(m, x, axes=(1, k)), 0, k)
        return x

    def apply(self, u: np.ndarray) -> np.ndarray:
        """Return ``K u``, integrated over the volumes."""
        if self.spectral and self.modes is not None:
            v = self._transform(self.volume * u, False) * self.modes[1]
            return self.volume * self._transform(v, True)
        return self.system.apply(u)

    def solve(self, b: np.ndarray, s: float) -> np.ndarray:
        """Solve ``(capacity V + s K) u = b``."""
        if s not in self.cache:
            if len(self.cache) > 12:
                self.cache.pop(next(iter(self.cache)))
            self.cache[s] = self._factor(s)
        return self.cache[s](b)

    def _factor(self, s: float) -> Callable[[np.ndarray], np.ndarray]:
        if self.modes is not None:
            weight = 1.0 / (float(self.capacity.flat[0]) + s * self.modes[1])
            return lambda b: self._transform(weight * self._transform(b, False), True)
        return self._factor_sparse(self.capacity, s)

    def _factor_sparse(self, m: np.ndarray, s: float) -> Callable[[np.ndarray], np.ndarray]:
        import scipy.sparse as sp
        from scipy.sparse.linalg import splu

        if self.matrix is None:
            self.matrix = self.system.matrix().tocsc()
        diagonal = sp.diags_array((m * self.volume).ravel(), format="csc")
        lu = splu((diagonal + s * self.matrix).tocsc(), permc_spec="MMD_AT_PLUS_A")
        return lambda b: lu.solve(b.ravel()).reshape(b.shape)

    def linear_solver(self, m: np.ndarray, s: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return a solver with ``m V + s K``, `m` another one each time: for Newton's method."""
        (cond,) = self.system.conductance if self.volume.ndim == 1 else (None,)
        if cond is None or self.system.periodic[0]:
            return self._factor_sparse(m, s)
        from scipy.linalg.lapack import dptsv

        wall = 0.0 if self.system.reaction is None else self.system.reaction
        diagonal = m * self.volume + s * (cond[:-1] + cond[1:] + wall)

        def solve(b: np.ndarray) -> np.ndarray:
            _, _, x, info = dptsv(diagonal, -s * cond[1:-1], b)
            if info:
                raise _StepFailed
            return x

        return solve


class _Stepper:
    """Steps of ``d content(u) / dt = div(a grad u) + f + g(u, t)`` for all components."""

    def __init__(
        self, parts: list[_Diffusion], grid: Grid, explicit: Callable | None,
        storage: Storage | None,
    ) -> None:  # fmt: skip
        self.parts, self.grid, self.explicit, self.storage = parts, grid, explicit, storage
        self.inside = (slice(None), *parts[0].system.unknowns)
        self.lift = np.stack([p.system.lift for p in parts])
        self.residual = 0.0

    def embed(self, u: np.ndarray) -> np.ndarray:
        full = self.lift.copy()
        full[self.inside] = u
        return full

    def content(self, u: np.ndarray) -> np.ndarray:
        if self.storage is not None:
            return self.storage.content(u)
        return np.stack([p.capacity * v for p, v in zip(self.parts, u, strict=True)])

    def diffusion(self, u: np.ndarray) -> np.ndarray:
        return np.stack([
            (p.rhs - p.apply(v)) / p.volume for p, v in zip(self.parts, u, strict=True)
        ])  # fmt: skip

    def reaction(self, u: np.ndarray, t: float) -> np.ndarray | None:
        if self.explicit is None:
            return None
        return self.explicit(self.embed(u), t)[self.inside]

    def stage(self, r: np.ndarray, guess: np.ndarray, s: float) -> np.ndarray:
        """Solve ``content(u) - s (div(a grad u) + f) = r``."""
        if self.storage is not None:
            return np.stack([
                self._newton(p, x, g, s) for p, x, g in zip(self.parts, r, guess, strict=True)
            ])  # fmt: skip
        out = []
        for p, x in zip(self.parts, r, strict=True):
            b = p.volume * x + s * p.rhs
            out.append(p.solve(b, s))
        return np.stack(out)

    def _newton(self, p: _Diffusion, r: np.ndarray, u: np.ndarray, s: float) -> np.ndarray:
        assert self.storage is not None
        b = p.volume * r + s * p.rhs
        size = float(np.linalg.norm(b))
        for _ in range(_NEWTON):
            excess = p.volume * self.storage.content(u) + s * p.apply(u) - b
            if not np.isfinite(excess).all():
                break
            if np.linalg.norm(excess) <= _NEWTON_TOL * size:
                return u
            step = p.linear_solver(self.storage.derivative(u), s)(excess)
            new = u - step
            u = np.maximum(new, 0.1 * u) if self.storage.positive else new
        raise _StepFailed

    def step(self, u: np.ndarray, w: np.ndarray, t: float, dt: float) -> tuple[np.ndarray, ...]:
        """Return ``u``, content and the difference to the embedded result after one step."""
        implicit = [self.diffusion(u)]
        explicit = [self.reaction(u, t)]
        s = GAMMA * dt
        ui = u
        for i in range(1, 6):
            r = w.copy()
            for j in range(i):
                r += (dt * A_IMPLICIT[i, j]) * implicit[j]
                if explicit[j] is not None:
                    r += (dt * A_EXPLICIT[i, j]) * explicit[j]
            ui = self.stage(r, ui, s)
            implicit.append((self.content(ui) - r) / s)
            explicit.append(self.reaction(ui, t + C[i] * dt))
        new, error = w.copy(), np.zeros_like(w)
        for j in range(6):
            rate = implicit[j] if explicit[j] is None else implicit[j] + explicit[j]
            new += (dt * B[j]) * rate
            error += (dt * (B[j] - B_HAT[j])) * rate
        if self.explicit is None:
            return ui, new, error  # stiffly accurate: the last stage is the step
        unknown = np.stack([v / p.capacity for p, v in zip(self.parts, new, strict=True)])
        return unknown, new, error

    def check(self, u: np.ndarray, dt: float) -> None:
        """Relative residual of one implicit stage by the fluxes, kept if it is the largest."""
        if self.storage is not None:
            self.residual = max(self.residual, _NEWTON_TOL)  # Newton stops at it
            return
        s = GAMMA * dt
        for p, v in zip(self.parts, u, strict=True):
            b = p.volume * p.capacity * v + s * p.rhs
            x = p.solve(b, s)
            excess = b - p.volume * p.capacity * x - s * p.apply(x)
            size = float(np.linalg.norm(b))
            if size > 0:
                self.residual = max(self.residual, float(np.linalg.norm(excess)) / size)


def solve_parabolic(
    u0: np.ndarray,
    times: Sequence[float] | np.ndarray,
    grid: Grid,
    *,
    diffusivity: float | np.ndarray | Sequence[float | np.ndarray] = 1.0,
    source: float | np.ndarray | Callable[[float], np.ndarray] | None = None,
    reaction: Callable[[np.ndarray, float], np.ndarray] | None = None,
    capacity: float | np.ndarray = 1.0,
    storage: Storage | None = None,
    boundary: str | tuple | list = "neumann",
    boundary_values: BoundaryValues = 0.0,
    robin: Mapping[tuple[int, int], float] | None = None,
    space: str = "finite_volume",
    average: str = "harmonic",
    rtol: float = 1e-6,
    dt: float | None = None,
    max_steps: int = 1_000_000,
) -> SolveResult:
    """Solve ``c u_t = div(a grad u) + f + g(u, t)``, or ``content(u)_t`` on the left.

    Parameters
    ----------
    u0 : ndarray, shape of the grid or (C, *shape)
        Values at the first time; with C components the equations are coupled by `reaction`.
        Points on Dirichlet sides take the boundary value.
    times : sequence of float, shape (T,)
        Stored times, increasing.
    grid : Grid
        1-D to 3-D, node or cell-centered.
    diffusivity : float or ndarray, or one of them a component
        ``a > 0``.
    source : float, ndarray or callable ``t -> ndarray``
        ``f``, in the shape of `u0` (or the grid's, for all components).
    reaction : callable ``(u, t) -> ndarray``
        ``g``, in the shape of `u0`; not stiff, it is explicit.
    capacity : float or ndarray
        ``c > 0``.
    storage : Storage, optional
        Nonlinear content in place of ``c u``; excludes `reaction`, a `source` that depends on time,
        and `capacity`.
    boundary : str or sequence
        ``"dirichlet"``, ``"neumann"`` or ``"periodic"``, one for all, per axis or per side. The
        sides named in `robin` must be ``"neumann"``.
    boundary_values : float or mapping ``(axis, side) -> value``
        Dirichlet values; outward fluxes ``a du/dn`` of Neumann sides; ``g`` of Robin sides.
    robin : mapping ``(axis, side) -> alpha``
        Sides with ``a du/dn + alpha u = g``, ``alpha >= 0``.
    space : {"finite_volume", "spectral"}
        Second order; or sines and cosines at the same points, for constant `diffusivity` and
        homogeneous conditions, of spectral accuracy if `u` continues smoothly across the walls
        (even at Neumann, odd at Dirichlet sides).
    average : {"harmonic", "arithmetic"}
        Mean of `a` on a face.
    rtol : float
        Relative L2 error in space and time that the steps may make.
    dt : float, optional
        Fixed longest step, instead of adaptive ones.
    max_steps : int

    Returns
    -------
    SolveResult
        `x` of shape (T, *u0.shape); `info` holds ``time_error`` and ``steps``. `residual` is the
        largest relative residual of the linear systems that was measured (once a stored time).

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        Blow-up, or a step below 2**-40 of the gap between stored times.

    Notes
    -----
    ARK4(3)6L[2]SA [1]_ with the step from the embedded error; the accepted steps are then run
    again in halves (or, if stored times and not errors keep them short, joined in pairs). The finer
    of the two runs is the result, their difference over ten the estimate of its error, and the
    tolerance is tightened until the estimate is below `rtol`.

    References
    ----------
    .. [1] Kennedy & Carpenter, Applied Numerical Mathematics 44 (2003) 139-181.
    """
    t = check_times(times)
    u0 = np.asarray(u0, np.float64)
    single = u0.shape == grid.shape
    if not single and u0.shape[1:] != grid.shape:
        raise ValueError(f"u0 has shape {u0.shape}, expected {grid.shape} or (C, *{grid.shape})")
    if not np.isfinite(u0).all():
        raise ValueError("u0 holds NaN or infinity")
    state = u0[None] if single else u0
    check_name("space", space, ("finite_volume", "spectral"))
    check_positive("rtol", rtol)
    if dt is not None:
        check_positive("dt", dt)
    walls = _check_robin(robin, boundary, grid)
    if storage is not None and (reaction is not None or callable(source)):
        raise ValueError("storage excludes reaction and a source that depends on time")
    stepper = _build(
        state, grid, single=single, diffusivity=diffusivity, source=source, reaction=reaction,
        capacity=capacity, storage=storage, boundary=boundary, values=boundary_values,
        robin=walls, average=average, space=space,
    )  # fmt: skip
    start = clock.perf_counter()
    u_first = state[stepper.inside].copy()
    name = f"{space}.ark4" if storage is None else f"{space}.esdirk4"
    halved = 2
    tol = 10.0 * rtol  # of one step: errors of the halved steps come to less than that
    for _ in range(6):
        if dt is None:
            coarse, plan = _adapt(stepper, u_first, t, tol, max_steps, name)
            merged, kept = _merged(plan)
            if sum(map(len, merged)) <= 0.6 * sum(map(len, plan)) and len(kept) > len(t) / 3:
                # stored times, not errors, keep the steps short: compare with steps twice as long
                try:
                    wide = _replay(stepper, u_first, t[kept], merged, 1, name)
                    error = relative_change(wide, coarse[kept], grid, t[kept]) / _RATIO
                except SolverDidNotConverge:  # too long for the explicit reaction
                    error = np.inf
                if error <= rtol:
                    fine, halved = coarse, 1
                    stepper.check(fine[-1][stepper.inside], plan[-1][-1])
                    break
        else:
            plan = [_uniform(gap, dt) for gap in step_gaps(t)]
            coarse = _replay(stepper, u_first, t, plan, 1, name)
        fine, halved = _replay(stepper, u_first, t, plan, 2, name), 2
        error = relative_change(coarse, fine, grid, t) / _RATIO
        if error <= rtol or dt is not None:
            break
        tol *= 0.5 * (rtol / error) ** (4 / 3) if np.isfinite(error) else 0.01
    else:
        raise SolverDidNotConverge(
            name, iterations=sum(map(len, plan)), residual=error, rtol=rtol,
            note="the estimated error of the time steps does not fall below rtol",
        )  # fmt: skip
    steps = halved * sum(map(len, plan))
    return SolveResult(
        x=fine[:, 0] if single else fine, residual=stepper.residual,
        residuals=np.array([stepper.residual]), iterations=steps, solver=name,
        seconds=clock.perf_counter() - start,
        info={"time_error": error, "steps": steps},
    )  # fmt: skip


def _check_robin(
    robin: Mapping[tuple[int, int], float] | None, boundary: str | tuple | list, grid: Grid
) -> dict[tuple[int, int], float]:
    kinds = normalize_boundary(boundary, grid)
    out = {}
    for key, alpha in (robin or {}).items():
        if key not in {(k, s) for k in range(grid.dim) for s in (0, 1)}:
            raise ValueError(f"robin has the key {key!r}: allowed are (axis, side)")
        if kinds[key[0]][key[1]] != "neumann":
            raise ValueError(
                f"robin[{key}]: the side is {kinds[key[0]][key[1]]!r} in boundary, "
                "it must be 'neumann'"
            )
        if not (np.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"robin[{key}]={alpha}: need a number >= 0")
        out[key] = float(alpha)
    return out


def _build(
    state: np.ndarray, grid: Grid, *, single: bool, diffusivity: Any, source: Any, reaction: Any,
    capacity: Any, storage: Storage | None, boundary: Any, values: BoundaryValues,
    robin: dict[tuple[int, int], float], average: str, space: str,
) -> _Stepper:  # fmt: skip
    n = len(state)
    kinds = normalize_boundary(boundary, grid)
    given = [diffusivity] * n if single or np.ndim(diffusivity) == 0 else list(diffusivity)
    if len(given) != n:
        raise ValueError(f"diffusivity has {len(given)} entries, u0 {n} components")
    c = check_field("capacity", capacity, grid, positive=True)
    fields = [check_field("diffusivity", a, grid, positive=True) for a in given]
    if space == "spectral":
        data = values if isinstance(values, Mapping) else {(0, 0): values}
        if any(np.any(np.asarray(v) != 0) for v in data.values()) or robin:
            raise ValueError("space='spectral' needs homogeneous Dirichlet or Neumann conditions")
        if any(np.ptp(a) > 0 for a in fields) or np.ptp(c) > 0 or storage is not None:
            raise ValueError("space='spectral' needs constant diffusivity and capacity")
        if max(grid.shape) > 1024:
            raise ValueError(f"space='spectral': {grid.shape} points, allowed are 1024 an axis")
    parts = [_Diffusion(a, grid, kinds, values, robin, c, average, space) for a in fields]
    explicit: Callable | None = None
    if source is not None and not callable(source):
        f = np.asarray(source, np.float64)
        if f.shape not in ((), grid.shape, state.shape):
            raise ValueError(f"source has shape {f.shape}, expected {grid.shape}")
        if not np.isfinite(f).all():
            raise ValueError("source holds NaN or infinity")
        f = np.broadcast_to(f, state.shape)
        for p, fi in zip(parts, f, strict=True):
            p.rhs = p.rhs + p.volume * fi[p.system.unknowns]
    if callable(source) or reaction is not None:

        def explicit(u: np.ndarray, t: float) -> np.ndarray:
            out = np.zeros_like(u)
            if reaction is not None:
                out += reaction(u[0] if single else u, t)
            if callable(source):
                out += source(t)
            return out

    return _Stepper(parts, grid, explicit, storage)


def _sizes(w: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Norm of each component."""
    axes = tuple(range(1, w.ndim))
    return np.sqrt(np.sum(volume * w**2, axis=axes))


def _adapt(
    stepper: _Stepper, u: np.ndarray, t: np.ndarray, tol: float, max_steps: int, name: str
) -> tuple[np.ndarray, list[list[float]]]:
    """Solve with steps chosen by the embedded error; return the fields and the steps taken."""
    volume = stepper.parts[0].volume
    out, plan = [stepper.embed(u)], []
    w = stepper.content(u)
    tiny = np.finfo(float).tiny
    dt = 0.0
    count = 0
    for start, gap in zip(t[:-1], step_gaps(t), strict=True):
        if dt == 0.0:
            rate = stepper.diffusion(u)
            extra = stepper.reaction(u, start)
            rate = rate if extra is None else rate + extra
            with np.errstate(divide="ignore"):
                guess = 0.1 * tol**0.25 * _sizes(w, volume) / np.maximum(_sizes(rate, volume), tiny)
            positive = guess[guess > 0]
            dt = float(positive.min()) if positive.size else tol**0.25 * gap
        level = int(np.clip(np.ceil(np.log2(max(gap / dt, 1.0)) - 1e-9), 0, _MAX_LEVEL - 8))
        k, taken = 0, []
        while k < 2**level:
            dt = gap / 2**level
            count += 1
            try:
                with np.errstate(all="ignore"):
                    new_u, new_w, error = stepper.step(u, w, start + k * dt, dt)
                    size = np.maximum(_sizes(w, volume), _sizes(new_w, volume))
                    e = float(np.max(_sizes(error, volume) / np.maximum(size, tiny))) / tol
            except _StepFailed:
                e = np.inf
            if not np.isfinite(e) or not np.isfinite(new_w).all():
                e = np.inf
            if e > 1.0:
                level, k = level + 1, 2 * k
                if level > _MAX_LEVEL or count > max_steps:
                    raise SolverDidNotConverge(
                        name, iterations=count, residual=e * tol, rtol=tol,
                        note=f"blow-up at t={start + k * dt / 2:.6g}: the step fell to {dt:.1e}",
                    )  # fmt: skip
                continue
            u, w, k = new_u, new_w, k + 1
            taken.append(dt)
            if e < 1 / 50 and level > 0 and k % 2 == 0:
                level, k = level - 1, k // 2
            if count > max_steps:
                raise SolverDidNotConverge(
                    name, iterations=count, residual=e * tol, rtol=tol,
                    note=f"max_steps={max_steps} reached at t={start + k * dt:.6g}",
                )  # fmt: skip
        dt = gap / 2**level  # wider than the last step if that was accurate enough
        out.append(stepper.embed(u))
        plan.append(taken)
    return np.stack(out), plan


def _uniform(gap: float, dt: float) -> list[float]:
    n = int(np.ceil(gap / dt - 1e-9))
    return [gap / n] * n


def _merged(plan: list[list[float]]) -> tuple[list[list[float]], list[int]]:
    """Join equal steps that follow each other, those of single-step gaps across the stored times.

    Returns
    -------
    plan : list of list of float
    kept : list of int
        Numbers of the stored times that the joined steps still meet.
    """
    out: list[list[float]] = []
    kept, i = [0], 0
    while i < len(plan):
        steps = plan[i]
        if len(steps) == 1 and i + 1 < len(plan) and plan[i + 1] == steps:
            out.append([2 * steps[0]])
            i += 2
        else:
            joined, k = [], 0
            while k < len(steps):
                pair = k + 1 < len(steps) and steps[k + 1] == steps[k]
                joined.append(steps[k] * (2 if pair else 1))
                k += 2 if pair else 1
            out.append(joined)
            i += 1
        kept.append(i)
    return out, kept


def _replay(
    stepper: _Stepper, u: np.ndarray, t: np.ndarray, plan: list[list[float]], parts: int, name: str
) -> np.ndarray:
    """Solve with given steps, each in `parts`."""
    out = [stepper.embed(u)]
    w = stepper.content(u)
    for start, steps in zip(t[:-1], plan, strict=True):
        now = float(start)
        for dt in steps:
            for _ in range(parts):
                try:
                    with np.errstate(all="ignore"):
                        u, w, _ = stepper.step(u, w, now, dt / parts)
                except _StepFailed:
                    w = np.full_like(w, np.nan)
                if not np.isfinite(w).all():
                    raise SolverDidNotConverge(
                        name, iterations=sum(map(len, plan)), residual=np.nan, rtol=0.0,
                        note=f"blow-up at t={now:.6g} with the step {dt / parts:.1e}",
                    )  # fmt: skip
                now += dt / parts
        if parts > 1:
            stepper.check(u, steps[-1] / parts)
        out.append(stepper.embed(u))
    return np.stack(out)
