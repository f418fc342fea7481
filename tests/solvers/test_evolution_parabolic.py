import numpy as np
import pytest
from scipy.integrate import solve_ivp

from solvers import Axis, Grid, SolverDidNotConverge
from solvers.evolution import Storage, solve_parabolic
from solvers.evolution import _ark as ark
from solvers.evolution.parabolic import _merged
from solvers.verify import observed_order


def test_order_conditions_of_the_tableau():
    """All conditions up to order 4, coupling of the two parts included."""
    b, c = ark.B, ark.C
    parts = (ark.A_EXPLICIT, ark.A_IMPLICIT)
    found = [b.sum() - 1, b @ c - 1 / 2, b @ c**2 - 1 / 3, b @ c**3 - 1 / 4]
    for a in parts:
        np.testing.assert_allclose(a.sum(axis=1), c, atol=1e-14)
        found += [b @ a @ c - 1 / 6, (b * c) @ a @ c - 1 / 8, b @ a @ c**2 - 1 / 12]
        found += [b @ a @ other @ c - 1 / 24 for other in parts]
        found += [ark.B_HAT @ a @ c - 1 / 6]
    found += [ark.B_HAT.sum() - 1, ark.B_HAT @ c - 1 / 2, ark.B_HAT @ c**2 - 1 / 3]
    np.testing.assert_allclose(found, 0, atol=1e-14)
    np.testing.assert_array_equal(np.diag(ark.A_IMPLICIT)[1:], ark.GAMMA)
    np.testing.assert_array_equal(ark.A_IMPLICIT[-1], b)  # stiffly accurate


def dense_rate(a, grid, kinds, alpha, values):
    """du/dt of 1-D finite volumes, one control volume at a time."""
    n, h = grid.shape[0], grid.spacing[0]
    node = grid.axes[0].location == "node"

    def rate(t, u):
        out = np.zeros(n)
        for i in range(n):
            width = h / 2 if node and i in (0, n - 1) else h
            total = 0.0
            for j, end in ((i - 1, 0), (i + 1, 1)):
                if 0 <= j < n:
                    total += 2 / (1 / a[i] + 1 / a[j]) * (u[j] - u[i]) / h
                elif kinds[end] == "dirichlet":
                    total += 0.0 if node else 2 * a[i] * (values[end] - u[i]) / h
                elif kinds[end] == "robin":  # flux = g - alpha u at the wall
                    wall = u[i]
                    if not node:  # a (wall - u)/(h/2) = g - alpha wall
                        wall = (values[end] + 2 * a[i] / h * u[i]) / (alpha + 2 * a[i] / h)
                    total += values[end] - alpha * wall
                else:
                    total += values[end]
            out[i] = (
                0.0
                if node
                and kinds[0 if i == 0 else 1] == "dirichlet"
                and i
                in (
                    0,
                    n - 1,
                )
                else total / width
            )
        return out

    return rate


@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize(
    "kinds", [("dirichlet", "robin"), ("robin", "neumann"), ("neumann", "dirichlet")]
)
def test_equals_brute_force(location, kinds):
    grid = Grid((Axis("x", 12, 0.0, 2.0, location=location),))
    x = grid.coords[0]
    a, u0, values, alpha = 1 + 0.5 * np.sin(3 * x), np.cos(x), (0.3, -0.2), 1.7
    if location == "node":
        for end, kind in enumerate(kinds):
            if kind == "dirichlet":
                u0[-end] = values[end]
    truth = solve_ivp(
        dense_rate(a, grid, kinds, alpha, values), (0, 0.5), u0, rtol=1e-10, atol=1e-12,
        t_eval=[0.2, 0.5],
    ).y.T  # fmt: skip
    r = solve_parabolic(
        u0, [0, 0.2, 0.5], grid, diffusivity=a, rtol=1e-9,
        boundary=[tuple("neumann" if k == "robin" else k for k in kinds)],
        boundary_values={(0, 0): values[0], (0, 1): values[1]},
        robin={(0, end): alpha for end in (0, 1) if kinds[end] == "robin"},
    )  # fmt: skip
    np.testing.assert_allclose(r.x[1:], truth, atol=2e-8)
    assert r.residual < 1e-12 and r.info["time_error"] <= 1e-9


