"""Plug-and-play iterations: descent, fixed points, certificates, safeguards."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pytest

from opkit.inverse import (
    LinearForward,
    NonlinearForward,
    Prior,
    StepSizeWarning,
    as_forward,
    as_prior,
    fixed_point_residual,
    pnp_admm,
    pnp_drs,
    pnp_pgd,
    temper,
)

RNG = np.random.default_rng(0)
#: Compressed sensing: 64 unknowns, 32 rows in random directions.
A = (RNG.uniform(1.0, 1.6, (32, 1)) * np.linalg.qr(RNG.standard_normal((64, 32)))[0].T).copy()
L = as_forward(A).norm_bound().value ** 2
SPARSE = np.zeros((4, 64))
for row in SPARSE:
    row[RNG.choice(64, 6, replace=False)] = 2 * RNG.standard_normal(6)
NOISE = 0.02
DATA = SPARSE @ A.T + NOISE * RNG.standard_normal((4, 32))


class Soft:
    """Soft threshold: the proximal operator of ``t |x|_1``, convex."""

    def __init__(self, t: float = 0.05, sigma: float | None = None) -> None:
        self.t, self.sigma = t, sigma

    def prox_and_regularizer(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.sign(z) * np.maximum(np.abs(z) - self.t, 0.0)
        return x, self.regularizer(x)

    def regularizer(self, x: np.ndarray) -> np.ndarray:
        return self.t * np.abs(x).reshape(len(x), -1).sum(1)


class Firm(Soft):
    """Firm threshold: the proximal operator of a minimax concave penalty, weakly convex by 1/g."""

    g = 2.0

    def prox_and_regularizer(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        small = np.sign(z) * np.maximum(np.abs(z) - self.t, 0.0) / (1 - 1 / self.g)
        x = np.where(np.abs(z) <= self.g * self.t, small, z)
        return x, self.regularizer(x)

    def regularizer(self, x: np.ndarray) -> np.ndarray:
        r = np.abs(x)
        inner = self.t * r - r**2 / (2 * self.g)
        values = np.where(r <= self.g * self.t, inner, 0.5 * self.g * self.t**2)
        return values.reshape(len(x), -1).sum(1)


PRIORS = {"soft": Soft(), "firm": Firm()}
RUNS = {
    "pgd .5": (pnp_pgd, {"step": 0.5 / L}, 0.5),
    "pgd .99": (pnp_pgd, {"step": 0.99 / L}, 0.99),
    "pgd default": (pnp_pgd, {}, 0.99),
    "admm 1.01": (pnp_admm, {"rho": 1.01 * L}, 1.01),
    "admm 1.5": (pnp_admm, {"rho": 1.5 * L}, 1.5),
    "admm default, cg": (pnp_admm, {"solver": "cg"}, 1.01),
    "drs 1.01": (pnp_drs, {"rho": 1.01 * L}, 1.01),
    "drs relaxed": (pnp_drs, {"rho": 1.2 * L, "relaxation": 1.7}, 1.2),
}


def test_priors_are_what_they_say() -> None:
    """Each threshold minimizes ``1/2 |v - z|^2 + R(v)``, by brute force on a line."""
    z = np.linspace(-0.3, 0.3, 41)[:, None]
    v = np.linspace(-0.5, 0.5, 20001)
    for prior in PRIORS.values():
        x, _ = prior.prox_and_regularizer(z)
        values = 0.5 * (v - z) ** 2 + prior.regularizer(v[:, None])
        assert np.abs(v[values.argmin(1)] - x[:, 0]).max() < 1e-4


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("run", RUNS)
def test_objective_never_rises_and_steps_vanish(run: str, prior: str) -> None:
    method, options, _ = RUNS[run]
    r = method(A, DATA, PRIORS[prior], max_iter=20000, tol=1e-11, **options)
    objective = r.objective[2:] if "admm" in run else r.objective
    rise = np.diff(objective, axis=0)
    assert np.nanmax(rise) <= 1e-10
    assert r.certificate.largest_increase <= 1e-10 and r.certificate.monotone
    assert r.certificate.guaranteed and r.certificate.lipschitz == pytest.approx(L)
    assert r.converged.all() and not r.diverged.any()
    last = r.residuals[r.iterations - 1, np.arange(4)]
    assert last.max() <= 1e-10
    assert r.fixed_point.max() <= 1e-10


@pytest.mark.parametrize("run", RUNS)
def test_minimum_of_a_convex_objective(run: str) -> None:
    """``1/2 |A x - y|^2 + w t |x|_1``: the optimality conditions of the lasso, for the run's w."""
    method, options, factor = RUNS[run]
    r = method(A, DATA, Soft(), max_iter=6000, tol=1e-13, **options)
    w = r.weight[0]
    assert w == pytest.approx(L / factor if "pgd" in run else L * factor)
    slope = (r.x @ A.T - DATA) @ A / (w * 0.05)
    on = r.x != 0
    assert on.any() and (~on).any()
    assert np.abs(slope[on] + np.sign(r.x[on])).max() < 1e-8
    assert np.abs(slope[~on]).max() <= 1 + 1e-8
    # misfit and regularizer are those at the result
    assert np.allclose(r.misfit, 0.5 * np.sum((r.x @ A.T - DATA) ** 2, axis=1))
    assert np.allclose(r.regularizer, 0.05 * np.abs(r.x).sum(1))


