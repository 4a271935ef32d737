"""The second derivation against SciPy and against the linear-Gaussian pair, and Algorithm 1."""

from pathlib import Path

import numpy as np
import torch
from scipy import integrate, stats

from pyro_aevb import nn, sgvb
from tests.pairs import LinearGaussian, binary


def test_imports_no_pyro():
    source = Path(sgvb.__file__).read_text()
    assert "import pyro\n" not in source
    assert "from pyro" not in source


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
