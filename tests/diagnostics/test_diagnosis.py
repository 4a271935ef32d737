"""Diagnostics against closed forms, quadrature and their own definition."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import pyro_aevb as aevb
from pyro_aevb import InputError, diagnostics, evidence, guides, priors
from tests.oracles import RECIPES, build
from tests.pairs import LinearGaussian, binary, paper_pair


def pair_of(prior, guide, latent_dim=3):
    """Any prior and guide, with a Bernoulli decoder over 6 pixels."""
    likelihood = aevb.likelihoods.Bernoulli(latent_dim, 6, hidden=5)
    model = aevb.GenerativeModel(prior, likelihood).double()
    return model, aevb.RecognitionModel(guide).double()


# ---------------------------------------------------------------- KL by dimension


def test_kl_by_dimension_is_the_papers_and_adds_up():
    pair = LinearGaussian(shift=0.3, widen=1.4)
    found = diagnostics.latent_kl(pair.model, pair.guide, pair.x)
    q = pair.guide.guide(pair.x)
    closed = (q.mean**2 + q.variance - 1 - q.variance.log()) / 2  # Appendix B
    torch.testing.assert_close(found.per_dimension, closed.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.total, closed.detach().sum(-1), rtol=1e-12, atol=1e-12)
    assert found.factorised
    assert found.note is None


def test_kl_by_dimension_is_sampled_where_no_closed_form_is_registered():
    with aevb.seeded(0):
        guide = guides.DiagonalNormal(6, 3, hidden=5)
    model, guide = pair_of(priors.StudentT(3, df=3.0), guide)
    samples = 4000
    found = diagnostics.latent_kl(model, guide, binary(), samples)
    q = guide.guide(binary())
    grid = np.linspace(-30, 30, 60_001).reshape(-1, 1, 1)
    normal = stats.norm(q.mean.detach().numpy(), q.stddev.detach().numpy())
    log_ratio = normal.logpdf(grid) - stats.t(3.0).logpdf(grid)
    exact = integrate.trapezoid(normal.pdf(grid) * log_ratio, grid, axis=0)
    spread = np.sqrt(integrate.trapezoid(normal.pdf(grid) * log_ratio**2, grid, axis=0) - exact**2)
    z = (found.per_dimension.numpy() - exact) / (spread / samples**0.5)
    assert abs(z).max() < 4.5  # 33 z-scores: fails by chance with p < 3e-4, and the seed is fixed
    torch.testing.assert_close(found.per_dimension.sum(-1), found.total, rtol=1e-10, atol=1e-10)  # the same draws


def test_a_correlated_guide_has_its_marginals_and_the_rest_is_total_correlation():
    model, guide = pair_of(priors.StandardNormal(3), guides.FullCovarianceNormal(6, 3, hidden=5))
    found = diagnostics.latent_kl(model, guide, binary())
    q = guide.guide(binary())
    closed = (q.mean**2 + q.variance - 1 - q.variance.log()).detach() / 2
    correlation = (q.variance.log().sum(-1) - q.covariance_matrix.logdet()).detach() / 2
    torch.testing.assert_close(found.per_dimension, closed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.total - found.per_dimension.sum(-1), correlation, rtol=1e-9, atol=1e-9)
    assert f"{correlation.mean():.2f} nats more for how dimensions depend" in found.note


@pytest.mark.parametrize("which", ["prior", "guide"])
def test_marginals_of_mixtures_are_those_of_their_draws_and_integrate(which):
    """Against the CDF of many draws and, the whole density, against 1."""
    with aevb.seeded(2):
        made = priors.GaussianMixture(2, components=3)() if which == "prior" else None
        made = made or guides.Mixture(6, 2, hidden=5)(torch.rand(1, 6))
        with torch.no_grad():
            draws = made.expand((20_000, *made.batch_shape)).sample().view(-1, 2)
            marginals = diagnostics.latents.marginals(made)
    grid = torch.linspace(-9, 9, 2001)
    for k in range(2):
        points = grid.view(-1, *[1] * len(marginals.batch_shape)).expand(-1, *marginals.batch_shape)
        density = marginals.log_prob(points).exp()[..., k].flatten().detach().numpy()
        cdf = integrate.cumulative_trapezoid(density, grid.numpy(), initial=0)
        assert cdf[-1] == pytest.approx(1, abs=1e-4)
        distance = stats.kstest(draws[:, k].numpy(), lambda z, cdf=cdf: np.interp(z, grid.numpy(), cdf)).statistic
        assert distance < 0.0138  # 1.95 / sqrt(n): p = 1e-3, and the seed is fixed


def test_a_guide_that_tells_no_mean_and_no_marginals():
    """One draw as its mean would call every dimension active."""
    flow = guides.Flow(6, 3, hidden=5)
    torch.nn.init.zeros_(flow.network[0].weight)  # the same q for all data
    model, guide = pair_of(priors.StandardNormal(3), flow)
    found = diagnostics.latent_kl(model, guide, binary(200), 200)
    assert found.per_dimension is None
    assert "no parts by dimension" in found.note
    assert found.activity.abs().max() < 0.005  # 200 data and draws: a standard error of 0.0005
    assert not found.active.any()


def test_active_dimensions_are_those_of_active_units():
    pair = LinearGaussian(latent_dim=3)
    with torch.no_grad():
        pair.guide.guide.gain[1] = 0
    found = diagnostics.latent_kl(pair.model, pair.guide, pair.x)
    assert found.active.tolist() == [True, False, True]
    assert int(found.active.sum()) == evidence.active_units(pair.guide, pair.x)
    means = evidence.posterior_means(pair.guide, pair.x)
    torch.testing.assert_close(found.activity, means.var(0))


@pytest.mark.parametrize("name", [name for name in priors.__all__ if name != "ConditionalNormal"])  # cli: p(z|c)
def test_every_prior(name):
    with aevb.seeded(0):
        prior = build("priors", name, RECIPES["priors", name][0])
        positive = guides.Family(6, 3, distribution="Gamma", hidden=5)
        guide = positive if name == "Family" else guides.DiagonalNormal(6, 3, hidden=5)
        guide = prior._shared[0] if name == "VampPrior" else guide
    check_finite(*pair_of(prior, guide))


@pytest.mark.parametrize(("name", "which"), [(n, i) for n in guides.__all__ for i in range(len(RECIPES["guides", n]))])
def test_every_guide(name, which):
    with aevb.seeded(0):
        guide = build("guides", name, RECIPES["guides", name][which])
        prior = priors.Family(3, distribution="Gamma") if name == "Family" else priors.StandardNormal(3)
    check_finite(*pair_of(prior, guide))


def check_finite(model, guide):
    found = diagnostics.diagnose(model, guide, binary(), gap_count=0)
    information = found.aggregate.mutual_information
    planar = getattr(guide.guide, "transforms", None) and "planar" in type(guide.guide.transforms[0]).__name__.lower()
    assert (information is None) == bool(planar)
    for values in (found.kl.total, found.kl.activity, found.aggregate.distances, found.decoder_use):
        assert values.isfinite().all()
    if information is not None:
        assert information.isfinite().all()
        torch.testing.assert_close(information + found.aggregate.marginal_kl, found.kl.total)
    assert any("density of a given value" in note for note in found.notes) == bool(planar)
    assert (found.kl.per_dimension is None) == any("no parts by dimension" in note for note in found.notes)


# ---------------------------------------------------------------- what is refused, what is left alone


def conditional_pair(common):
    """A user's pair of two arguments; the prior depends on the second unless ``common``."""

    def model(x, c):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(c) if common else c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + c) / 2, 0.5**0.5).to_event(1))

    return model, guide


