"""The second derivation against SciPy and against the linear-Gaussian pair, and Algorithm 1."""

import re
from pathlib import Path

import numpy as np
import torch
from scipy import integrate, stats

from pyro_aevb import nn, sgvb
from tests.pairs import LinearGaussian, binary


def test_imports_no_pyro():
    source = Path(sgvb.__file__).read_text()
    assert not re.search(r"(from|import) pyro\b", source)


def test_gaussian_kl_equals_quadrature():
    mean, sd = 0.7, 0.4
    q, p = stats.norm(mean, sd), stats.norm()
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -10, 10)
    ours = sgvb.gaussian_kl(
        torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[2 * np.log(sd)]], dtype=torch.float64)
    )
    np.testing.assert_allclose(ours, [expected], rtol=1e-8)


def test_log_densities_equal_scipy():
    x, outputs = torch.rand(4, 3).double(), torch.randn(4, 6).double()
    mean, log_variance = outputs.chunk(2, -1)
    expected = stats.norm.logpdf(x, mean, (log_variance / 2).exp()).sum(-1)
    np.testing.assert_allclose(sgvb.gaussian_log_likelihood(x, outputs), expected, rtol=1e-12)
    binary_x = (x > 0.5).double()
    expected = stats.bernoulli.logpmf(binary_x, torch.sigmoid(mean)).sum(-1)
    np.testing.assert_allclose(sgvb.bernoulli_log_likelihood(binary_x, mean), expected, rtol=1e-10)


def test_estimator_a_at_the_posterior_is_the_evidence():
    pair = LinearGaussian()

    def encoder(x):
        q = pair.guide.guide(x)
        return torch.cat([q.mean, 2 * q.stddev.log()], dim=-1)

    def decoder(z):
        mean = pair.likelihood(z).mean
        return torch.cat([mean, torch.full_like(mean, 2 * np.log(pair.likelihood.sigma))], dim=-1)

    noise = torch.randn(len(pair.x), 3, dtype=torch.float64)
    ours = sgvb.estimator_a(pair.x, noise, encoder, decoder, sgvb.gaussian_log_likelihood)
    torch.testing.assert_close(ours, pair.log_evidence, rtol=1e-10, atol=1e-10)


def test_full_bayes_at_the_exact_posterior_is_the_log_evidence():
    """x_i ~ N(theta, sigma^2 I) and a latent without effect: the weights' posterior and log p(X) are known.

    (22) is log p(X) for every noise. (24) is so in mean; it is quadratic in the noise, so that the noises 1 and -1 have
    its mean.
    """
    generator, log_variance = torch.Generator().manual_seed(0), np.log(0.7)
    x = 1 + torch.randn(8, 3, generator=generator, dtype=torch.float64)
    covariance = torch.ones(8, 8, dtype=torch.float64) + 0.7 * torch.eye(8, dtype=torch.float64)
    zero = torch.zeros(8, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(zero, covariance).log_prob(x.T).sum()
    precision = 8 / 0.7 + 1
    weights = torch.cat([x.sum(0) / 0.7 / precision, torch.full((3,), -np.log(precision), dtype=torch.float64)])

    def decoder(theta, z):
        return torch.cat([theta.expand(len(z), 3), torch.full((len(z), 3), log_variance, dtype=z.dtype)], dim=-1)

    def bound(estimator, rows, weights_noise):
        noise = torch.randn(len(rows), 2, generator=generator, dtype=torch.float64)
        return estimator(
            x[rows], noise, weights_noise, lambda x: x.new_zeros(len(x), 4), decoder, sgvb.gaussian_log_likelihood,
            weights, 8,
        )  # fmt: skip

    everything = torch.arange(8)
    for _ in range(3):
        noise = torch.randn(3, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(bound(sgvb.full_bayes_a, everything, noise), expected, rtol=1e-12, atol=1e-12)
        minibatches = [bound(sgvb.full_bayes_a, rows, noise) for rows in everything.split(2)]
        torch.testing.assert_close(torch.stack(minibatches).mean(), expected, rtol=1e-12, atol=1e-12)
    one = torch.ones(3, dtype=torch.float64)
    both = [bound(sgvb.full_bayes_b, everything, sign * one) for sign in (1, -1)]
    torch.testing.assert_close(torch.stack(both).mean(), expected, rtol=1e-12, atol=1e-12)


def train(steps, seed=0):
    torch.manual_seed(0)
    encoder, decoder = nn.MLP(6, 4, 8), nn.MLP(2, 6, 8)
    optimizer = torch.optim.Adagrad([*encoder.parameters(), *decoder.parameters()], lr=0.05, weight_decay=1.0)
    generator = torch.Generator().manual_seed(seed)
    data = binary(200, dtype=torch.float32) * torch.tensor([1.0, 1, 1, 0, 0, 0])
    algorithm = sgvb.algorithm_1(
        data, encoder, decoder, optimizer, latent_dim=2, steps=steps, batch_size=50, generator=generator
    )
    return torch.stack(list(algorithm))


def test_algorithm_1_climbs_and_is_a_function_of_its_generator():
    bounds = train(300)
    assert bounds[-50:].mean() > bounds[:10].mean() + 1
    # 3 fair coins and 3 constants: the bound cannot exceed -3 ln 2, beyond the noise of 200 data's frequencies
    assert bounds[-50:].mean() < -3 * np.log(2) + 0.2
    assert torch.equal(bounds, train(300))
    assert not torch.equal(bounds, train(300, seed=1))
