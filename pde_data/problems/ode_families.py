"""Families of ordinary differential equations, for meta-learning of dynamical systems."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from solvers.grids import Grid
from solvers.names import check_name
from solvers.ode import compiled_rhs, solve_ode

from ..hdf5.schema import SPLIT_STRIDE, DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Problem, ProblemError, Solution, register
from ..verification import Check, at_most, order_check

__all__ = ["FAMILIES", "ODEFamilies", "ODEFamiliesParameters", "ODEFamily"]


@dataclass(frozen=True)
class ODEFamily:
    """A parametrized system with the set-up of its published data.

    Attributes
    ----------
    name, equation : str
        Equation in LaTeX.
    parameters : tuple of str
        Names.
    values : tuple of float
        Center of the ODEBench families' environments; empty for the others.
    ranges : tuple of (float, float)
        Ends of the grid of environments, one pair a parameter; empty for the ODEBench families,
        whose range is `values` with a spread. Several blocks (Selkov) for one parameter.
    adaptation : tuple of tuple of float
        Values of each parameter in the adaptation environments.
    lower, upper : tuple of float
        Box of the initial states.
    corners : tuple
        Initial states of the first trajectories of the training set.
    horizon : float
        Stored times lie in [0, horizon), for `closed` in [0, horizon].
    n_environments : int
        Default number of environments.
    n_times : int
        Published number of stored times.
    states : tuple of str
    """

    name: str
    equation: str
    parameters: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    horizon: float
    values: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    blocks: tuple[tuple[float, float], ...] = ()
    adaptation: tuple[tuple[float, ...], ...] = ()
    corners: tuple[tuple[float, ...], ...] = ()
    n_environments: int = 16
    n_times: int = 20
    closed: bool = False
    states: tuple[str, ...] = ("y0", "y1")

    @property
    def dim(self) -> int:
        """Return the number of states."""
        return len(self.states)

    def environments(self, n: int | None, kind: str, spread: float) -> np.ndarray:
        """Return the parameter sets, one row an environment: a regular grid, not rounded.

        Raises
        ------
        ProblemError
            `n` does not make a regular grid.
        """
        if kind == "adaptation" and self.adaptation:
            axes = self.adaptation
            return np.array(list(itertools.product(*axes)))
        if kind == "adaptation":
            n, spread = (4 if n is None else n), 0.2
        n = self.n_environments if n is None else n
        if self.blocks:
            if n % len(self.blocks) or n == len(self.blocks):
                raise ProblemError(
                    f"n_environments={n}: {self.name} needs a multiple of {len(self.blocks)}, at "
                    f"least {2 * len(self.blocks)}"
                )
            k = n // len(self.blocks)
            return np.concatenate([np.linspace(a, b, k) for a, b in self.blocks])[:, None]
        ranges = self.ranges or tuple((c * (1 - spread), c * (1 + spread)) for c in self.values)
        side = round(n ** (1 / len(ranges)))
        if side ** len(ranges) != n:
            raise ProblemError(
                f"n_environments={n}: {self.name} has {len(ranges)} parameters and needs a power "
                f"{len(ranges)} of an integer, such as {self.n_environments}"
            )
        if side == 1:
            return np.array([[0.5 * (a + b) for a, b in ranges]])
        axes = tuple(tuple(np.linspace(a, b, side)) for a, b in ranges)
        return np.array(list(itertools.product(*axes)))


def _bench(
    name: str, equation: str, values: tuple[float, ...], horizon: float, *corners: Any
) -> ODEFamily:
    a, b = np.array(corners)
    return ODEFamily(
        name, equation, ("c0", "c1")[: len(values)], tuple(np.minimum(a, b).tolist()),
        tuple(np.maximum(a, b).tolist()), horizon, values, corners=corners,
    )  # fmt: skip


_ODEBENCH = (
    _bench("harmonic_oscillator", r"\dot y_0 = y_1,\ \dot y_1 = -c_0 y_0",
           (2.1,), 10.0, (0.4, -0.03), (0.0, 0.2)),
    _bench("damped_oscillator", r"\dot y_0 = y_1,\ \dot y_1 = -c_0 y_0 - c_1 y_1",
           (4.5, 0.43), 8.0, (0.12, 0.043), (0.0, -0.3)),
    _bench("pendulum", r"\dot y_0 = y_1,\ \dot y_1 = -c_0\sin y_0",
           (0.9,), 15.0, (-1.9, 0.0), (0.3, 0.8)),
    _bench("double_well", r"\dot y_0 = y_1,\ \dot y_1 = -c_0 y_1 - y_0^3 + y_0",
           (0.18,), 5.0, (-1.8, -1.8), (-2.8, 1.0)),
    _bench("bead_on_hoop", r"\dot y_0 = y_1,\ \dot y_1 = (\cos y_0 - c_0)\sin y_0",
           (0.93,), 20.0, (2.1, 0.0), (-1.2, -0.2)),
    _bench("shear_flow",
           r"\dot y_0 = \cos y_0\cot y_1,\ \dot y_1 = \sin y_0(\cos^2 y_1 + c_0\sin^2 y_1)",
           (4.2,), 5.0, (1.13, -0.3), (0.7, -1.7)),
    _bench("van_der_pol", r"\dot y_0 = y_1,\ \dot y_1 = -c_0 y_1(y_0^2 - 1) - y_0",
           (0.43,), 15.0, (2.2, 0.0), (0.1, 3.2)),
    _bench("van_der_pol_lienard",
           r"\dot y_0 = c_0(y_0 + y_1 - y_0^3/3),\ \dot y_1 = -y_0/c_0",
           (3.37,), 15.0, (0.7, 0.0), (-1.1, -0.7)),
    _bench("glycolytic_oscillator",
           r"\dot y_0 = c_0 y_1 + y_0^2 y_1 - y_0,\ \dot y_1 = c_1 - c_0 y_0 - y_0^2 y_1",
           (2.4, 0.07), 4.0, (0.4, 0.31), (0.2, -0.7)),
    _bench("duffing", r"\dot y_0 = y_1,\ \dot y_1 = c_0 y_1(1 - y_0^2) - y_0",
           (0.886,), 10.0, (0.63, -0.03), (0.2, 0.2)),
)  # fmt: skip

_LOTKA_VOLTERRA = ODEFamily(
    "lotka_volterra", r"\dot x = x/2 - \beta xy,\ \dot y = \delta xy - y/2", ("beta", "delta"),
    (1.0, 1.0), (2.0, 2.0), 10.0, ranges=((0.5, 1.0), (0.5, 1.0)),
    adaptation=((0.625, 1.125), (0.625, 1.125)), n_environments=9, states=("prey", "predator"),
)  # fmt: skip

_GLYCOLYTIC = ODEFamily(
    "glycolytic",
    r"\dot S_1 = J_0 - \frac{k_1 S_1 S_6}{1 + (S_6/K_1)^q},\ "
    r"\dot S_2 = \frac{2 k_1 S_1 S_6}{1 + (S_6/K_1)^q} - k_2 S_2(N - S_5) - k_6 S_2 S_5,\ "
    r"\dot S_3 = k_2 S_2(N - S_5) - k_3 S_3(A - S_6),\ "
    r"\dot S_4 = k_3 S_3(A - S_6) - k_4 S_4 S_5 - \kappa(S_4 - S_7),\ "
    r"\dot S_5 = k_2 S_2(N - S_5) - k_4 S_4 S_5 - k_6 S_2 S_5,\ "
    r"\dot S_6 = -\frac{2 k_1 S_1 S_6}{1 + (S_6/K_1)^q} + 2 k_3 S_3(A - S_6) - k_5 S_6,\ "
    r"\dot S_7 = \psi\kappa(S_4 - S_7) - k S_7",
    ("k1", "K1"), (0.15, 0.19, 0.04, 0.1, 0.08, 0.14, 0.05), (1.6, 2.16, 0.2, 0.35, 0.3, 2.67, 0.1),
    1.0, ranges=((80.0, 100.0), (0.5, 1.0)), adaptation=((85.0, 95.0), (0.625, 0.875)),
    n_environments=9, states=tuple(f"S{i}" for i in range(1, 8)),
)  # fmt: skip

_SELKOV = ODEFamily(
    "selkov", r"\dot x = -x + ay + x^2 y,\ \dot y = b - ay - x^2 y,\ a = 0.1", ("b",),
    (0.0, 0.0), (3.0, 3.0), 40.0, blocks=((-1.0, -0.25), (-0.1, 0.1), (0.25, 1.0)),
    adaptation=((-1.25, -0.65, -0.05, 0.02, 0.6, 1.2),), n_environments=21, n_times=11,
    closed=True, states=("x", "y"),
)  # fmt: skip

#: All families; the position is the number stored as the scalar `family`.
FAMILIES: tuple[ODEFamily, ...] = (*_ODEBENCH, _LOTKA_VOLTERRA, _GLYCOLYTIC, _SELKOV)
_NAMES = tuple(f.name for f in FAMILIES)
_GROUPS = {"odebench": tuple(f.name for f in _ODEBENCH)}


def _derivative(t: float, y: np.ndarray, p: np.ndarray, out: np.ndarray) -> None:
    """Write the derivative of any family: ``p = (position in FAMILIES, parameters...)``."""
    family, c0 = int(p[0]), p[1]
    if family == 0:
        out[0], out[1] = y[1], -c0 * y[0]
    elif family == 1:
        out[0], out[1] = y[1], -c0 * y[0] - p[2] * y[1]
    elif family == 2:
        out[0], out[1] = y[1], -c0 * np.sin(y[0])
    elif family == 3:
        out[0], out[1] = y[1], -c0 * y[1] - y[0] ** 3 + y[0]
    elif family == 4:
        out[0], out[1] = y[1], (np.cos(y[0]) - c0) * np.sin(y[0])
    elif family == 5:
        out[0] = np.cos(y[0]) * np.cos(y[1]) / np.sin(y[1])
        out[1] = np.sin(y[0]) * (np.cos(y[1]) ** 2 + c0 * np.sin(y[1]) ** 2)
    elif family == 6:
        out[0], out[1] = y[1], -c0 * y[1] * (y[0] ** 2 - 1) - y[0]
    elif family == 7:
        out[0], out[1] = c0 * (-(y[0] ** 3) / 3 + y[0] + y[1]), -y[0] / c0
    elif family == 8:
        flow = y[0] ** 2 * y[1]
        out[0], out[1] = c0 * y[1] + flow - y[0], -c0 * y[0] + p[2] - flow
    elif family == 9:
        out[0], out[1] = y[1], c0 * y[1] * (1 - y[0] ** 2) - y[0]
    elif family == 10:
        out[0] = 0.5 * y[0] - c0 * y[0] * y[1]
        out[1] = p[2] * y[0] * y[1] - 0.5 * y[1]
    elif family == 11:
        r1 = c0 * y[0] * y[5] / (1 + (y[5] / p[2]) ** 4)
        r2, r3 = 6 * y[1] * (1 - y[4]), 16 * y[2] * (4 - y[5])
        r4, r6 = 100 * y[3] * y[4], 12 * y[1] * y[4]
        out[0], out[1], out[2] = 2.5 - r1, 2 * r1 - r2 - r6, r2 - r3
        out[3] = r3 - r4 - 13 * (y[3] - y[6])
        out[4] = r2 - r4 - r6
        out[5] = -2 * r1 + 2 * r3 - 1.28 * y[5]
        out[6] = 0.1 * 13 * (y[3] - y[6]) - 1.8 * y[6]
    else:
        flow = y[0] ** 2 * y[1]
        out[0], out[1] = -y[0] + 0.1 * y[1] + flow, c0 - 0.1 * y[1] - flow


@lru_cache(maxsize=1)
def _rhs() -> Any:
    return compiled_rhs(_derivative)


class ODEFamiliesParameters(Parameters):
    """Parameters of `ODEFamilies`."""

    families: tuple[str, ...] = Field(
        ("lotka_volterra",),
        description="names, all with as many states: "
        + ", ".join(_NAMES)
        + "; odebench: the first ten",
    )
    environments: Literal["training", "adaptation"] = Field(
        "training",
        description="the parameters to train on, or the other ones to adapt to; trajectories of "
        "one environment are in every split",
    )
    n_environments: int | None = Field(
        None, ge=1, le=10_000, description="parameter sets a family, a regular grid; default that "
        "of the published data: 16 (odebench), 9, 21 (selkov), in adaptation 4 or 6",
    )  # fmt: skip
    spread: float = Field(
        0.1, gt=0, lt=1, description="odebench: training parameters reach from (1 - spread) to "
        "(1 + spread) times the center; adaptation: 0.2",
    )  # fmt: skip
    corners: bool = Field(
        True, description="odebench: the first two training trajectories of an environment start "
        "in the published initial states, the others uniformly in the box they span",
    )  # fmt: skip
    horizon: float | None = Field(None, gt=0, le=1000, description="T, default that of the family")

    @field_validator("families", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not names:
            raise ValueError(f"need names of families, allowed {', '.join((*_GROUPS, *_NAMES))}")
        out: list[str] = []
        for name in names:
            check_name("family", name, (*_GROUPS, *_NAMES))
            out += [n for n in _GROUPS.get(name, (name,)) if n not in out]
        return tuple(out)

    @model_validator(mode="after")
    def _check(self) -> ODEFamiliesParameters:
        dims = {f.dim for f in self.chosen}
        if len(dims) > 1:
            each = ", ".join(f"{f.name} {f.dim}" for f in self.chosen)
            raise ValueError(f"families={self.families}: numbers of states differ: {each}")
        if self.environments == "adaptation" and self.n_environments is not None:
            published = [f.name for f in self.chosen if f.adaptation]
            if published:
                raise ValueError(
                    f"n_environments={self.n_environments} has no effect: the adaptation "
                    f"environments of {published[0]} are published values"
                )
        return self

    @property
    def chosen(self) -> tuple[ODEFamily, ...]:
        """Return the families themselves."""
        return tuple(FAMILIES[_NAMES.index(n)] for n in self.families)


@dataclass(frozen=True)
class _Trajectory:
    """What one sample solves."""

    family: int
    environment: int
    number: int
    parameters: tuple[float, ...]
    x0: np.ndarray


@register
class ODEFamilies(Problem):
    r"""Trajectories of ODE systems, many environments (parameter sets) of one or more families.

    ``dy/dt = f_family(y; c_environment)`` from random initial states. The sample's id decides on
    the environment: sample i of a split is trajectory ``i // E`` of environment ``i % E``, where
    the E environments are those of the first family, then of the second, and so on; so
    ``n = E * k`` gives k trajectories an environment.

    Parameters
    ----------
    **params
        Fields of `ODEFamiliesParameters`.

    Notes
    -----
    Families, constants, initial states and times are those of the MixER data [1]_, based on
    ODEBench [2]_ (in their order, there 24, 25, 28, 32, 34, 35, 37, 38, 39, 40), Neural Context
    Flow and CoDA (Lotka-Volterra, glycolytic, Selkov), with three differences: environments are a
    regular grid in the parameters that is *not rounded* (rounding to two decimals leaves 5 of 16 of
    the double well); the tolerance of the integrator is 1e-10; and adaptation sets for training and
    test share their parameters. ``duffing`` is ODEBench's name; the equation is Van der Pol's.
    Everything is dimensionless.

    Splits hold other trajectories of the *same* environments, and so `quality/group` is not set;
    environments never seen in training are a dataset of their own, ``environments="adaptation"``.

    Stored times are ``T i / n``, i < n (Selkov: uniform on [0, T], ends included). Where the
    families of a dataset differ in T, each sample has times of its own and the schema's are
    fractions of T.

    Scalars: `family`, the position in `FAMILIES`; `environment`, counted over all families;
    `trajectory`; and the parameters, under their own names for one family, ``c0``, ``c1`` for
    several (0 where a family has no second one).

    References
    ----------
    .. [1] Nzoyem, Stevens, Sahota, Barton, Deakin, "Towards foundational models for dynamical
       system reconstruction: hierarchical meta-learning via mixture of experts", 2025,
       arXiv:2502.05335.
    .. [2] d'Ascoli, Becker, Mathis, Schwaller, Kilbertus, "ODEFormer", ICLR 2024,
       arXiv:2310.05573.
    """

    name: ClassVar[str] = "ode_families"
    title: ClassVar[str] = "Families of ordinary differential equations"
    equation: ClassVar[str] = r"\frac{dy}{dt} = f_{\mathrm{family}}(y;\,c_{\mathrm{environment}})"
    solvers: ClassVar[tuple[str, ...]] = ("dop853", "lsoda")
    dim = 1
    default_resolution = 20
    min_resolution = 2
    resolution_counts: ClassVar[str] = "stored times"
    quick_resolution: ClassVar[int] = 10
    quick_params: ClassVar[dict[str, Any]] = {"families": ("lotka_volterra", "double_well")}
    reference: ClassVar[str] = "Nzoyem et al., arXiv:2502.05335; ODEBench, arXiv:2310.05573"
    Params: ClassVar[type[Parameters]] = ODEFamiliesParameters
    params: ODEFamiliesParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.families = p.chosen
        if len(self.families) == 1:
            self.default_resolution = self.families[0].n_times
            self.equation = self.families[0].equation  # type: ignore[misc]
        #: (position in FAMILIES, parameters) of each environment.
        self.table: list[tuple[int, tuple[float, ...]]] = [
            (_NAMES.index(f.name), tuple(map(float, row)))
            for f in self.families
            for row in f.environments(p.n_environments, p.environments, p.spread)
        ]

    @property
    def _mixed_times(self) -> bool:
        return len({(f.horizon, f.closed) for f in self.families}) > 1 and not (
            self.params.horizon is not None and len({f.closed for f in self.families}) == 1
        )

    def times(self, family: ODEFamily, n: int) -> np.ndarray:
        """Return the stored times of a family."""
        horizon = self.params.horizon or family.horizon
        return horizon * np.arange(n) / (n - 1 if family.closed else n)

    def parameter_names(self) -> tuple[str, ...]:
        """Return the names of the scalars that hold the parameters."""
        if len(self.families) == 1:
            return self.families[0].parameters
        return ("c0", "c1")[: max(len(f.parameters) for f in self.families)]

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe: initial state in, trajectory out."""
        (n,) = resolution
        names = {f.states for f in self.families}
        labels = names.pop() if len(names) == 1 else self.families[0].states
        if names:
            labels = tuple(f"y{i}" for i in range(len(labels)))
        time = np.arange(n) / n if self._mixed_times else self.times(self.families[0], n)
        numbers = ", ".join(f"{_NAMES.index(f.name)} {f.name}" for f in self.families)
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=Grid(),
            layout="series",
            axes=(ExtraAxis.index("state", len(labels), long_name="component of the state"),),
            fields=(
                FieldSpec("initial_state", "state at time 0", dims=("state",), labels=labels),
                FieldSpec("trajectory", "state", time_varying=True, dims=("state",), labels=labels),
            ),
            inputs=("initial_state",),
            outputs=("trajectory",),
            scalars=(
                ScalarSpec("family", f"number of the family: {numbers}"),
                ScalarSpec("environment", "number of the parameter set"),
                ScalarSpec("trajectory_number", "of the environment and split"),
                *(ScalarSpec(k, f"parameter {k}") for k in self.parameter_names()),
            ),
            problem_type="time_dependent",
            time=tuple(map(float, time)),
            time_per_sample=self._mixed_times,
            dtype=dtype,
            equation=self.equation,
            sampling="values at the stored times",
        )

    def sample(self, rng: np.random.Generator) -> _Trajectory:
        """Draw a trajectory of a random environment."""
        return self.draw(rng, SPLIT_STRIDE + int(rng.integers(len(self.table))))

    def draw(self, rng: np.random.Generator, sample_id: int) -> _Trajectory:
        """Draw the initial state; the id decides on the environment."""
        split, i = divmod(int(sample_id), SPLIT_STRIDE)
        number, environment = divmod(i, len(self.table))
        index, parameters = self.table[environment]
        family = FAMILIES[index]
        x0 = rng.uniform(family.lower, family.upper)
        if self.params.corners and split == 0 and number < len(family.corners):
            x0 = np.array(family.corners[number])
        return _Trajectory(index, environment, number, parameters, x0)

    def solve(
        self, inputs: _Trajectory, resolution: tuple[int, ...], *, solver: str, rtol: float = 1e-10
    ) -> Solution:
        """Integrate at the tolerance `rtol` of a step."""
        self.check_solver(solver)
        family = FAMILIES[inputs.family]
        times = self.times(family, resolution[0])
        r = solve_ode(
            _rhs(), inputs.x0, times, params=(inputs.family, *inputs.parameters),
            method=solver.upper(), rtol=rtol,
        )  # fmt: skip
        names = self.parameter_names()
        values = dict.fromkeys(names, 0.0) | dict(zip(names, inputs.parameters, strict=False))
        return Solution(
            {"initial_state": inputs.x0, "trajectory": r.x},
            0.0,
            r.iterations,
            r.seconds,
            r.solver,
            scalars={
                "family": float(inputs.family),
                "environment": float(inputs.environment),
                "trajectory_number": float(inputs.number),
                **values,
            },
            time_error=r.info["time_error"],
            time=times if self._mixed_times else None,
        )

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose DOP853: none of the families is stiff."""
        return "dop853"

    def convergence_order(self, solver: str) -> float:
        """Return infinity: the error is estimated from a run at the tightest tolerance."""
        return np.inf

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "dop853":
            return "Runge-Kutta of order 8 with step control, steps end on the stored times"
        return "LSODA: Adams and BDF of variable order"

    def discretization_error(
        self, inputs: _Trajectory, solution: Solution, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """Return the relative L2 difference to a DOP853 run at tolerance 1e-13."""
        truth = self.solve(inputs, resolution, solver="dop853", rtol=1e-13).fields["trajectory"]
        e = np.linalg.norm(solution.fields["trajectory"] - truth) / np.linalg.norm(truth)
        return float(e)

    def checks(self) -> Iterable[Check]:
        """Compare with closed forms, invariants, order 8, and scipy's DOP853 on every family."""
        t = np.linspace(0.0, 10.0, 41)
        for solver in self.solvers:
            r = _integrate("harmonic_oscillator", (2.1,), (0.4, -0.03), t, solver)
            w = np.sqrt(2.1)
            exact = 0.4 * np.cos(w * t) - 0.03 / w * np.sin(w * t)
            yield at_most(f"harmonic oscillator, {solver}", np.abs(r[:, 0] - exact).max(), 1e-8)
            r = _integrate("damped_oscillator", (4.5, 0.43), (0.12, 0.043), t, solver)
            g, w = 0.215, np.sqrt(4.5 - 0.215**2)
            exact = np.exp(-g * t) * (0.12 * np.cos(w * t) + (0.043 + g * 0.12) / w * np.sin(w * t))
            yield at_most(f"damped oscillator, {solver}", np.abs(r[:, 0] - exact).max(), 1e-8)
            r = _integrate("lotka_volterra", (0.75, 0.5), (1.2, 1.7), t, solver)
            v = 0.5 * r[:, 0] - 0.5 * np.log(r[:, 0]) + 0.75 * r[:, 1] - 0.5 * np.log(r[:, 1])
            drift = float(np.abs(v - v[0]).max())
            yield at_most(f"Lotka-Volterra invariant, {solver}", drift, 1e-8, kind="invariant")
            r = _integrate("pendulum", (0.9,), (-1.9, 0.0), t, solver)
            v = 0.5 * r[:, 1] ** 2 - 0.9 * np.cos(r[:, 0])
            drift = float(np.abs(v - v[0]).max())
            yield at_most(f"energy of the pendulum, {solver}", drift, 1e-8, kind="invariant")
        steps = (24, 32, 48)
        errors = []
        for n in steps:
            x = solve_ode(
                _rhs(), (0.4, -0.03), (0.0, 10.0), params=(0.0, 2.1), steps=n, verify=None
            ).x[-1]
            w = np.sqrt(2.1)
            errors.append(abs(x[0] - 0.4 * np.cos(10 * w) + 0.03 / w * np.sin(10 * w)))
        yield order_check("order in time, fixed steps", [1 / n for n in steps], errors, 8.0)
        for i, family in enumerate(FAMILIES):
            error = family_error(family, i)
            yield at_most(
                f"{family.name} against scipy's DOP853 at 1e-11", error, 1e-7, kind="agreement"
            )


