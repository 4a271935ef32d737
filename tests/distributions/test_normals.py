"""Correlated Gaussians in float32, over all that the guides can make, against sixty digits."""

import mpmath
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints, kl_divergence, transform_to

from pyro_aevb import guides
from pyro_aevb.distributions import PreciseLowRankMultivariateNormal, PreciseMultivariateNormal

B, K, R = 40, 20, 3
LOG_VARIANCES = {"-20": (-20, -20), "-10": (-10, -10), "0": (0, 0), "20": (20, 20), "mixed": (-20, 20)}


def low_rank_parameters(ends, size):
    """float32, as a guide makes them."""
    generator = torch.Generator().manual_seed(0)
    log_variance = torch.empty(B, K).uniform_(*ends, generator=generator)
    loc, factor = (torch.randn(B, *shape, generator=generator) for shape in ((K,), (K, R)))
    return loc, size * factor, log_variance.exp()


def exactly(loc, covariance, value):
    """log density, its gradients by the value and by the covariance, of one datum in 60 digits."""
    with mpmath.workdps(60):
        sigma, offset = mpmath.matrix(covariance), mpmath.matrix(value) - mpmath.matrix(loc)
        inverse = mpmath.inverse(sigma)
        solved = inverse * offset
        square, log_det = (offset.T * solved)[0], mpmath.log(mpmath.det(sigma))
        log_prob = -(square + log_det + len(offset) * mpmath.log(2 * mpmath.pi)) / 2
        return log_prob, -solved, (solved * solved.T - inverse) / 2


def numbers(matrix):
    """float64 again, a vector or a matrix."""
    return torch.tensor([[float(x) for x in row] for row in matrix.tolist()], dtype=torch.float64).squeeze(-1)


def exact_low_rank(loc, factor, diagonal, value):
    """log density and its gradients by loc, factor, diagonal and value, of one datum."""
    with mpmath.workdps(60):
        w = mpmath.matrix(factor.tolist())
        covariance = w * w.T + mpmath.diag(diagonal.tolist())
        log_prob, by_value, by_covariance = exactly(loc.tolist(), covariance, value.tolist())
        by_factor = numbers(2 * by_covariance * w)
    return float(log_prob), (-numbers(by_value), by_factor, numbers(by_covariance).diag(), numbers(by_value))


def exact_full(loc, tril, value):
    """log density and its gradients by loc, the triangle and value, of one datum."""
    with mpmath.workdps(60):
        triangle = mpmath.matrix(tril.tolist())
        log_prob, by_value, by_covariance = exactly(loc.tolist(), triangle * triangle.T, value.tolist())
        by_triangle = numbers(2 * by_covariance * triangle).tril()
    return float(log_prob), (-numbers(by_value), by_triangle, numbers(by_value))


def agrees(make, exact, parameters, value, rtol):
    """Densities to a float32's digits, gradients to ``rtol`` of the largest of each datum's numbers."""
    leaves = [p.detach().clone().requires_grad_() for p in (*parameters, value)]
    log_prob = make(*leaves[:-1]).log_prob(leaves[-1])
    assert log_prob.dtype == torch.float32
    found = torch.autograd.grad(log_prob.sum(), leaves)
    for i in range(len(value)):
        expected_log_prob, expected = exact(*(p[i] for p in parameters), value[i])
        assert log_prob[i].item() == pytest.approx(expected_log_prob, rel=1e-6, abs=1e-4)
        for one, other in zip(found, expected, strict=True):
            assert (one[i].double() - other).abs().max() <= rtol * other.abs().max()


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("ends", LOG_VARIANCES.values(), ids=LOG_VARIANCES)
def test_low_rank_density_and_gradients(ends, size):
    parameters = [p[:3] for p in low_rank_parameters(ends, size)]
    torch.manual_seed(0)
    value = PreciseLowRankMultivariateNormal(*parameters).sample()
    agrees(PreciseLowRankMultivariateNormal, exact_low_rank, parameters, value, rtol=1e-5)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("ends", LOG_VARIANCES.values(), ids=LOG_VARIANCES)
