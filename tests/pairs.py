"""Pairs with known answers, and pairs written by hand as a user would."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import nn

import pyro_aevb as aevb
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood


class LinearGaussianLikelihood(Likelihood):
    """p(x|z) = N(W z + b, sigma^2 I): probabilistic PCA."""

    def __init__(self, latent_dim, data_dim, *, weight, sigma=0.5):
        super().__init__(latent_dim, data_dim)
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.linspace(-1, 1, data_dim, dtype=weight.dtype))
        self.sigma = sigma

    def forward(self, z):
        return dist.Normal(z @ self.weight.T + self.bias, self.sigma).to_event(1)


class LinearGaussianGuide(Guide):
    """The exact posterior N(M^-1 W'(x - b), sigma^2 M^-1), M = W'W + sigma^2 I, diagonal for orthogonal columns."""

    def __init__(self, data_dim, latent_dim, *, likelihood, shift=0.0, widen=1.0):
        super().__init__(data_dim, latent_dim)
        weight, sigma = likelihood.weight.detach(), likelihood.sigma
        m = weight.T @ weight + sigma**2 * torch.eye(latent_dim, dtype=weight.dtype)
        self.gain = nn.Parameter(torch.linalg.solve(m, weight.T).contiguous())
        self.bias = nn.Parameter(likelihood.bias.detach().clone())
        self.log_scale = nn.Parameter((sigma**2 * torch.linalg.inv(m)).diagonal().sqrt().mul(widen).log())
        self.shift = shift

    def forward(self, x):
        return dist.Normal((x - self.bias) @ self.gain.T + self.shift, self.log_scale.exp()).to_event(1)


class LinearGaussian:
    """A pair whose evidence and posterior are known exactly."""

    def __init__(self, latent_dim=3, data_dim=5, size=None, shift=0.0, widen=1.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(data_dim, latent_dim, generator=generator, dtype=torch.float64))
        weight = basis * torch.linspace(1, 2, latent_dim, dtype=torch.float64)
        self.likelihood = LinearGaussianLikelihood(latent_dim, data_dim, weight=weight)
        self.model = aevb.GenerativeModel(aevb.priors.StandardNormal(latent_dim).double(), self.likelihood, size)
        guide = LinearGaussianGuide(data_dim, latent_dim, likelihood=self.likelihood, shift=shift, widen=widen)
        self.guide = aevb.RecognitionModel(guide, size)
        covariance = weight @ weight.T + self.likelihood.sigma**2 * torch.eye(data_dim, dtype=torch.float64)
        self.marginal = torch.distributions.MultivariateNormal(self.likelihood.bias.detach(), covariance)
        with aevb.seeded(seed):
            self.x = self.marginal.sample((37,))

    @property
    def log_evidence(self):
        return self.marginal.log_prob(self.x)


def paper_pair(likelihood="Bernoulli", data_dim=6, latent_dim=2, size=None, hidden=8, dtype=torch.float64, **options):
    """The paper's pair, small."""
    family = getattr(aevb.likelihoods, likelihood)
    model = aevb.GenerativeModel(
        aevb.priors.StandardNormal(latent_dim), family(latent_dim, data_dim, hidden=hidden, **options), size
    )
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(data_dim, latent_dim, hidden=hidden), size)
    return model.to(dtype), guide.to(dtype)


def binary(rows=11, data_dim=6, dtype=torch.float64):
    """Binary data."""
    return (torch.rand(rows, data_dim, generator=torch.Generator().manual_seed(3)) > 0.5).to(dtype)


def hand_written_pair(size, data_dim=4):
    """Two latents and ``pyro.param`` only, in the same plate, as in a Pyro tutorial."""

    def model(x):
        weight = pyro.param(
            "weight", lambda: 0.3 * torch.randn(2, data_dim, generator=torch.Generator().manual_seed(1))
        )
        sigma = pyro.param("sigma", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", size, subsample_size=len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.5 * a, 1.0))
            mean = torch.stack([a, b], dim=-1) @ weight
            pyro.sample("x", dist.Normal(mean, sigma).to_event(1), obs=x)

    def guide(x):
        gain = pyro.param("gain", lambda: torch.zeros(data_dim, 2))
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("data", size, subsample_size=len(x), dim=-1):
            mean = x @ gain
            pyro.sample("a", dist.Normal(mean[..., 0], scale[0]))
            pyro.sample("b", dist.Normal(mean[..., 1], scale[1]))

    return model, guide


def gradients(*modules):
    """All gradients, by name."""
    return {f"{i}.{n}": p.grad.clone() for i, m in enumerate(modules) for n, p in m.named_parameters()}


def plate(x, name="data"):
    """The plate of the data."""
    return pyro.plate(name, len(x), dim=-1)


def std(x, f=lambda z: z):
    """x = f(z) + noise, both standard normal, ``(B, 1)``."""
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        pyro.sample("x", dist.Normal(f(z), 1).to_event(1), obs=x)


def q(x):
    """The exact posterior of ``std``."""
    with plate(x):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def traced(model, guide, *args):
    """Traces of the model at the guide's draws, and of the guide, with their log densities: by Pyro alone."""
    q = poutine.trace(guide).get_trace(*args)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)
    for trace in (p, q):
        trace.compute_log_prob()
    return p, q