def _integrate(
    name: str, parameters: tuple[float, ...], x0: tuple[float, ...], t: np.ndarray, solver: str
) -> np.ndarray:
    p = (_NAMES.index(name), *parameters)
    return solve_ode(_rhs(), x0, t, params=p, method=solver.upper(), verify=None).x


def reference_rhs(family: int, parameters: tuple[float, ...]) -> Callable[..., list[float]]:
    """Return the right-hand side as plain Python."""
    p = np.array([family, *parameters], np.float64)

    def f(t: float, y: np.ndarray) -> list[float]:
        out = np.empty(len(y))
        _derivative(t, y, p, out)
        return out.tolist()

    return f


def family_error(family: ODEFamily, index: int, *, rtol: float = 1e-10) -> float:
    """Return the largest difference to scipy's `solve_ivp` (DOP853, rtol 1e-11)."""
    from scipy.integrate import solve_ivp

    parameters = tuple(map(float, family.environments(None, "training", 0.1)[0]))
    x0 = np.array(family.corners[0] if family.corners else family.upper)
    t = np.linspace(0.0, family.horizon, 6)
    x = solve_ode(_rhs(), x0, t, params=(index, *parameters), rtol=rtol, verify=None).x
    reference = solve_ivp(
        reference_rhs(index, parameters), (0.0, family.horizon), x0, "DOP853", t, rtol=1e-11,
        atol=1e-13,
    )  # fmt: skip
    return float(np.abs(x - reference.y.T).max())