def test_low_rank_closed_forms(ends, size):
    parameters = low_rank_parameters(ends, size)
    q = PreciseLowRankMultivariateNormal(*parameters)
    oracle = dist.LowRankMultivariateNormal(*(p.double() for p in parameters))
    torch.testing.assert_close(q.entropy().double(), oracle.entropy(), rtol=1e-6, atol=1e-5)
    p = dist.Normal(torch.ones(K), 2.0).to_event(1)
    expected = kl_divergence(oracle, dist.Normal(torch.ones(K).double(), 2.0).to_event(1))
    torch.testing.assert_close(kl_divergence(q, p).double(), expected, rtol=1e-5, atol=1e-4)


def test_low_rank_with_columns_alike_and_a_tiny_diagonal():
    """Here a factorisation of the capacitance matrix has no positive diagonal; torch's raises."""
    factor = 1e4 * torch.ones(K, 1) * torch.tensor([1.0, 1.0, 1.0 + 1e-7])
    leaves = [p.requires_grad_() for p in (torch.zeros(K), factor, torch.full((K,), -20.0).exp())]
    q = PreciseLowRankMultivariateNormal(*leaves)
    torch.manual_seed(0)
    for value in (q.log_prob(q.rsample()), q.entropy()):
        for gradient in torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True):
            assert torch.isfinite(gradient).all()


def test_low_rank_is_scipys():
    loc, factor, diagonal = (p.double() for p in low_rank_parameters((-1, 1), 1.0))
    x = torch.randn(5, 1, K, dtype=torch.float64)
    found = PreciseLowRankMultivariateNormal(loc, factor, diagonal).log_prob(x)  # (5, B)
    for i in (0, 7):
        covariance = factor[i] @ factor[i].T + diagonal[i].diag()
        oracle = stats.multivariate_normal(loc[i], covariance).logpdf(x[:, 0])
        torch.testing.assert_close(found[:, i], torch.as_tensor(oracle))


def test_low_rank_expanded_and_broadcast():
    loc, factor, diagonal = low_rank_parameters((-1, 1), 1.0)
    q = PreciseLowRankMultivariateNormal(loc[0], factor, diagonal[0], validate_args=True)
    assert q.batch_shape == (B,)
    wide = q.expand((2, B))
    value = wide.rsample((3,))
    assert value.shape == (3, 2, B, K)
    torch.testing.assert_close(wide.log_prob(value), q.log_prob(value))
    assert wide.entropy().shape == (2, B)
    same = dist.LowRankMultivariateNormal(loc[0], factor, diagonal[0])
    torch.testing.assert_close(kl_divergence(q, same), torch.zeros(B), rtol=0, atol=1e-4)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_full_density_and_gradients(spread):
    generator = torch.Generator().manual_seed(0)
    square = torch.empty(3, 10, 10).uniform_(-spread, spread, generator=generator)
    parameters = torch.randn(3, 10, generator=generator), transform_to(constraints.lower_cholesky)(square)
    torch.manual_seed(0)

    def make(loc, tril):
        return PreciseMultivariateNormal(loc, scale_tril=tril)

    agrees(make, exact_full, parameters, make(*parameters).sample(), rtol=1e-5)


def test_full_expanded_and_broadcast():
    q = PreciseMultivariateNormal(torch.zeros(3), scale_tril=torch.eye(3), validate_args=True).expand((4,))
    assert isinstance(q, PreciseMultivariateNormal)
    assert q.log_prob(q.rsample((2,))).shape == (2, 4)


def test_the_guides_make_them():
    x = torch.rand(B, 6)
    assert isinstance(guides.LowRankNormal(6, 4, hidden=5)(x), PreciseLowRankMultivariateNormal)
    assert isinstance(guides.FullCovarianceNormal(6, 4, hidden=5)(x), PreciseMultivariateNormal)
