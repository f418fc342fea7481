"""Linear elements with SUPG on simplices."""

import re

import numpy as np
import pytest

from pde_data.problems.anisotropic import manufactured_tensor
from solvers.convection_diffusion import solve_convection_diffusion
from solvers.fenicsx.transport import solve_transport_fenicsx
from solvers.finite_volume import Robin
from solvers.grids import Grid
from solvers.verify import observed_order

pytest.importorskip("dolfinx_solver")


@pytest.mark.parametrize(("dim", "eps"), [(1, 0.1), (2, 0.1), (3, 0.1), (1, 0.04), (2, 0.04)])
def test_order_in_a_flow(dim, eps):
    sides = [("dirichlet", "neumann"), ("robin", "dirichlet"), ("neumann", "dirichlet")][:dim]
    errors, spacings = [], []
    # cell Peclet numbers of 1.2 at most, 2.5 in 3-D: above, the order falls towards 3/2
    for n in (33, 49, 65) if dim < 3 else (7, 10, 13):
        grid = Grid.unit(n, dim=dim)
        x = grid.meshgrid()
        u = np.sin(2.0 * sum(x) + 0.3)
        slope = 2.0 * np.cos(2.0 * sum(x) + 0.3)  # along every axis
        b = [1.0 + 0.5 * x[-1], 0.3 - 0.2 * x[0], 0.4 + 0 * x[0]][:dim]
        f = eps * 4 * dim * u + sum(b) * slope + 0.5 * u
        values = {}
        for k, pair in enumerate(sides):
            for s, kind in enumerate(pair):
                flux = (2 * s - 1) * eps * np.take(slope, -s, axis=k)
                trace = np.take(u, -s, axis=k)
                robin = Robin(0.6, 1.0, flux + 0.6 * trace)
                values[k, s] = {"dirichlet": trace, "neumann": flux, "robin": robin}[kind]
        r = solve_transport_fenicsx(
            eps, f, grid, velocity=b, reaction=0.5, boundary=sides, boundary_values=values
        )
        errors.append(grid.norm(r.x - u))
        spacings.append(grid.spacing[0])
        assert r.residual < 1e-12
    assert abs(observed_order(errors, spacings) - 2) < 0.25


def test_streamline_term_damps_layers():
    """Cell Peclet number 12: without stabilization oscillations are of the size of the solution."""
    grid = Grid.unit(33)
    r = solve_transport_fenicsx(0.0025, 1.0, grid, velocity=(1.0, 0.0))
    fine = solve_convection_diffusion(0.0025, (1.0, 0.0), 1.0, Grid.unit(257)).x[::8, ::8]
    inner = (slice(1, 29), slice(4, -4))  # before the layer
    assert np.abs(r.x - fine)[inner].max() < 0.02


@pytest.mark.parametrize("kind", ["dirichlet", "mixed", "robin"])
def test_order_with_a_tensor(kind):
    check = manufactured_tensor("fenicsx", 2.0, kind)
    assert check.passed, check


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diffusivity": 0.0}, "diffusivity=0.0: must be positive"),
        ({"diffusivity": np.eye(2), "velocity": (1.0, 0.0)}, "must be one number"),
        ({"velocity": (1.0,)}, "velocity has 1 entries, expected 2"),
        ({"boundary": "neumann"}, "u is not unique"),
        ({"grid": Grid.unit(8, periodic=True)}, "needs node axes, not periodic"),
        ({"rtol": 1.0}, "rtol=1.0"),
    ],
)
def test_bad_input_is_named_in_one_line(options, message):
    options = {"diffusivity": 1.0, "grid": Grid.unit(9), **options}
    with pytest.raises(ValueError, match=re.escape(message)) as e:
        solve_transport_fenicsx(options.pop("diffusivity"), 1.0, options.pop("grid"), **options)
    assert "\n" not in str(e.value)
