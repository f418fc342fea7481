"""What MixER must show: families found, adaptation, data, and the honest limit.

Gate algebra, Taylor field and scaled time (checks 1, 5, 6) are in ``tests/models/test_mixer_*``.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from pde_data.problem import get_problem
from pde_data.problems.ode_families import reference_rhs

torch.set_num_threads(1)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_mixer.py"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Any:
    """The benchmark, with results of its own."""
    spec = importlib.util.spec_from_file_location("bench_mixer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_mixer"] = module
    spec.loader.exec_module(module)
    work = tmp_path_factory.mktemp("bench")
    module.WORK, module.RESULTS = work / "work", work / "mixer.json"
    return module


# -- 2: partition ----------------------------------------------------------------------------------


def test_families_are_found_without_labels(bench):
    assert bench.static_run("warmup", 0)["ari"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_families_are_found_where_a_gradient_gate_fails(bench, seed):
    warm, gradient = (bench.static_run(s, seed) for s in ("warmup", "gradient"))
    sys.stdout.write(f"seed {seed}: warm-up {warm}, gradient gate {gradient}\n")
    assert warm["ari"] >= 0.95 and warm["experts_used"] == 3, warm
    assert gradient["ari"] <= 0.6 and gradient["experts_used"] < 3, gradient


# -- 3, 4: trajectories, adaptation ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_trajectories_and_adaptation(bench):
    errors: dict[str, list[float]] = {"warmup": [], "one expert": []}
    for seed in SEEDS:
        data, _ = bench.families(seed)
        for scheme, found in errors.items():
            result = bench.judged(bench.trained(data, scheme, seed, 4), data)
            sys.stdout.write(f"seed {seed}, {scheme}: {result}\n")
            found.append(result["mse_median"])
            if scheme == "warmup":
                assert result["ari"] >= 0.95, (seed, result)
        adapted = bench.adapt_run(seed)
        sys.stdout.write(f"seed {seed}, adapted: {adapted}\n")
        assert adapted["weights_identical"]
        assert adapted["improvement_of_mse"] >= 5, (seed, adapted)
        assert adapted["routed_right"] >= 0.9, (seed, adapted)
    assert statistics.median(errors["warmup"]) < statistics.median(errors["one expert"]), errors


# -- 7: data ---------------------------------------------------------------------------------------

ODEBENCH = [f.name for f in get_problem("ode_families", families="odebench").families]


@pytest.mark.parametrize("name", ODEBENCH)
def test_trajectories_are_exact_and_parameters_distinct(name):
    problem = get_problem("ode_families", families=(name,))
    assert len({p for _, p in problem.table}) == 16
    new = get_problem("ode_families", families=(name,), environments="adaptation")
    known = {p for _, p in problem.table}
    assert known.isdisjoint(p for _, p in new.table)
    rng = np.random.default_rng(0)
    for i in (0, 5, 16 + 3, 32 + 15):  # corners, and two random initial states
        drawn = problem.draw(rng, i)
        solution = problem.solve(drawn, (20,), solver="dop853")
        times = problem.times(problem.families[0], 20)
        truth = solve_ivp(
            reference_rhs(drawn.family, drawn.parameters), (0, times[-1]), drawn.x0, "DOP853",
            times, rtol=1e-11, atol=1e-13,
        )  # fmt: skip
        assert np.abs(solution.fields["trajectory"] - truth.y.T).max() < 1e-7


def test_adaptation_splits_share_their_parameters():
    new = get_problem("ode_families", families=("pendulum",), environments="adaptation")
    rng = np.random.default_rng(0)
    stride = 10**9
    for e in range(len(new.table)):
        train, test = new.draw(rng, e), new.draw(rng, 2 * stride + e)
        assert train.parameters == test.parameters and not np.array_equal(train.x0, test.x0)


# -- 8: the limit ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_family_needs_no_mixture(bench):
    """Nine related systems with plenty of data: one expert is better than three."""
    errors = {
        scheme: [bench.static_run(scheme, k, bench.static_limit_data)["test_loss"] for k in SEEDS]
        for scheme in ("warmup", "one expert")
    }
    medians = {k: statistics.median(v) for k, v in errors.items()}
    sys.stdout.write(f"errors at new states {errors}, medians {medians}\n")
    assert medians["one expert"] <= medians["warmup"], errors