def test_two_dimensions_fast_and_sparse_agree():
    """Constant coefficients take the eigenvectors, a nearly constant one the sparse factors."""
    grid = Grid((Axis("x", 9), Axis("y", 12, periodic=True)))
    u0 = np.random.default_rng(0).standard_normal(grid.shape)
    boundary = [("dirichlet", "neumann"), "periodic"]
    options = dict(boundary=boundary, robin={(0, 1): 2.0}, boundary_values={(0, 0): 0.4}, dt=0.05)
    a = np.full(grid.shape, 0.3)
    fast = solve_parabolic(u0, [0, 0.1, 0.2], grid, diffusivity=a, **options)
    a[4, 4] *= 1 + 1e-13
    sparse = solve_parabolic(u0, [0, 0.1, 0.2], grid, diffusivity=a, **options)
    np.testing.assert_allclose(fast.x, sparse.x, atol=1e-11)
    assert not np.array_equal(fast.x, sparse.x)


@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize(
    ("kinds", "mode"),
    [
        (("dirichlet", "dirichlet"), lambda x: np.sin(2 * np.pi * x)),
        (("neumann", "neumann"), lambda x: np.cos(2 * np.pi * x)),
        (("dirichlet", "neumann"), lambda x: np.sin(2.5 * np.pi * x)),
        (("neumann", "dirichlet"), lambda x: np.cos(2.5 * np.pi * x)),
        (("periodic", "periodic"), lambda x: np.sin(2 * np.pi * x + 0.3)),
    ],
)
def test_spectral_modes_decay_exactly(kinds, mode, location):
    periodic = kinds[0] == "periodic"
    grid = Grid((Axis("x", 11, location=location, periodic=periodic),))
    k = 2.5 * np.pi if "dirichlet" in kinds and "neumann" in kinds else 2 * np.pi
    r = solve_parabolic(
        mode(grid.coords[0]), [0, 0.01, 0.05], grid, diffusivity=0.5, boundary=[kinds],
        space="spectral", rtol=1e-9,
    )  # fmt: skip
    truth = np.exp(-0.5 * k * k * np.array([0, 0.01, 0.05]))[:, None] * mode(grid.coords[0])
    np.testing.assert_allclose(r.x, truth, atol=3e-9)


def test_time_error_is_met_and_honest():
    grid = Grid.unit(33, dim=1)
    x = grid.coords[0]

    def solve(**options):
        return solve_parabolic(
            np.sin(np.pi * x), np.linspace(0, 1, 6), grid, diffusivity=0.05, boundary="dirichlet",
            reaction=lambda u, t: 3 * u * (1 - u), **options,
        )  # fmt: skip

    truth = solve(dt=1 / 640).x
    for rtol in (1e-4, 1e-6, 1e-8):
        r = solve(rtol=rtol)
        error = np.linalg.norm(r.x - truth) / np.linalg.norm(truth)
        assert error < rtol
        assert 0.5 < r.info["time_error"] / error < 2.5


def test_stored_times_do_not_change_the_solution():
    grid = Grid.unit(33, dim=1)
    u0 = np.cos(np.pi * grid.coords[0])
    few = solve_parabolic(u0, [0, 0.3], grid, rtol=1e-6)
    many = solve_parabolic(u0, np.linspace(0, 0.3, 101), grid, rtol=1e-6)
    np.testing.assert_allclose(many.x[-1], few.x[-1], atol=2e-6)
    assert many.iterations <= 110  # the stored times are the steps, but for the first ones


def test_merging_of_steps():
    assert _merged([[1.0], [1.0], [1.0]]) == ([[2.0], [1.0]], [0, 2, 3])
    assert _merged([[0.25, 0.25, 0.5], [1.0], [1.0]]) == ([[0.5, 0.5], [2.0]], [0, 1, 3])


