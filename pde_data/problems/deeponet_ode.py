"""DeepONet's operators of ordinary differential equations: a forcing in, the state out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.grids import Grid
from solvers.ode import compiled_rhs, solve_ode

from ..functions import (
    SPACE_DEFAULTS,
    ChebyshevSpace,
    FunctionSample,
    FunctionSpace,
    GaussianSpace,
    input_space,
    with_space_defaults,
)
from ..hdf5.schema import DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Problem, Solution, register
from ..verification import Check, at_most, order_check

__all__ = [
    "Antiderivative",
    "ForcedODEParameters",
    "GravityPendulum",
    "NonlinearODE",
    "PendulumParameters",
]


class ForcedODEParameters(Parameters):
    """Parameters of `Antiderivative` and `NonlinearODE`."""

    space: Literal["gaussian", "chebyshev", "power_series"] = Field(
        "gaussian",
        description="distribution of u: Gaussian process, kernel exp(-(t - t')^2/(2 length^2)); "
        "or a series with coefficients uniform in [-amplitude, amplitude]",
    )
    length: float | None = Field(
        None, ge=0.01, le=100, description="correlation length of u in units of t; gaussian, "
        "default 0.2",
    )  # fmt: skip
    n_terms: int | None = Field(
        None, ge=1, le=100, description="terms of the series; chebyshev and power_series, "
        "default 20",
    )  # fmt: skip
    amplitude: float | None = Field(
        None, gt=0, le=100, description="standard deviation of u (gaussian), or largest "
        "coefficient; default 1",
    )  # fmt: skip
    horizon: float = Field(1.0, ge=0.01, le=100, description="T: t runs from 0 to T")
    n_sensors: int = Field(
        100, ge=2, le=10_000, description="points where u is stored, uniform from 0 to T"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return with_space_defaults(values)

    def function_space(self) -> FunctionSpace:
        """Return the space that u is drawn from."""
        bounds = (0.0, self.horizon)
        if self.space == "gaussian":
            assert self.length is not None and self.amplitude is not None
            return GaussianSpace(self.length, self.amplitude, bounds=bounds)
        return input_space(
            self.space, n_terms=self.n_terms, amplitude=self.amplitude, bounds=bounds
        )


class PendulumParameters(ForcedODEParameters):
    """Parameters of `GravityPendulum`."""

    k: float = Field(1.0, gt=0, le=1000, description="gravity over length, 1/s^2")
    target: Literal["angle", "state"] = Field(
        "angle", description="outputs: the angle alone, or angle and angular velocity"
    )


_SYSTEMS = ("antiderivative", "nonlinear_ode", "gravity_pendulum")


def pack(system: str, u: FunctionSample, k: float = 1.0) -> np.ndarray:
    """Return the parameters of the compiled right-hand side."""
    space = u.space
    kind = 0 if isinstance(space, GaussianSpace) else 1 + isinstance(space, ChebyshevSpace)
    period = space.period if isinstance(space, GaussianSpace) else 1.0
    return np.array([_SYSTEMS.index(system), k, kind, *space.bounds, period, *u.coefficients])


def _derivative(t: float, x: np.ndarray, p: np.ndarray, out: np.ndarray) -> None:
    """Write the derivative; ``p = (system, k, kind of u, lower, upper, period, c_0, c_1, ...)``.

    One function for all, so that numba can keep it on disk.
    """
    c = p[6:]
    n = c.size
    a1, a2, b1, b2 = 0.0, 0.0, 0.0, 0.0
    if p[2] == 0.0:  # Fourier series: Clenshaw for cosines and for sines
        m = (n - 1) // 2
        angle = 2 * np.pi / p[5] * (t - p[3])
        c2 = 2 * np.cos(angle)
        for k in range(m, 0, -1):
            a1, a2 = c[k] + c2 * a1 - a2, a1
            b1, b2 = c[m + k] + c2 * b1 - b2, b1
        u = c[0] + 0.5 * c2 * a1 - a2 + np.sin(angle) * b1
    elif p[2] == 1.0:  # power series: Horner
        s = (t - p[3]) / (p[4] - p[3])
        for k in range(n - 1, -1, -1):
            a1 = a1 * s + c[k]
        u = a1
    else:  # Chebyshev series: Clenshaw
        s = 2 * (t - p[3]) / (p[4] - p[3]) - 1
        for k in range(n - 1, 0, -1):
            a1, a2 = c[k] + 2 * s * a1 - a2, a1
        u = c[0] + s * a1 - a2
    if p[0] == 0.0:
        out[0] = u
    elif p[0] == 1.0:
        out[0] = -x[0] * x[0] + u
    else:
        out[0] = x[1]
        out[1] = -p[1] * np.sin(x[0]) + u


@lru_cache(maxsize=1)
def _rhs() -> Any:
    return compiled_rhs(_derivative)


class _ForcedODE(Problem):
    dim = 1
    default_resolution = 101
    min_resolution = 2
    resolution_counts: ClassVar[str] = "stored times, from 0 to T"
    quick_resolution: ClassVar[int] = 11
    quick_params: ClassVar[dict[str, Any]] = {"n_sensors": 20}
    solvers: ClassVar[tuple[str, ...]] = ("dop853", "lsoda")
    reference: ClassVar[str] = (
        "Lu, Jin, Pang, Zhang, Karniadakis, Learning nonlinear operators via DeepONet, "
        "Nature Machine Intelligence 3 (2021) 218-229, arXiv:1910.03193"
    )
    Params: ClassVar[type[Parameters]] = ForcedODEParameters
    params: ForcedODEParameters

    #: Stored states: name, long name, units.
    states: ClassVar[tuple[tuple[str, str, str], ...]] = (("s", "solution", "1"),)
    forcing: ClassVar[tuple[str, str]] = ("right-hand side", "1")
    time_units: ClassVar[str] = "1"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.space = self.params.function_space()

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the fields to predict."""
        return (self.states[0][0],)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the constant scalars."""
        return ()

    def times(self, resolution: tuple[int, ...]) -> np.ndarray:
        """Return the stored times."""
        return np.linspace(0.0, self.params.horizon, resolution[0])

    def sensors(self) -> np.ndarray:
        """Return the points where the forcing is stored."""
        return np.linspace(0.0, self.params.horizon, self.params.n_sensors)

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe: forcing `u` at the sensors in, states at the stored times out."""
        axis = ExtraAxis("sensor", tuple(self.sensors()), self.time_units, "time of the sensor")
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=Grid(),
            layout="series",
            axes=(axis,),
            fields=(
                FieldSpec("u", self.forcing[0], self.forcing[1], dims=("sensor",)),
                *(
                    FieldSpec(name, long_name, units, time_varying=True, dims=())
                    for name, long_name, units in self.states
                ),
            ),
            inputs=("u",),
            outputs=self.outputs(),
            scalars=self.constants(),
            problem_type="time_dependent",
            time=tuple(map(float, self.times(resolution))),
            time_units=self.time_units,
            dtype=dtype,
            equation=self.equation,
            sampling="values at the stored times; u at the sensors",
        )

    def sample(self, rng: np.random.Generator) -> FunctionSample:
        """Draw the forcing: a function of time, whatever sensors it is stored at."""
        return self.space.draw(rng)

    def parameters(self, inputs: FunctionSample) -> np.ndarray:
        """Return the parameters of the compiled right-hand side."""
        return pack(self.name, inputs)

    def solve(
        self, inputs: FunctionSample, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> Solution:  # fmt: skip
        """Integrate from rest at the tolerance `rtol` of a step."""
        self.check_solver(solver)
        r = solve_ode(
            _rhs(), np.zeros(len(self.states)), self.times(resolution),
            params=self.parameters(inputs), method=solver.upper(), rtol=rtol,
        )  # fmt: skip
        fields = {name: r.x[:, k] for k, (name, _, _) in enumerate(self.states)}
        fields["u"] = inputs(self.sensors())
        return Solution(
            fields, 0.0, r.iterations, r.seconds, r.solver, time_error=r.info["time_error"]
        )

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the first of `solvers`."""
        return self.solvers[0]

    def convergence_order(self, solver: str) -> float:
        """Return infinity: the error is estimated from a run at the tightest tolerance."""
        return np.inf

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "dop853":
            return "Runge-Kutta of order 8 with step control, steps end on the stored times"
        return "LSODA: Adams and BDF of variable order"

    def discretization_error(
        self, inputs: FunctionSample, solution: Solution, resolution: tuple[int, ...], *,
        solver: str, rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """Return the relative L2 difference of the outputs to a DOP853 run at tolerance 1e-13."""
        fine = self.solve(inputs, resolution, solver="dop853", rtol=1e-13)
        worst = 0.0
        for name in self.outputs():
            truth = fine.fields[name]
            e = np.linalg.norm(solution.fields[name] - truth) / np.linalg.norm(truth)
            worst = max(worst, float(e))
        return worst

    def _order(self, name: str, inputs: FunctionSample, truth: np.ndarray) -> Check:
        """Order of the method with fixed steps, at the end of the interval."""
        steps, errors = (8, 12, 16), []
        for n in steps:
            x = solve_ode(
                _rhs(), np.zeros(len(self.states)), [0.0, self.params.horizon],
                params=self.parameters(inputs), steps=n, verify=None,
            ).x[-1]  # fmt: skip
            errors.append(float(np.abs(x - truth).max()))
        return order_check(name, [1 / n for n in steps], errors, 8.0)


def _smooth(horizon: float) -> FunctionSample:
    """Return a fixed forcing that steps of T/8 to T/16 resolve to 1e-10 ... 1e-13."""
    space = GaussianSpace(0.3 * horizon, 1.0, bounds=(0.0, horizon))
    return space.draw(np.random.default_rng(6))


@register
class Antiderivative(_ForcedODE):
    r"""``s' = u(t)``, ``s(0) = 0`` on [0, T]: the antiderivative operator.

    Parameters
    ----------
    **params
        Fields of `ForcedODEParameters`.

    Notes
    -----
    The default solver is the closed form: u is a Fourier, Chebyshev or power series, integrated
    term by term; the labels are exact to rounding, where those of the official generator carry a
    mean square error of 3.6e-7. All quantities are dimensionless.

    References
    ----------
    .. [1] Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021) 218-229.
    """

    name: ClassVar[str] = "antiderivative"
    title: ClassVar[str] = "Antiderivative operator"
    equation: ClassVar[str] = r"\frac{ds}{dt} = u(t),\quad s(0) = 0"
    solvers: ClassVar[tuple[str, ...]] = ("exact", "dop853", "lsoda")

    def solve(
        self, inputs: FunctionSample, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> Solution:  # fmt: skip
        """Integrate the series term by term, or solve the differential equation."""
        if solver != "exact":
            return super().solve(inputs, resolution, solver=solver, rtol=rtol)
        import time

        start = time.perf_counter()
        fields = {"s": inputs.integral(self.times(resolution)), "u": inputs(self.sensors())}
        return Solution(fields, 0.0, 0, time.perf_counter() - start, "exact", time_error=0.0)

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return "none: closed form" if solver == "exact" else super().discretization(
            solver, resolution
        )  # fmt: skip

    def discretization_error(
        self, inputs: FunctionSample, solution: Solution, resolution: tuple[int, ...], *,
        solver: str, rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """Return the relative L2 difference to the closed form."""
        truth = inputs.integral(self.times(resolution))
        return float(np.linalg.norm(solution.fields["s"] - truth) / np.linalg.norm(truth))

    def checks(self) -> Iterable[Check]:
        """Compare the closed form by quadrature and by DOP853, for each input space; order 8."""
        rng = np.random.default_rng(0)
        x, w = np.polynomial.legendre.leggauss(80)
        for kind in SPACE_DEFAULTS:
            problem = type(self)(space=kind)
            u = problem.sample(rng)
            s = problem.solve(u, (11,), solver="exact")
            t = problem.times((11,))
            gauss = np.array([0.5 * b * (w @ u(0.5 * b * (x + 1))) for b in t])
            error = float(np.abs(gauss - s.fields["s"]).max())
            yield at_most(f"closed form against Gauss quadrature, {kind}", error, 1e-12)
            ode = problem.solve(u, (11,), solver="dop853").fields["s"]
            yield at_most(f"dop853, {kind}", float(np.abs(ode - s.fields["s"]).max()), 1e-9)
        u = _smooth(self.params.horizon)
        truth = np.atleast_1d(u.integral(self.params.horizon))
        yield self._order("order in time, fixed steps", u, truth)


@register
class NonlinearODE(_ForcedODE):
    r"""``s' = -s^2 + u(t)``, ``s(0) = 0`` on [0, T].

    Parameters
    ----------
    **params
        Fields of `ForcedODEParameters`.

    Notes
    -----
    With u below about ``-(pi/2)^2`` for long enough the solution goes to minus infinity before T;
    such samples are failures and not stored, so that the distribution of u is that of inputs whose
    solution exists. All quantities are dimensionless.

    References
    ----------
    .. [1] Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021) 218-229.
    """

    name: ClassVar[str] = "nonlinear_ode"
    title: ClassVar[str] = "Nonlinear ODE with forcing"
    equation: ClassVar[str] = r"\frac{ds}{dt} = -s^2 + u(t),\quad s(0) = 0"

    def checks(self) -> Iterable[Check]:
        """Compare with: constant u > 0 has the solution ``sqrt(u) tanh(sqrt(u) t)``; order 8."""
        horizon = self.params.horizon
        space = input_space("power_series", n_terms=1, bounds=(0.0, horizon))
        for c in (0.25, 4.0):
            u = FunctionSample(space, np.array([c]))
            root = np.sqrt(c)
            for solver in self.solvers:
                s = self.solve(u, (21,), solver=solver).fields["s"]
                exact = root * np.tanh(root * self.times((21,)))
                error = float(np.abs(s - exact).max())
                yield at_most(f"u = {c}: sqrt(u) tanh(sqrt(u) t), {solver}", error, 1e-8)
        u = FunctionSample(space, np.array([4.0 / horizon**2]))
        yield self._order("order in time, fixed steps", u, np.array([2.0 / horizon * np.tanh(2.0)]))


@register
class GravityPendulum(_ForcedODE):
    r"""``s1' = s2``, ``s2' = -k sin(s1) + u(t)``, from rest, on [0, T].

    Angle s1 in rad, angular velocity s2 in rad/s, time in s; u is the torque over the moment of
    inertia.

    Parameters
    ----------
    **params
        Fields of `PendulumParameters`.

    References
    ----------
    .. [1] Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021) 218-229.
    """

    name: ClassVar[str] = "gravity_pendulum"
    title: ClassVar[str] = "Gravity pendulum with external torque"
    equation: ClassVar[str] = (
        r"\frac{ds_1}{dt} = s_2,\quad \frac{ds_2}{dt} = -k\sin s_1 + u(t),\quad s(0) = 0"
    )
    Params: ClassVar[type[Parameters]] = PendulumParameters
    params: PendulumParameters
    states = (("s1", "angle", "rad"), ("s2", "angular velocity", "rad/s"))
    forcing = ("torque over moment of inertia", "1/s^2")
    time_units = "s"

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the fields to predict."""
        return ("s1",) if self.params.target == "angle" else ("s1", "s2")

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the scalar k."""
        return (ScalarSpec("k", "gravity over length", "1/s^2", self.params.k),)

    def parameters(self, inputs: FunctionSample) -> np.ndarray:
        """Return the parameters of the compiled right-hand side."""
        return pack(self.name, inputs, self.params.k)

    def checks(self) -> Iterable[Check]:
        """Check energy under a constant torque; period by the elliptic integral; order 8."""
        from scipy.special import ellipk

        k, horizon = self.params.k, self.params.horizon
        space = input_space("power_series", n_terms=1, bounds=(0.0, horizon))
        c = 0.7
        for solver in self.solvers:
            s = self.solve(FunctionSample(space, np.array([c])), (51,), solver=solver).fields
            # s2^2/2 - k cos(s1) - c s1 stays -k: the torque's work is the energy
            energy = 0.5 * s["s2"] ** 2 + k * (1 - np.cos(s["s1"])) - c * s["s1"]
            yield at_most(
                f"energy balance, constant torque, {solver}", float(np.abs(energy).max()), 1e-8,
                kind="invariant",
            )  # fmt: skip
        free = pack(self.name, FunctionSample(space, np.zeros(1)), k)
        amplitude = 1.2
        period = 4 * float(ellipk(np.sin(amplitude / 2) ** 2)) / np.sqrt(k)
        x = solve_ode(_rhs(), [amplitude, 0.0], [0.0, period], params=free).x[-1]
        error = float(np.abs(x - [amplitude, 0.0]).max())
        yield at_most("unforced: back after the period 4 K(m)/sqrt(k)", error, 1e-8)
        u = _smooth(horizon)
        times = np.array([0.0, horizon])
        truth = solve_ode(_rhs(), [0.0, 0.0], times, params=self.parameters(u), rtol=1e-13).x[-1]
        yield self._order("order in time, fixed steps", u, truth)
