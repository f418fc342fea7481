"""Tempered iterations: each sample as if it were alone, with a certificate for all."""

from __future__ import annotations

import numpy as np
import pytest

from opkit.inverse import Prior, pnp_admm, pnp_pgd, pnp_tempered, temper

RNG = np.random.default_rng(0)
A = RNG.standard_normal((8, 12))
Y = RNG.standard_normal((3, 8))
NOISE = np.array([0.2, 0.05, 0.2])


def soft(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = np.sign(z) * np.maximum(np.abs(z) - 0.01, 0.0)
    return x, 0.01 * np.abs(x).sum(1)


PRIOR = Prior(lambda z: soft(z)[0], prox_and_value=soft, sigma=0.1)


@pytest.mark.parametrize("method", [pnp_pgd, pnp_admm])
def test_each_sample_is_tempered_by_its_own_noise(method) -> None:
    found = pnp_tempered(A, Y, PRIOR, sigma_noise=NOISE, method=method, max_iter=5000, tol=1e-9)
    assert found.converged.all() and found.weight == pytest.approx((NOISE / 0.1) ** 2)
    for i in range(3):
        P, weigh = temper(A, NOISE[i], 0.1)
        w = (NOISE[i] / 0.1) ** 2
        options = {"step": 1 / w} if method is pnp_pgd else {"rho": w}
        alone = method(P, weigh(Y[i : i + 1]), PRIOR, max_iter=5000, tol=1e-9, **options)
        assert np.abs(found.x[i] - alone.x[0]).max() < 1e-12
        k = alone.iterations[0]
        assert found.iterations[i] == k
        assert np.allclose(found.residuals[:k, i], alone.residuals[:k, 0], rtol=0, atol=1e-12)
        assert np.isnan(found.residuals[k:, i]).all()


def test_certificate_holds_only_where_it_holds_for_all() -> None:
    both = pnp_tempered(A, Y, PRIOR, sigma_noise=NOISE)
    assert both.certificate is not None
    assert both.certificate.guaranteed and not both.certificate.consistent
    assert "directions of the data was inflated" in both.certificate.reasons[0]
    loud = 0.11 * np.linalg.norm(A, 2)  # less precise than the prior everywhere
    fine = pnp_tempered(A, Y, PRIOR, sigma_noise=loud)
    assert fine.certificate is not None and fine.certificate.holds
    mixed = pnp_tempered(A, Y, PRIOR, sigma_noise=np.array([loud, loud, 0.05]))
    assert mixed.certificate is not None and not mixed.certificate.holds


def test_one_data_array_gives_one_unknown() -> None:
    one = pnp_tempered(A, Y[1], PRIOR, sigma_noise=0.05)
    assert one.x.shape == (12,)
    with pytest.raises(ValueError, match="does not say at which noise it was trained"):
        pnp_tempered(A, Y, lambda z: z, sigma_noise=0.1)