def test_the_step_is_the_weight_of_the_regularizer() -> None:
    """Two steps give two minimizers, each of its own objective."""
    found = {}
    for factor in (0.25, 0.99):
        step = factor / L
        r = pnp_pgd(A, DATA, Soft(), step=step, max_iter=20000, tol=1e-13)
        found[factor] = r.x
        again = fixed_point_residual(A, DATA, Soft(), r.x, weight=1 / step)
        other = fixed_point_residual(A, DATA, Soft(), r.x, weight=2 / step)
        assert again.max() < 1e-12 < 1e-4 < other.min()
    assert np.linalg.norm(found[0.25] - found[0.99]) > 0.1 * np.linalg.norm(found[0.99])

    def objective(x: np.ndarray, factor: float) -> float:
        w = L / factor
        return float(np.sum(0.5 * np.sum((x @ A.T - DATA) ** 2, 1) + w * 0.05 * np.abs(x).sum(1)))

    assert objective(found[0.25], 0.25) < objective(found[0.99], 0.25)
    assert objective(found[0.99], 0.99) < objective(found[0.25], 0.99)


def test_descent_is_as_large_as_the_theorem_says() -> None:
    """``F(x+) <= F(x) - 1/2 (1/step - L) |x+ - x|^2``, from the recorded numbers."""
    step = 0.5 / L
    r = pnp_pgd(A, DATA, Firm(), step=step, max_iter=300, tol=0.0)
    x, values, moves = np.zeros((4, 64)), [], []
    for _ in range(300):
        new, R = Firm().prox_and_regularizer(x - step * (x @ A.T - DATA) @ A)
        moves.append(np.sum((new - x) ** 2, axis=1))
        x = new
        values.append(0.5 * np.sum((x @ A.T - DATA) ** 2, axis=1) + R / step)
    assert np.allclose(r.objective, np.stack(values), rtol=1e-12)
    drop = r.objective[:-1] - r.objective[1:]
    assert np.all(drop >= 0.5 * (1 / step - L) * np.stack(moves[1:]) - 1e-12)


@pytest.mark.parametrize("method", [pnp_pgd, pnp_admm, pnp_drs])
def test_batch_equals_one_by_one(method) -> None:
    together = method(A, DATA, Firm(), max_iter=200, tol=1e-8)
    for i in range(4):
        alone = method(A, DATA[i], Firm(), max_iter=200, tol=1e-8)
        assert alone.x.shape == (64,)
        assert np.allclose(alone.x, together.x[i], rtol=0, atol=1e-11)
        assert alone.iterations[0] == together.iterations[i]


def test_methods_find_one_fixed_point() -> None:
    """PGD, ADMM and DRS with one weight, for a convex objective."""
    w = 1.3 * L
    x = [
        pnp_pgd(A, DATA, Soft(), step=1 / w, max_iter=20000, tol=1e-13).x,
        pnp_admm(A, DATA, Soft(), rho=w, max_iter=20000, tol=1e-13).x,
        pnp_drs(A, DATA, Soft(), rho=w, max_iter=20000, tol=1e-13).x,
    ]
    assert np.abs(x[1] - x[0]).max() < 1e-9
    assert np.abs(x[2] - x[0]).max() < 1e-9


