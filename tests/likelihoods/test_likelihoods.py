"""Each part's density against SciPy."""

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_aevb as aevb


def scipy_bernoulli(likelihood, z, x):
    y = torch.sigmoid(likelihood.network(z)).numpy()
    return stats.bernoulli.logpmf(x.numpy(), y).sum(-1)


def scipy_gaussian(likelihood, z, x):
    mean, log_variance = likelihood.network(z).chunk(2, dim=-1)
    mean = torch.sigmoid(mean) if likelihood.sigmoid_mean else mean
    return stats.norm.logpdf(x.numpy(), mean.numpy(), (log_variance / 2).exp().numpy()).sum(-1)


@pytest.mark.parametrize(
    ("part", "oracle"),
    [
        (aevb.likelihoods.Bernoulli(2, 5, hidden=4), scipy_bernoulli),
        (aevb.likelihoods.Bernoulli(2, 5, hidden=4, relaxed=True), scipy_bernoulli),
        (aevb.likelihoods.Gaussian(2, 5, hidden=4), scipy_gaussian),
        (aevb.likelihoods.Gaussian(2, 5, hidden=4, sigmoid_mean=True), scipy_gaussian),
    ],
)
@torch.no_grad()
def test_log_density_equals_scipy(part, oracle):
    part = part.double()
    z, x = torch.randn(7, 2, dtype=torch.float64), torch.randint(0, 2, (7, 5)).double()
    np.testing.assert_allclose(part(z).log_prob(x), oracle(part, z, x), rtol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@torch.no_grad()
def test_prior_and_guide_equal_scipy(scale):
    z, x = torch.randn(7, 3, dtype=torch.float64), torch.rand(7, 5, dtype=torch.float64)
    prior = aevb.priors.StandardNormal(3).double()
    np.testing.assert_allclose(prior().log_prob(z), stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-12)
    guide = aevb.guides.DiagonalNormal(5, 3, hidden=4, log_variance_scale=scale).double()
    mean, log_variance = guide.network(x).chunk(2, dim=-1)
    expected = stats.norm.logpdf(z.numpy(), mean.numpy(), (scale * log_variance / 2).exp().numpy()).sum(-1)
    np.testing.assert_allclose(guide(x).log_prob(z), expected, rtol=1e-10)


def test_a_log_variance_is_scaled_before_it_is_clamped():
    guide = aevb.guides.DiagonalNormal(5, 3, log_variance_scale=0.1, network=lambda i, o: torch.nn.Linear(i, o))
    torch.nn.init.zeros_(guide.network.weight)
    torch.nn.init.constant_(guide.network.bias, 100.0)
    torch.testing.assert_close(guide(torch.zeros(2, 5)).base_dist.scale, torch.full((2, 3), 5.0).exp())


def test_a_log_variance_scale_must_be_positive():
    with pytest.raises(aevb.InputError, match="log_variance_scale must be positive, not 0"):
        aevb.guides.DiagonalNormal(5, 3, log_variance_scale=0.0)


def test_relaxed_accepts_grey_with_validation_on_and_strict_does_not():
    z, grey = torch.zeros(3, 2), torch.full((3, 5), 0.3)
    assert aevb.likelihoods.Bernoulli(2, 5, relaxed=True)(z).log_prob(grey).shape == (3,)
    with pytest.raises(ValueError, match="support"):
        aevb.likelihoods.Bernoulli(2, 5)(z).log_prob(grey)


def test_a_relaxed_bernoulli_keeps_its_support_when_expanded():
    made = aevb.likelihoods.Bernoulli(2, 5, relaxed=True)(torch.zeros(3, 2)).expand((4, 3))
    assert made.log_prob(torch.full((3, 5), 0.3)).shape == (4, 3)
