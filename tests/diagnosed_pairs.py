"""Pairs for the diagnostics' tests: linear-Gaussian ones, whose guide has a network."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb.guides import Guide
from tests.pairs import LinearGaussian


class NetworkGuide(Guide):
    """A diagonal Gaussian from a linear network that gives mean and log-scale."""

    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.network = nn.Linear(data_dim, 2 * latent_dim, dtype=torch.float64)

    def forward(self, x):
        mean, log_scale = self.network(x).chunk(2, dim=-1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)


class Amortised(LinearGaussian):
    """The linear-Gaussian pair; its guide has the posterior's moments, shifted and widened, from a network.

    A rotation correlates the posterior, which a diagonal guide can then not reach; the network's mean and scale are
    still the best that it can have: mean of the posterior, and the inverse of the precision's diagonal.
    """

    def __init__(self, *args, shift=0.0, widen=1.0, rotate=False, **options):
        super().__init__(*args, **options)
        if rotate:
            size = self.likelihood.latent_dim
            random = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            self.likelihood.weight.data @= torch.linalg.qr(random)[0]
        weight, variance = self.likelihood.weight.detach(), self.likelihood.sigma**2
        self.precision = weight.T @ weight / variance + torch.eye(weight.shape[1], dtype=torch.float64)
        gain = torch.linalg.solve(self.precision, weight.T / variance)  # (K, D)
        guide = NetworkGuide(*weight.shape)
        with torch.no_grad():
            guide.network.weight[:] = torch.cat([gain, torch.zeros_like(gain)])
            means = shift - gain @ self.likelihood.bias
            guide.network.bias[:] = torch.cat([means, self.precision.diagonal().rsqrt().mul(widen).log()])
        self.guide = aevb.RecognitionModel(guide)

    def posterior_kl(self):
        """KL(q(z|x) || p(z|x)), the whole gap, ``(B,)``."""
        q = self.guide.guide(self.x)
        weight, variance = self.likelihood.weight.detach(), self.likelihood.sigma**2
        means = torch.linalg.solve(self.precision, weight.T @ (self.x - self.likelihood.bias).T / variance).T
        posterior = torch.distributions.MultivariateNormal(means.detach(), precision_matrix=self.precision)
        as_correlated = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        return torch.distributions.kl_divergence(as_correlated, posterior).detach()

    def family_kl(self):
        """KL of the best diagonal Gaussian to the posterior: half of log det diag(Lambda) - log det Lambda."""
        return (self.precision.diagonal().log().sum() - self.precision.logdet()).item() / 2


class Registered(nn.Module):
    """A user's guide, which ``pyro.module`` gives whatever the store has under its name."""

    def __init__(self, guide):
        super().__init__()
        self.inner = guide

    def forward(self, x):
        pyro.module("users_guide", self, update_module_params=True)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.inner(x))


def ignoring(pair):
    """The same pair, whose decoder ignores z."""
    with torch.no_grad():
        pair.likelihood.weight.zero_()
    return pair