def test_scale_weighs_the_data() -> None:
    """`s` and `w` count by their ratio; a scale a sample as samples alone."""
    w = 3 * L
    x = pnp_pgd(A, DATA, Soft(), step=1 / w, max_iter=20000, tol=1e-13).x
    double = pnp_pgd(A, DATA, Soft(), scale=2.0, step=0.5 / w, max_iter=20000, tol=1e-13)
    assert np.abs(double.x - x).max() < 1e-9
    assert double.certificate.lipschitz == pytest.approx(2 * L)
    scales = np.array([1.0, 2.0, 0.5, 1.5])
    for method in (pnp_admm, pnp_drs):
        mixed = method(A, DATA, Soft(), rho=w, scale=scales, max_iter=20000, tol=1e-13)
        for i, s in enumerate(scales):
            alone = pnp_pgd(A, DATA[i], Soft(), step=1 / w, scale=s, max_iter=20000, tol=1e-13)
            assert np.abs(mixed.x[i] - alone.x).max() < 1e-8


# -- certificates --------------------------------------------------------------------------------


def test_consistency_with_the_noise() -> None:
    """Weight ``sigma_n^2 / sigma^2``; both hold if sigma is below ``sigma_n / |A|``."""
    sigma = 0.9 * NOISE / np.sqrt(L)
    w = NOISE**2 / sigma**2
    good = pnp_pgd(A, DATA, Soft(sigma=sigma), step=1 / w, sigma_noise=NOISE).certificate
    assert good.holds and good.guaranteed and good.consistent
    assert good.ratio == pytest.approx(1.0) and good.reasons == ()
    heavy = pnp_pgd(A, DATA, Soft(sigma=2 * sigma), step=1 / w, sigma_noise=NOISE).certificate
    assert heavy.guaranteed and not heavy.consistent and not heavy.holds
    assert heavy.ratio == pytest.approx(4.0)
    assert "the prior weighs 4 times more than noise 0.02" in heavy.reasons[0]
    light = pnp_pgd(A, DATA, Soft(sigma=sigma / 2), step=1 / w, sigma_noise=NOISE).certificate
    assert "4 times less" in light.reasons[0]
    unknown = pnp_pgd(A, DATA, Soft(sigma=sigma), step=1 / w).certificate
    assert not unknown.consistent and "noise level of the data is missing" in unknown.reasons[0]
    silent = pnp_pgd(A, DATA, Soft(), step=1 / w, sigma_noise=NOISE).certificate
    assert not silent.consistent and "does not say at which noise" in silent.reasons[0]


def test_the_sample_that_is_farthest_off_decides() -> None:
    sigma = 0.9 * NOISE / np.sqrt(L)
    w = NOISE**2 / sigma**2
    noise = NOISE * np.array([1.0, 1.0, 0.5, 1.0])
    found = pnp_pgd(A, DATA, Soft(sigma=sigma), step=1 / w, sigma_noise=noise).certificate
    assert found.ratio == pytest.approx(4.0) and not found.consistent


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [(pnp_pgd, "step", 1.5 / L), (pnp_admm, "rho", 0.5 * L), (pnp_drs, "rho", 0.5 * L)],
)
def test_beyond_the_guarantee_warns_and_says_no(method, option: str, value: float) -> None:
    with pytest.warns(StepSizeWarning, match=f"{option}=.*is beyond the guarantee"):
        r = method(A, DATA, Soft(), max_iter=3, **{option: value})
    assert not r.certificate.guaranteed
    assert str(r.certificate).startswith("convergence guaranteed: no;")
    assert any("convergence: " in reason for reason in r.certificate.reasons)


