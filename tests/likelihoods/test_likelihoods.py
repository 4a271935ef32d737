"""Likelihoods: their densities against SciPy's, what data they take, and what keeps their numbers finite."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, paper_pair
from tests.trainings import make


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


def test_grey_pixels_need_an_explicit_word():
    grey = torch.full((60, 6), 0.3, dtype=torch.float64)
    with pytest.raises(aevb.InputError, match="relaxed=True"):
        make(data=grey)
    with aevb.seeded(0):
        model, guide = paper_pair(size=60, relaxed=True)
    list(aevb.Trainer(model, guide, grey, batch_size=20, device="cpu").run(60))


def test_a_bernoulli_is_told_by_logits_not_by_probabilities():
    """Through probabilities a log density stops at -15.94."""
    likelihood = aevb.likelihoods.Bernoulli(1, 1, hidden=[])
    torch.nn.init.constant_(likelihood.network[0].weight, 200.0)
    torch.nn.init.zeros_(likelihood.network[0].bias)
    log_prob = likelihood(torch.tensor([[1.0]])).log_prob(torch.tensor([[0.0]]))
    assert log_prob.item() == pytest.approx(-200)


def test_wild_networks_give_a_finite_bound():
    """exp(100) = inf is accepted as a scale by torch; log-scales here are bounded."""
    model, guide = paper_pair("Gaussian")
    for network in (model.likelihood.network, guide.guide.network):
        network[-1].bias.data.fill_(1e4)
    assert math.isfinite(SGVB().loss(model, guide, binary()))
    for network in (model.likelihood.network, guide.guide.network):
        network[-1].bias.data.fill_(-1e4)
    assert math.isfinite(SGVB().loss(model, guide, binary()))


def test_a_variance_cannot_fall_to_zero_and_the_floor_is_named():
    likelihood = aevb.likelihoods.Gaussian(2, 6, hidden=4, min_scale=0.05)
    z = torch.zeros(3, 2)
    assert likelihood.warning(z) is None
    likelihood.network[-1].bias.data[6:9] = -100.0
    torch.testing.assert_close(likelihood(z).stddev[:, :3], torch.full((3, 3), 0.05))
    assert likelihood.warning(z) == "50.0% of the pixels' scales sit on the floor of 0.05, which bounds log p(x|z)"