def test_sorption_against_scipy():
    """S(u)_t = u_xx with S = u + u^0.8, walls closed, by an independent integrator."""
    grid = Grid.unit(21, dim=1)
    x = grid.coords[0]
    store = Storage(lambda u: u + u**0.8, lambda u: 1 + 0.8 * u**-0.2)
    u0 = 0.6 + 0.4 * np.cos(np.pi * x)
    r = solve_parabolic(u0, [0, 0.05, 0.2], grid, storage=store, rtol=1e-9)
    rate = dense_rate(np.ones(21), grid, ("neumann", "neumann"), 0.0, (0.0, 0.0))
    truth = solve_ivp(
        lambda t, u: rate(t, u) / store.derivative(u), (0, 0.2), u0, rtol=1e-10, atol=1e-12,
        t_eval=[0.05, 0.2], method="LSODA",
    ).y.T  # fmt: skip
    np.testing.assert_allclose(r.x[1:], truth, atol=5e-8)
    mass = np.sum(grid.weights * store.content(r.x), axis=1)
    np.testing.assert_allclose(mass, mass[0], rtol=1e-11)


def test_source_in_time_and_order():
    """u = cos(t) sin(pi x) on a fixed grid: the error is the steps' once space is exact."""
    grid = Grid.unit(17, dim=1)
    mode = np.sin(np.pi * grid.coords[0])
    errors, steps = [], (0.1, 0.05, 0.025)
    for dt in steps:
        r = solve_parabolic(
            mode, [0, 1.0], grid, boundary="dirichlet", space="spectral", dt=dt,
            source=lambda t: (np.pi**2 * np.cos(t) - np.sin(t)) * mode,
        )  # fmt: skip
        errors.append(np.abs(r.x[1] - np.cos(1.0) * mode).max())
    assert abs(observed_order(errors, steps) - 4) < 0.2


def test_blow_up_raises():
    grid = Grid.unit(9, dim=1)
    with pytest.raises(SolverDidNotConverge, match=r"blow-up at t=0\.(0999|1000)"):
        solve_parabolic(np.full(9, 5.0), [0, 1.0], grid, reaction=lambda u, t: 2 * u * u)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0}, "rtol=0"),
        ({"dt": -1}, "dt=-1"),
        ({"diffusivity": 0}, "diffusivity must be positive"),
        ({"capacity": np.zeros(9)}, "capacity must be positive"),
        ({"boundary": "dirchlet"}, "dirchlet"),
        ({"robin": {(0, 0): -1.0}}, r"robin\[\(0, 0\)\]=-1.0"),
        ({"robin": {(1, 0): 1.0}}, r"robin has the key \(1, 0\)"),
        ({"boundary": "dirichlet", "robin": {(0, 0): 1.0}}, "it must be 'neumann'"),
        ({"space": "spectral", "diffusivity": np.linspace(1, 2, 9)}, "constant diffusivity"),
        ({"space": "spectral", "boundary_values": 1.0}, "homogeneous"),
        ({"space": "fourier"}, "fourier"),
        ({"source": np.zeros(5)}, r"source has shape \(5,\)"),
        ({"times": [0, 0]}, "times"),
        ({"u0": np.zeros(4)}, r"u0 has shape \(4,\)"),
        ({"u0": np.full(9, np.nan)}, "u0 holds NaN"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"u0": np.zeros(9), "times": [0, 1.0], "grid": Grid.unit(9, dim=1)} | options
    with pytest.raises(ValueError, match=message):
        solve_parabolic(**arguments)


def test_joined_steps_that_are_unstable_are_no_failure():
    """Near a stable state steps grow up to the limit of the explicit reaction."""
    grid = Grid.unit(16, dim=1, periodic=True)
    r = solve_parabolic(
        np.full(16, 0.1), [0, 5.0, 10.0], grid, boundary="periodic",
        reaction=lambda u, t: 5 * u * (1 - u),
    )  # fmt: skip
    np.testing.assert_allclose(r.x[1:], 1.0, atol=1e-5)