def test_a_plain_denoiser_has_no_certificate() -> None:
    r = pnp_pgd(A, DATA, lambda z: 0.9 * z, max_iter=50)
    c = r.certificate
    assert not c.guaranteed and "no potential" in c.reasons[0]
    assert np.isnan(r.objective).all() and np.isnan(r.regularizer).all()
    assert np.isnan(c.largest_increase)
    assert r.residuals[-1].max() < r.residuals[0].max()
    d = c.as_dict()
    assert d["convergence"] == "no" and d["map_consistency"] == "no"
    json.dumps(d, allow_nan=False)


def test_tempered_data_are_named_in_the_certificate() -> None:
    sigma = 3 * NOISE / np.sqrt(L)
    P, weigh = temper(A, NOISE, sigma)
    w = NOISE**2 / sigma**2
    r = pnp_pgd(P, weigh(DATA), Soft(sigma=sigma), step=1 / w, sigma_noise=NOISE)
    c = r.certificate
    assert c.guaranteed and c.ratio == pytest.approx(1.0) and not c.consistent
    assert f"the noise of {P.inflated} of 32 directions of the data was inflated" in c.reasons[0]


# -- safeguards ----------------------------------------------------------------------------------


def test_safeguard_halves_steps_until_the_objective_falls() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StepSizeWarning)
        r = pnp_pgd(A, DATA, Soft(), step=8.0 / L, max_iter=5000, tol=1e-12)
        loose = pnp_pgd(A, DATA, Soft(), step=8.0 / L, max_iter=300, safeguard=False)
    assert r.restarts and r.converged.all()
    assert not r.certificate.guaranteed  # the given step was not inside
    assert loose.diverged.all() or not loose.certificate.monotone
    for i in range(4):  # the fixed point of the step it ended with
        w = float(r.weight[i])
        assert fixed_point_residual(A, DATA[i], Soft(), r.x[i], weight=w)[0] < 1e-11


def test_divergence_is_found_and_counted() -> None:
    """An expansive denoiser: lost samples keep their last finite iterate."""
    r = pnp_pgd(A, DATA, lambda z: 1.5 * z, max_iter=500)
    assert r.diverged.all() and not r.converged.any()
    assert np.isfinite(r.x).all()
    assert np.isinf(r.misfit).all()
    assert (r.iterations < 500).all()

    def broken(z: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(z))[:, None] == 1, np.nan, 0.5 * z)

    only = pnp_admm(A, DATA, broken, max_iter=1)
    assert only.diverged.tolist() == [False, True, False, False]


