import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem
from pde_data.problems.shallow_water import ShallowWater


def test_columns_cover_the_right_area():
    """Cell averages of the initial depth: the volume is that of the column, on any grid."""
    p = get_problem("shallow_water", shift=0.5)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        radius = np.random.default_rng(seed).uniform(0.3, 0.7)
        h0 = p.sample(rng)["h0"]
        for n in (16, 50):
            grid = p.grid((n, n))
            volume = np.sum(grid.weights * (h0(grid) - 1.0))
            assert abs(volume / (np.pi * radius**2) - 1) < 5e-3


def test_the_front_moves_as_in_one_dimension_at_first():
    """Before the circle matters the depth behind the shock is near Stoker's, the front too."""
    from solvers.evolution import dam_break_1d

    p = get_problem("shallow_water", t_end=0.1, n_times=2, radius_low=1.5, radius_high=1.5)
    s = p.solve(p.sample(np.random.default_rng(0)), (160, 160), solver="finite_volume")
    x = p.grid((160, 160)).coords[0]
    row = s.fields["h"][1, 80, 80:]
    exact, _ = dam_break_1d(x[80:] - 1.5, 0.1, left=2.0, right=1.0, gravity=1.0)
    assert np.abs(row - exact).mean() < 0.01
    assert np.all(s.fields["v"][1, 80, 100:, 1] > -1e-12)  # outward


def test_walls_hold_momentum_in_and_bumps_stay_smooth():
    p = get_problem("shallow_water", initial="bumps", bed=0.3, n_times=3)
    s = p.solve(p.sample(np.random.default_rng(1)), (32, 32), solver="finite_volume")
    assert s.fields["h"].min() > 0.4
    assert set(s.fields) == {"h0", "bed", "h", "v"}
    schema = p.schema((32, 32))
    assert schema.inputs == ("h0", "bed") and schema.sample_shape("v") == (3, 32, 32, 2)


@pytest.mark.slow
@pytest.mark.parametrize("initial", ["dam", "bumps"])
def test_estimates_against_a_finer_reference(initial):
    (check,) = ShallowWater._estimate(initial, 320)
    assert check.passed, check


def test_dams_are_deeper_inside():
    with pytest.raises(ProblemError, match=r"dam_depth=0\.5: must exceed depth=1\.0"):
        get_problem("shallow_water", dam_depth=0.5)
    with pytest.raises(ProblemError, match=r"radius_low=0\.9"):
        get_problem("shallow_water", radius_low=0.9)
