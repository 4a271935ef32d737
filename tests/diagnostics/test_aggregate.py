"""The aggregate posterior, and what the decoder makes of z, against closed forms and their own definition."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_aevb as aevb
from pyro_aevb import diagnostics
from pyro_aevb.diagnostics import aggregate as aggregate_module
from tests.pairs import LinearGaussian


def wide_pair(x_count, seed=0):
    """Wide posteriors in two dimensions: about one nat of mutual information. Exact moments of q(z) with it."""
    pair = LinearGaussian(latent_dim=2, widen=1.5)
    with aevb.seeded(seed):
        pair.x = pair.marginal.sample((x_count,))
    guide = pair.guide.guide
    with torch.no_grad():
        guide.gain.mul_(0.5)
    covariance = guide.gain @ pair.marginal.covariance_matrix @ guide.gain.T + (2 * guide.log_scale).exp().diag()
    return pair, torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance.detach())


def test_mutual_information_and_marginal_kl_are_those_of_gaussians():
    pair, marginal = wide_pair(3000)
    found = diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 2)
    information = (marginal.covariance_matrix.logdet() / 2 - pair.guide.guide.log_scale.sum()).item()
    unit = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    kl = torch.distributions.kl_divergence(marginal, unit).item()
    estimate, other = diagnostics.mean_of(found.mutual_information), diagnostics.mean_of(found.marginal_kl)
    assert 0.5 < information < 2
    assert abs(estimate.mean - information) < 4 * estimate.se < 0.12  # fails by chance with p < 1e-4, seed fixed
    assert abs(other.mean - kl) < 4 * other.se
    assert found.ceiling == pytest.approx(math.log(3000))
    assert not found.at_ceiling


@pytest.mark.slow
def test_its_standard_error_is_honest():
    """Over 80 data sets the estimates differ by what their standard errors say, though q(z) is made of the data."""
    found = []
    for seed in range(80):
        pair, _ = wide_pair(150, seed)
        result = diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 2, seed=seed)
        found.append([diagnostics.mean_of(v) for v in (result.mutual_information, result.marginal_kl)])
    for estimates in zip(*found, strict=True):
        spread = np.std([e.mean for e in estimates], ddof=1)
        assert 0.75 < spread / np.mean([e.se for e in estimates]) < 1.3  # about 3 s.e. of a ratio of 80; seeds fixed


def test_mutual_information_is_its_definition():
    """137 data, so that q(z) is a mean over two blocks."""
    pair, _ = wide_pair(137)
    found = diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 3)
    z = found.draws.view(137, 3, 2)
    densities = pair.guide.guide(pair.x).log_prob(z.unsqueeze(2)).detach()  # (datum, draw, other datum)
    own = densities.diagonal(dim1=0, dim2=2).T  # (datum, draw)
    expected = (own - densities.exp().mean(-1).log()).mean(-1)
    torch.testing.assert_close(found.mutual_information, expected, rtol=1e-10, atol=1e-10)


def test_chunks_change_nothing(monkeypatch):
    pair, _ = wide_pair(137)
    whole, again = [], []
    for results, size in ((whole, 10**9), (again, 1000)):
        monkeypatch.setattr(aggregate_module, "ELEMENTS_AT_ONCE", size)
        results.append(diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 3).mutual_information)
    torch.testing.assert_close(whole, again, rtol=1e-12, atol=1e-12)


def test_the_ceiling_of_mutual_information_is_told():
    pair = LinearGaussian(widen=1e-4)
    found = diagnostics.diagnose(pair.model, pair.guide, pair.x, gap_count=0)
    assert found.aggregate.mutual_information.mean().item() == pytest.approx(math.log(37), abs=1e-6)
    assert found.aggregate.at_ceiling
    assert any("ceiling log N = 3.61" in warning for warning in found.warnings)


def test_distances_are_those_of_kolmogorov_and_smirnov():
    pair = LinearGaussian(latent_dim=3, widen=2.0)
    with torch.no_grad():
        pair.guide.guide.gain.zero_()
        pair.guide.guide.log_scale[:] = torch.tensor([0.0, math.log(0.2), 0.0])
    pair.guide.guide.shift = torch.tensor([0.0, 0.0, 1.0]).double()
    found = diagnostics.aggregate_posterior(pair.model, pair.guide, pair.x, 300)
    normals = [(0, 1), (0, 0.2), (1, 1)]  # q(z_k) against N(0, 1)
    grid = np.linspace(-6, 6, 4001)
    exact = [abs(stats.norm(*moments).cdf(grid) - stats.norm.cdf(grid)).max() for moments in normals]
    # 11,100 draws of each: half of the supremum's 1e-3 quantile, 1.95 sqrt(2 / n), is 0.026
    np.testing.assert_allclose(found.distances, exact, atol=0.026)


def test_the_prior_itself_is_the_aggregate_posterior_of_exact_guides():
    pair = LinearGaussian()
    pair.x = pair.marginal.sample((1000,))
    found = diagnostics.diagnose(pair.model, pair.guide, pair.x, gap_count=0)
    assert found.aggregate.distances.max() < 0.07  # 1000 data: 1.95 sqrt(1.1 / n), p = 1e-3 each, and the seed is fixed
    assert found.kl.active.all()
    assert all("ceiling" in warning for warning in found.warnings)


def test_a_prior_that_differs_only_between_blocks_has_no_aggregate():
    """The first hundred data have one prior, the others another."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.cat([torch.zeros(100, 2), torch.full((100, 2), 5.0)])
    with pytest.raises(aevb.InputError, match="prior differs between data"):
        diagnostics.aggregate_posterior(model, guide, x)


# ---------------------------------------------------------------- the decoder's use of z


def test_decoder_use_is_its_closed_form():
    """With hardly any spread of q: squared distances to the own and to the other datum's reconstruction."""
    pair = LinearGaussian(widen=1e-9)
    pair.x = pair.marginal.sample((137,))
    found = diagnostics.decoder_use(pair.model, pair.guide, pair.x, 2)
    reconstructions = pair.guide.guide(pair.x).mean @ pair.likelihood.weight.T + pair.likelihood.bias
    squares = (pair.x.unsqueeze(1) - reconstructions).square().sum(-1).detach() / (2 * 0.5**2)  # (x, z)
    order = torch.randperm(137, generator=aevb.seeds.generator(0, "permutation"))
    other = dict(zip(order.tolist(), order.roll(1).tolist(), strict=True))
    assert all(i != j for i, j in other.items())
    expected = torch.stack([squares[i, other[i]] - squares[i, i] for i in range(137)])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