def test_a_prior_that_differs_between_data_has_no_aggregate():
    model, guide = conditional_pair(common=False)
    x = torch.randn(20, 2), torch.randn(20, 2)
    assert diagnostics.latent_kl(model, guide, x).per_dimension.shape == (20, 2)
    with pytest.raises(InputError, match="prior differs between data"):
        diagnostics.aggregate_posterior(model, guide, x)


def test_a_users_pair_of_functions_and_a_tuple_of_data():
    model, guide = conditional_pair(common=True)
    found = diagnostics.diagnose(model, guide, (torch.randn(20, 2), torch.randn(20, 2)))
    assert found.gaps is None
    assert any("no gaps: the guide has 0 parts with a .network" in note for note in found.notes)
    assert found.kl.total.shape == found.decoder_use.shape == (20,)


def test_bad_numbers_are_refused():
    pair = LinearGaussian()
    with pytest.raises(InputError, match="at least 2"):
        diagnostics.diagnose(pair.model, pair.guide, pair.x[:1])
    with pytest.raises(InputError, match="at least 2"):
        diagnostics.decoder_use(pair.model, pair.guide, pair.x[:1])
    with pytest.raises(InputError, match="num_samples"):
        diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 0)
    for count in (1, -3):
        with pytest.raises(InputError, match="gap_count"):
            diagnostics.diagnose(pair.model, pair.guide, pair.x, gap_count=count)


def test_everything_is_left_as_it_was_and_repeats():
    model, guide = paper_pair()
    model.train()
    before, store = torch.get_rng_state(), set(pyro.get_param_store().keys())
    first = diagnostics.diagnose(model, guide, binary(), gap_count=0)
    assert torch.equal(before, torch.get_rng_state())
    assert set(pyro.get_param_store().keys()) == store
    assert model.likelihood.training
    torch.rand(3)
    second = diagnostics.diagnose(model, guide, binary(), gap_count=0)
    assert torch.equal(first.aggregate.draws, second.aggregate.draws)
    assert torch.equal(first.decoder_use, second.decoder_use)
    assert not torch.equal(first.decoder_use, diagnostics.decoder_use(model, guide, binary(), seed=1))