def square_map() -> tuple[NonlinearForward, np.ndarray, np.ndarray]:
    """``G(x) = B x^2``, gradients not Lipschitz."""
    rng = np.random.default_rng(3)
    B = rng.random((12, 8))
    x = rng.uniform(0.5, 1.5, (3, 8))

    def misfit(v: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        r = B @ v**2 - y
        return 0.5 * float(r @ r), 2 * v * (B.T @ r)

    return NonlinearForward(misfit, (8,), (12,), apply=lambda v: B @ v**2), x, x**2 @ B.T


def test_backtracking_of_a_nonlinear_map() -> None:
    G, x, y = square_map()
    r = pnp_pgd(
        G, y, Soft(1e-6), step=100.0, x0=np.ones(8), max_iter=20000, tol=1e-12, sigma_noise=0.1
    )
    assert r.converged.all()
    assert np.abs(r.x - x).max() < 1e-3
    assert r.certificate.guaranteed and r.certificate.monotone
    assert (r.weight > 1 / 100.0).all()
    # a step that has been shortened begins the log of its sample anew: within it nothing rises
    for i in range(3):
        cuts = [0, *[k for k, s in r.restarts if s == i], int(r.iterations[i])]
        for a, b in itertools.pairwise(cuts):
            assert np.all(np.diff(r.objective[a:b, i]) <= 1e-10)
    again = [
        fixed_point_residual(G, y[i], Soft(1e-6), r.x[i], weight=float(r.weight[i]))[0]
        for i in range(3)
    ]
    assert max(again) < 1e-10


def test_a_wrong_gradient_ends_the_backtracking() -> None:
    def uphill(v: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * float(np.sum((v - y) ** 2)), y - v

    G = NonlinearForward(uphill, (8,), (8,))
    r = pnp_pgd(G, np.ones((1, 8)), Prior(lambda z: z), step=1.0)
    assert not r.certificate.guaranteed and not r.converged.any()
    assert "the gradient may be wrong" in r.certificate.reasons[0]


# -- priors --------------------------------------------------------------------------------------


def test_scaled_prior_is_the_proximal_operator_in_other_units() -> None:
    prior = as_prior(Firm(sigma=0.1), (3,))
    c, m = 2.5, np.array([1.0, -2.0, 0.3])
    scaled = prior.scaled(c, m)
    z = RNG.standard_normal((5, 3))
    x, value = scaled(z)
    assert scaled.sigma == pytest.approx(0.25)
    assert np.allclose(scaled.value(x), value)
    for _ in range(300):
        v = x + 0.3 * RNG.standard_normal(x.shape)
        other = 0.5 * np.sum((v - z) ** 2, axis=1) + scaled.value(v)
        assert np.all(0.5 * np.sum((x - z) ** 2, axis=1) + value <= other + 1e-12)
    assert np.allclose(scaled.prox(z), x)


def test_torch_networks_as_priors() -> None:
    import torch

    from models.lpn import LPN

    torch.manual_seed(0)
    net = LPN((1, 8, 8), hidden=16, layers=2)
    prior = as_prior(net, (8, 8), sigma=0.1)
    z = RNG.standard_normal((3, 8, 8))
    x, value = prior(z)
    assert prior.exact and prior.precision < 1e-15  # a copy in double precision
    assert next(net.parameters()).dtype == torch.float32
    assert np.allclose(prior.value(x), value, atol=1e-6)
    plain = as_prior(torch.nn.Conv2d(1, 1, 3, padding=1).double(), (8, 8))
    assert not plain.exact and plain(z)[0].shape == z.shape
    with pytest.raises(ValueError, match="no regularizer to evaluate"):
        plain.value(z)
    with torch.no_grad():
        net.net.head.weight[0, 3] = -1.0
    lost = as_prior(net, (8, 8))
    assert not lost.exact and "-1" in lost.inexact
    with pytest.raises(ValueError, match=r"network for shape \(1, 8, 8\), the unknown has shape"):
        as_prior(net, (9, 9))
    with pytest.raises(TypeError, match="prior is a int"):
        as_prior(3, (9, 9))
    with pytest.raises(ValueError, match=r"sigma=-1.0"):
        Prior(lambda z: z, sigma=-1.0)


def test_certificate_with_a_learned_proximal_network() -> None:
    """The spec's check with a network of random weights: 0 increase, 1e-10 after 400 steps."""
    import torch

    from models.lpn import LPN

    torch.manual_seed(0)
    net = LPN((64,), hidden=64, layers=3, init="balanced")
    for method, options in (
        (pnp_pgd, {"step": 0.5 / L}), (pnp_pgd, {"step": 0.99 / L}),
        (pnp_admm, {"rho": 1.01 * L}), (pnp_admm, {"rho": 1.5 * L}), (pnp_drs, {"rho": 1.01 * L}),
    ):  # fmt: skip
        r = method(A, DATA, net, max_iter=400, tol=0.0, **options)
        assert r.certificate.guaranteed and r.certificate.largest_increase <= 1e-10
        assert r.residuals[-1].max() <= 1e-10
        assert r.fixed_point.max() <= 1e-10


def test_same_iterates_as_deepinv() -> None:
    """Its ADMM and PGD with our prior, physics and step: equal to 1e-6 (here far better)."""
    deepinv = pytest.importorskip("deepinv")
    import torch
    from deepinv.optim import optim_builder

    from models.lpn import LPN

    torch.manual_seed(0)
    net = LPN((1, 8, 8), hidden=16, layers=2, init="balanced").double()
    matrix = np.random.default_rng(5).standard_normal((30, 64)) / np.sqrt(30)
    M = torch.as_tensor(matrix)
    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.reshape(len(x), -1) @ M.T,
        A_adjoint=lambda y, **_: (y @ M).reshape(len(y), 1, 8, 8),
        img_size=(1, 8, 8), tol=1e-12, max_iter=500,
    )  # fmt: skip
    y = torch.as_tensor(np.random.default_rng(6).standard_normal((2, 30)))
    forward = as_forward(physics, (1, 8, 8))
    forward.check()
    assert np.allclose(forward(np.ones((1, 8, 8))), matrix.sum(1))
    norm = forward.norm_bound().value ** 2

    class Ours(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: object = None) -> torch.Tensor:
            with torch.no_grad():
                return net(x)

    start = np.zeros((2, 1, 8, 8))

    def initial(y: torch.Tensor, physics: object) -> dict:
        zero = torch.zeros(len(y), 1, 8, 8, dtype=torch.float64)
        return {"est": (zero, zero.clone())}

    prior = deepinv.optim.prior.PnP(denoiser=Ours())
    step = 0.9 / norm
    for iterations in (1, 5, 20):
        theirs = optim_builder(
            iteration="PGD", prior=prior, data_fidelity=deepinv.optim.data_fidelity.L2(),
            max_iter=iterations, custom_init=initial, early_stop=False,
            params_algo={"stepsize": step, "g_param": 0.1, "lambda": 1.0},
        )(y, physics).numpy()  # fmt: skip
        ours = pnp_pgd(forward, y.numpy(), net, step=step, max_iter=iterations, tol=0.0, x0=start)
        assert np.abs(theirs - ours.x).max() < 1e-6 * np.abs(ours.x).max()
        theirs = optim_builder(
            iteration="ADMM", prior=prior, data_fidelity=deepinv.optim.data_fidelity.L2(),
            max_iter=iterations, custom_init=initial, early_stop=False, g_first=True,
            params_algo={"stepsize": step, "g_param": 0.1, "lambda": 1.0, "beta": 1.0},
        )(y, physics).numpy()  # fmt: skip
        ours = pnp_admm(
            forward, y.numpy(), net, rho=1 / step, max_iter=iterations, tol=0.0, x0=start
        )
        assert ours.split is not None  # theirs returns the data's variable
        assert np.abs(theirs - ours.split).max() < 1e-6 * np.abs(ours.x).max()


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": DATA[:, :31]}, r"data has shape \(4, 31\), expected \(32,\) or \(batch, 32\)"),
        ({"data": np.full((1, 32), np.nan)}, "data holds 32 values that are not finite"),
        ({"step": -1.0}, "step=-1.0: need a positive number"),
        ({"scale": 0.0}, "scale=0.0: need a positive number"),
        ({"scale": np.ones(3)}, "one for each of 4 samples"),
        ({"sigma_noise": -0.1}, "sigma_noise=-0.1"),
        ({"tol": -1.0}, "tol=-1.0"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"x0": np.zeros(63)}, r"x0 has shape \(63,\), expected \(64,\)"),
        ({"x0": np.full(64, np.inf)}, "x0 holds NaN or infinity"),
        ({"prior": lambda z: z[:, :3]}, r"the prior gave shape \(4, 3\)"),
        (
            {"forward": LinearForward(lambda x: x[:32], lambda y: np.zeros(64), (64,), (32,))},
            "rmatvec is not the adjoint of matvec",
        ),
    ],
)
def test_bad_input_is_one_line(change: dict, message: str) -> None:
    arguments = {"forward": A, "data": DATA, "prior": Soft(), **change}
    forward, data, prior = (arguments.pop(k) for k in ("forward", "data", "prior"))
    with pytest.raises(ValueError, match=message) as e:
        pnp_pgd(forward, data, prior, **arguments)
    assert "\n" not in str(e.value)


def test_options_of_the_other_methods() -> None:
    G, _, y = square_map()
    with pytest.raises(ValueError, match="step is missing: a nonlinear map"):
        pnp_pgd(G, y, Soft())
    for method in (pnp_admm, pnp_drs):
        with pytest.raises(ValueError, match="needs a linear map; pnp_pgd takes nonlinear ones"):
            method(G, y, Soft())
        with pytest.raises(ValueError, match=r"rho=0\.0: need a positive number"):
            method(A, DATA, Soft(), rho=0.0)
    with pytest.raises(ValueError, match=r"relaxation=2\.0"):
        pnp_drs(A, DATA, Soft(), relaxation=2.0)
