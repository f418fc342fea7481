"""Time-harmonic waves in a medium of varying speed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.elements import MAX_DEGREE, projected_indicator
from solvers.finite_volume import Robin
from solvers.grids import Axis, Grid
from solvers.helmholtz import points_per_wavelength, solve_helmholtz

from ..fields import GaussianBumps, GaussianField, bounded
from ..hdf5.schema import BoundarySpec, DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, ProblemError, Solution, register
from ..verification import Check, at_most, order_check
from ._elliptic import BoxParameters, BoxProblem

__all__ = ["PRESETS", "Helmholtz", "HelmholtzParameters", "IncidentWave"]

#: Standard deviation of N(0, (-Laplacian + 9)^-2) without its mean, on the unit square.
_MGNO_STD = math.sqrt(GaussianField(2.0, 3.0, n_modes=12, zero_mean=True).mean_variance)
PRESETS: dict[str, dict[str, Any]] = {
    "mgno": {
        "omega": 1000.0, "speed": 20.0, "speed_range": 1.0, "alpha": 2.0, "tau": 3.0,
        "field_std": _MGNO_STD, "n_modes": 12, "source": "flux", "boundary": "neumann",
        "solve_refinement": 2,
    },
}  # fmt: skip
_ABSORBING = ("impedance", "pml")
#: Half the width of the part of a side that the flux comes in through, of the side's length.
FLUX_HALF_WIDTH = 0.15


class HelmholtzParameters(BoxParameters):
    """Parameters of `Helmholtz`."""

    preset: Literal["mgno"] | None = Field(
        None, description="data set of a paper: sets the parameters that are not given"
    )
    boundary: Literal["impedance", "pml", "dirichlet", "neumann", "robin", "mixed", "periodic"] = (
        Field(  # type: ignore[assignment]
            "impedance",
            description="condition on all sides; impedance: du/dn - i k u = 0, absorbs what "
            "meets it at a right angle; pml: perfectly matched layers outside; walls: dirichlet, "
            "neumann, robin (du/dn + kappa u = 0); mixed: dirichlet on lower sides, neumann on "
            "upper ones; periodic",
        )
    )
    location: Literal["node"] = Field("node", description="boundary points are included")
    omega: float = Field(
        40.0, gt=0, le=1e7, allow_inf_nan=False, description="angular frequency, rad/s"
    )
    speed: float = Field(
        1.0, gt=0, le=1e7, allow_inf_nan=False, description="mean speed of waves, m/s"
    )
    speed_range: float = Field(
        0.2, ge=0, allow_inf_nan=False,
        description="c = speed + speed_range tanh(Gaussian field); below speed; m/s",
    )  # fmt: skip
    alpha: float = Field(
        3.0, gt=0.5, le=20,
        description="smoothness of the field, N(0, (-Laplacian + tau^2)^-alpha), mean left out",
    )  # fmt: skip
    tau: float = Field(3.0, gt=0, le=1e4, description="inverse correlation length, 1/m")
    field_std: float = Field(
        1.0, gt=0, le=10, description="standard deviation of the field before tanh"
    )
    n_modes: int = Field(12, ge=2, le=512, description="modes per axis of the field")
    source: Literal["bumps", "plane_wave", "flux"] = Field(
        "bumps",
        description="bumps: f a sum of Gaussians; plane_wave: comes in through impedance sides; "
        "flux: du/dn = 1 on the middle 30 % of the upper side of the last axis, which is neumann",
    )
    n_bumps: int = Field(1, ge=1, le=1000, description="number of bumps")
    width_min: float = Field(0.03, gt=0, description="smallest standard deviation of a bump, m")
    width_max: float = Field(0.06, gt=0, description="largest one, m")
    amplitude: float = Field(
        1000.0, gt=0, le=1e12, allow_inf_nan=False,
        description="of the bumps: standard deviation of heights, of a plane wave: its amplitude "
        "over 1000",
    )  # fmt: skip
    degree: int = Field(
        4, ge=1, le=MAX_DEGREE, description="of the elements; must divide the cells of every axis"
    )
    pml_cells: int = Field(
        16, ge=1, le=4096, description="width of perfectly matched layers, cells of the solve grid"
    )
    min_points_per_wavelength: float = Field(
        8.0, ge=2, le=100, description="refuse grids with fewer points on the shortest wave"
    )
    transfer: float = Field(
        10.0, gt=0, le=1e6, allow_inf_nan=False, description="kappa of robin sides, 1/m"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("preset"), str):
            return {**PRESETS.get(values["preset"], {}), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> HelmholtzParameters:
        if not self.speed_range < self.speed:
            raise ValueError(
                f"speed_range={self.speed_range}: must be below speed={self.speed}, speeds are "
                "positive"
            )
        if not self.width_min <= self.width_max:
            raise ValueError(
                f"width_min={self.width_min}, width_max={self.width_max}: need min <= max"
            )
        if self.source == "plane_wave" and self.boundary != "impedance":
            raise ValueError(
                f"source='plane_wave' comes in through impedance sides, got boundary="
                f"{self.boundary!r}"
            )
        if self.source == "flux" and self.boundary not in ("neumann", "impedance", "dirichlet"):
            raise ValueError(
                f"source='flux' goes with neumann, impedance or dirichlet on the other sides, got "
                f"boundary={self.boundary!r}"
            )
        if self.boundary == "pml" and self.pml_cells % self.degree:
            raise ValueError(f"pml_cells={self.pml_cells}: need a multiple of degree={self.degree}")
        length = min(upper - lower for lower, upper in self.bounds)
        if self.boundary == "periodic" and self.width_max > length / 4:
            raise ValueError(
                f"width_max={self.width_max}: with periodic sides at most {length / 4:g}"
            )
        return self


class IncidentWave:
    """Plane wave ``amplitude exp(i k d . x)``: a function of space.

    Parameters
    ----------
    k : float
    direction : ndarray, shape (dim,)
        Unit vector.
    amplitude : float
    """

    def __init__(self, k: float, direction: np.ndarray, amplitude: float) -> None:
        self.k, self.direction, self.amplitude = k, direction, amplitude

    def __call__(self, grid: Grid) -> np.ndarray:
        """Complex values at the points of `grid`."""
        phase = sum(
            (d * x for d, x in zip(self.direction, grid.meshgrid(), strict=True)), np.zeros(())
        )
        return np.asarray(self.amplitude * np.exp(1j * self.k * phase))


@register
class Helmholtz(BoxProblem):
    """``-laplace(u) - (omega/c)^2 u = f`` in a box, with walls or absorbing sides.

    Parameters
    ----------
    **params
        Fields of `HelmholtzParameters`.

    Notes
    -----
    Waves go as ``exp(-i omega t)``. With absorbing sides `u` is complex and stored as `u_re` and
    `u_im`; between walls it is real, `u`. A sample too close to a resonance of the walls fails; one
    near a resonance has a large `discretization_error`, as it should.

    *Data set* ``preset="mgno"`` at resolution 101: de Hoop et al. [1]_, used by MgNO. Unit square,
    ``omega = 1000``, ``c = 20 + tanh(field)``, field N(0, (-Laplacian + 9)^-2) without its mean,
    ``du/dn = 1`` on the part 0.35 < x < 0.65 of the upper side and 0 elsewhere: so says the code of
    the authors. Two differences: the field has the 143 modes below 12 on each axis, theirs the 100
    of smallest wave number; and the equation is solved by elements of degree 4 on 201 points an
    axis, not bilinear ones on 101. Relative L2 errors of five samples against 401 points: 6e-5 to
    3e-4; bilinear elements on 101 points, 12.6 of them a wave, are off by 0.6 to 1.0 (their phase
    is), which data made that way carry.

    *Accuracy*: order ``degree + 1`` for smooth data. Where a flux jumps, `u` is of the form
    ``r log r`` beside the jump, and the order is 2. LU costs seconds on 257 x 257 points, and in
    3-D minutes beyond 33 points an axis.

    References
    ----------
    .. [1] de Hoop, Huang, Qian, Stuart, "The cost-accuracy trade-off in operator learning with
       neural networks", J. Mach. Learn. 1 (2022), arXiv:2203.13181, section 4.
    """

    name: ClassVar[str] = "helmholtz"
    title: ClassVar[str] = "Helmholtz equation, waves in a random medium"
    equation: ClassVar[str] = r"-\Delta u - \frac{\omega^2}{c(x)^2}\,u = f"
    solvers: ClassVar[tuple[str, ...]] = ("elements",)
    length_units: ClassVar[str] = "m"
    default_resolution: int = 101
    quick_resolution = 33
    quick_params: ClassVar[Mapping[str, Any]] = {"omega": 15.0}
    reference: ClassVar[str] = "de Hoop et al. 2022, arXiv:2203.13181"
    Params: ClassVar[type[Parameters]] = HelmholtzParameters
    params: HelmholtzParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = self.gaussian_field(
            alpha=p.alpha, tau=p.tau, n_modes=p.n_modes, zero_mean=True
        ).normalized(p.field_std)
        self.is_complex = p.boundary in _ABSORBING

    @property
    def sides(self) -> Any:
        """Kind of condition, one (lower, upper) pair an axis."""
        pairs = list(super().sides)
        if self.params.source == "flux":
            pairs[-1] = (pairs[-1][0], "neumann")
        return tuple(pairs)

    def check_resolution(self, resolution: int | tuple[int, ...] | None) -> tuple[int, ...]:
        """Return one number of points an axis, if waves are resolved and elements fit."""
        shape = super().check_resolution(resolution)
        p = self.params
        grid = self.solve_grid(shape)
        for n, axis in zip(shape, grid.axes, strict=True):
            cells = axis.n if axis.periodic else axis.n - 1
            if cells % p.degree:
                raise ProblemError(
                    f"resolution={n}: elements of degree={p.degree} need a multiple of {p.degree} "
                    f"cells; try {n + (-cells) % p.degree}, or another degree"
                )
        k = p.omega / (p.speed - p.speed_range)
        ppw = points_per_wavelength(k, grid)
        if ppw < p.min_points_per_wavelength:
            finer = math.ceil(max(shape) * p.min_points_per_wavelength / ppw)
            finer += (int(p.boundary != "periodic") - finer) % p.degree  # elements fit, too
            raise ProblemError(
                f"resolution={'x'.join(map(str, shape))}: {ppw:.2g} points on the shortest wave, "
                f"need min_points_per_wavelength={p.min_points_per_wavelength:g}; try {finer} or "
                "more, or solve_refinement"
            )
        return shape

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Speed and source, or speed and incident wave, in; `u`, or `u_re` and `u_im`, out."""
        p = self.params
        inputs = [
            FieldSpec(
                "c", "speed of waves", "m/s", valid_min=p.speed - p.speed_range,
                valid_max=p.speed + p.speed_range,
            )
        ]  # fmt: skip
        if p.source == "bumps":
            inputs.append(FieldSpec("f", "source", "1/m^2"))
        elif p.source == "plane_wave":
            inputs.append(FieldSpec("w_re", "incident wave, real part"))
            inputs.append(FieldSpec("w_im", "incident wave, imaginary part"))
        outputs = (
            (FieldSpec("u_re", "wave, real part"), FieldSpec("u_im", "wave, imaginary part"))
            if self.is_complex
            else (FieldSpec("u", "wave"),)
        )
        names = tuple(f.name for f in outputs)
        conditions = []
        for axis, (lower, upper) in zip("xyz", self.sides, strict=False):
            for side, kind in (("lower", lower), ("upper", upper)):
                driven = p.source == "flux" and axis == "xyz"[self.dim - 1] and side == "upper"
                if kind in ("dirichlet", "neumann") and not driven:
                    conditions.append(BoundarySpec(axis, kind, names, side))  # type: ignore[arg-type]
                elif kind == "robin":
                    conditions.append(
                        BoundarySpec(axis, kind, names, side, 0.0, p.transfer, 1.0)  # type: ignore[arg-type]
                    )
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(*inputs, *outputs),
            inputs=tuple(f.name for f in inputs),
            outputs=names,
            scalars=(ScalarSpec("omega", "angular frequency", "rad/s", p.omega),),
            boundary_conditions=tuple(conditions),
            dtype=dtype,
            equation=self.equation,
        )

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw speed and source, or direction of the incident wave."""
        p = self.params
        low, high = p.speed - p.speed_range, p.speed + p.speed_range
        out: dict[str, Any] = {"c": bounded(self.field.draw(rng), low, high)}
        if p.source == "bumps":
            out["f"] = GaussianBumps(
                p.n_bumps, (p.width_min, p.width_max), p.amplitude, bounds=p.bounds,
                periodic=p.boundary == "periodic",
            ).draw(rng)  # fmt: skip
        elif p.source == "plane_wave":
            d = rng.standard_normal(self.dim)
            d /= np.linalg.norm(d)
            out["w"] = IncidentWave(p.omega / p.speed, d, p.amplitude / 1000.0)
        return out

    def solve(
        self,
        inputs: Mapping[str, Any],
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> Solution:
        """Solve on a grid."""
        self.check_solver(solver)
        p, grid = self.params, self.solve_grid(resolution)
        c = inputs["c"](grid)
        k = p.omega / c
        f = inputs["f"](grid) if "f" in inputs else np.zeros(grid.shape)
        values: dict[tuple[int, int], Any] = {}
        for axis, pair in enumerate(self.sides):
            for side, kind in enumerate(pair):
                if kind == "robin":
                    values[axis, side] = Robin(p.transfer)
                if "w" in inputs:
                    wave = inputs["w"]
                    w, ks = (np.take(v, -side, axis=axis) for v in (wave(grid), k))
                    normal = (2 * side - 1) * wave.direction[axis]
                    values[axis, side] = 1j * (wave.k * normal - ks) * w
        if p.source == "flux":
            values[self.dim - 1, 1] = self._flux(grid)
        r = solve_helmholtz(
            k, f, grid, boundary=self.sides, boundary_values=values, degree=p.degree,
            pml_cells=p.pml_cells, min_points_per_wavelength=p.min_points_per_wavelength,
            rtol=rtol,
        )  # fmt: skip
        fields = {"c": self.stored(c)}
        if "f" in inputs:
            fields["f"] = self.stored(f)
        if "w" in inputs:
            w = inputs["w"](self.grid(resolution))
            fields |= {"w_re": w.real, "w_im": w.imag}
        u = self.stored(r.x)
        fields |= {"u_re": u.real, "u_im": u.imag} if self.is_complex else {"u": u}
        if self.is_complex and not np.iscomplexobj(u):
            fields["u_im"] = np.zeros_like(u)
        fields = {name: np.ascontiguousarray(v) for name, v in fields.items()}
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    def _flux(self, grid: Grid) -> np.ndarray:
        """1 on the middle of the side, 0 elsewhere, projected on the elements."""
        out: Any = np.ones(())
        for axis in grid.axes[:-1]:
            middle, length = 0.5 * (axis.lower + axis.upper), axis.upper - axis.lower
            out = np.multiply.outer(
                out,
                projected_indicator(
                    axis, self.params.degree, middle - FLUX_HALF_WIDTH * length,
                    middle + FLUX_HALF_WIDTH * length,
                ),
            )  # fmt: skip
        return np.asarray(out)

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Return ``"elements"``."""
        return "elements"

    def check_solver(self, solver: str) -> str:
        """Return `solver` if this problem has it."""
        return super(BoxProblem, self).check_solver(solver)

    def convergence_order(self, solver: str) -> float:
        """``degree + 1``; 2 beside a jump of the flux."""
        jumps = self.params.source == "flux" and self.dim > 1
        return 2.0 if jumps else self.params.degree + 1.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        shape = "x".join(map(str, self.solve_grid(resolution).shape))
        return f"Lagrange elements of degree {self.params.degree} on boxes, {shape} nodes"

    def checks(self) -> Iterator[Check]:
        """Plane waves, a cylinder wave, a mode of walls, energy, estimated against true errors."""
        yield from plane_wave_orders()
        yield cylinder_wave()
        yield standing_wave()
        problem = Helmholtz(omega=20.0)
        inputs = problem.sample(np.random.default_rng(0))
        s = problem.solve(inputs, (65, 65), solver="elements")
        grid, c, f = problem.grid((65, 65)), s.fields["c"], s.fields["f"]
        u = s.fields["u_re"] + 1j * s.fields["u_im"]
        w = grid.axes[0].weights
        lost = sum(
            float(w @ np.take(20.0 / c * np.abs(u) ** 2, -side, axis=k))
            for k in (0, 1) for side in (0, 1)
        )  # fmt: skip
        gained = float(np.sum(grid.weights * f * u.imag))
        yield at_most(
            "power through impedance sides against that of the source", abs(lost / gained - 1),
            1e-3, kind="invariant", note=f"{lost:.6g} and {gained:.6g}, trapezoidal rule",
        )  # fmt: skip
        fine = problem.solve(inputs, (257, 257), solver="elements")
        coarse = problem.solve(inputs, (33, 33), solver="elements")
        grid = problem.grid((33, 33))
        gap = max(
            grid.norm(coarse.fields[n] - fine.fields[n][::8, ::8])
            / grid.norm(fine.fields[n][::8, ::8])
            for n in ("u_re", "u_im")
        )
        e = problem.discretization_error(inputs, coarse, (33, 33), solver="elements")
        yield Check(
            "estimated over true error, 33 x 33", e / gap, "0.5 to 2", 0.5 <= e / gap <= 2.0,
            "estimate", f"true error {gap:.2e} against 257 x 257",
        )  # fmt: skip


def plane_wave_orders() -> Iterator[Check]:
    """Orders of elements of each degree for an oblique plane wave through impedance sides."""
    k, wave = 10.0, IncidentWave(10.0, np.array([0.6, 0.8]), 1.0)
    for degree in range(1, MAX_DEGREE + 1):
        errors, spacings = [], []
        for n in (25, 49, 97):
            grid = Grid.unit(n, dim=2)
            exact = wave(grid)
            values = {
                (i, s): 1j * k * ((2 * s - 1) * wave.direction[i] - 1) * np.take(exact, -s, axis=i)
                for i in (0, 1)
                for s in (0, 1)
            }
            r = solve_helmholtz(
                k, 0.0, grid, boundary="impedance", boundary_values=values, degree=degree
            )
            errors.append(grid.norm(np.abs(r.x - exact)))
            spacings.append(grid.spacing[0])
        # At the nodes of uniform grids degree 2 gains an order
        order = {1: 2.0, 2: 4.0, 3: 4.0, 4: 5.0}[degree]
        yield order_check(f"order in space, degree {degree}", spacings, errors, order)


def cylinder_wave(n: int = 97) -> Check:
    """Field of a small Gaussian source in free space against the Hankel function."""
    from scipy.special import hankel1

    k, w, center = 30.0, 0.03, (0.4, 0.5)
    grid = Grid.unit(n, dim=2)
    x, y = grid.meshgrid()
    r = np.hypot(x - center[0], y - center[1])
    f = np.exp(-(r**2) / (2 * w**2)) / (2 * math.pi * w**2)
    u = solve_helmholtz(k, f, grid, boundary="pml").x
    far = r > 8 * w  # beyond, the Gaussian acts as a point source of strength exp(-(k w)^2 / 2)
    exact = 0.25j * hankel1(0, k * np.where(far, r, 1.0)) * math.exp(-((k * w) ** 2) / 2)
    error = float(np.linalg.norm((u - exact)[far]) / np.linalg.norm(exact[far]))
    return at_most(f"cylinder wave, pml, {n} x {n}", error, 5e-4, note="against i/4 H0(k r)")


def standing_wave() -> Check:
    """Compare with a forced mode ``cos(2 pi x) cos(pi y)`` between Neumann walls."""
    grid = Grid((Axis("x", 33), Axis("y", 33)))
    x, y = grid.meshgrid()
    exact = np.cos(2 * np.pi * x) * np.cos(np.pi * y)
    r = solve_helmholtz(12.0, (5 * np.pi**2 - 144.0) * exact, grid)
    return at_most("forced mode between walls, 33 x 33", float(np.abs(r.x - exact).max()), 2e-5)
