"""Gaussian guides, by how much of the covariance they have."""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_aevb.distributions import PreciseLowRankMultivariateNormal, PreciseMultivariateNormal
from pyro_aevb.errors import positive, whole
from pyro_aevb.guides.base import Guide
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["DiagonalNormal", "FullCovarianceNormal", "LowRankNormal"]


class DiagonalNormal(Guide):
    r"""The paper's guide: a Gaussian with diagonal covariance, both moments from one network.

    .. math:: q(z \mid x) = \mathcal{N}(z; \mu, \sigma^2 I), \quad (\mu, \tfrac1c \log \sigma^2) = f_\phi(x) \tag{9}

    The log-scale is clamped to [-10, 10]: beyond it a float32 square over- or underflows, and one wild datum would
    turn the loss into NaN.

    Oracle: ``scipy.stats.norm``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.
        log_variance_scale: Factor c of the network's log-variance. Optimizers like Adagrad and Adam, whose steps do
            not grow with the gradient, change the log-variance c times as fast as the mean. Figure 2 trains
            wake-sleep with 0.1.

    Raises:
        InputError: If ``log_variance_scale`` is not positive.

    References:
        | Auto-Encoding Variational Bayes, equation (9) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
        log_variance_scale: float = 1.0,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        self.log_variance_scale = positive("log_variance_scale", log_variance_scale)
        # One output layer for both moments: two small products run at a quarter of one large one's rate.
        self.network = make_network(data_dim, 2 * latent_dim, hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Normal(mu, sigma), (9)."""
        mean, log_variance = self.network(x).chunk(2, dim=-1)  # (B, K) each
        log_scale = self.log_variance_scale * log_variance / 2
        return dist.Normal(mean, log_scale.clamp(-10, 10).exp()).to_event(1)


class FullCovarianceNormal(Guide):
    r"""A Gaussian with any covariance: correlated latents.

    .. math:: q(z \mid x) = \mathcal{N}(z; \mu(x), L(x) L(x)^\top)

    Oracle: ``scipy.stats.multivariate_normal``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Stochastic backpropagation in deep generative models, section 4.3 (Rezende et al., 2014)
        | https://arxiv.org/abs/1401.4082
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        self.network = make_network(data_dim, latent_dim + latent_dim**2, hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Normal(mu, L L'), L lower triangular with its diagonal in [e^-10, e^10]."""
        mean, square = self.network(x).split([self.latent_dim, self.latent_dim**2], dim=-1)
        square = square.reshape(*square.shape[:-1], self.latent_dim, self.latent_dim).clamp(-10, 10)  # (B, K, K)
        return PreciseMultivariateNormal(mean, scale_tril=transform_to(constraints.lower_cholesky)(square))


class LowRankNormal(Guide):
    r"""A Gaussian with a diagonal covariance plus one of low rank: correlations at a cost linear in K.

    .. math:: q(z \mid x) = \mathcal{N}(z; \mu, \mathrm{diag}(\sigma^2) + F F^\top), F \in \mathbb{R}^{K \times R}

    Oracle: ``scipy.stats.multivariate_normal``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        rank: Number of columns R of F.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Stochastic backpropagation in deep generative models, section 4.3 (Rezende et al., 2014)
        | https://arxiv.org/abs/1401.4082
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        rank: int = 2,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        self.rank = whole("rank", rank)
        self.network = make_network(data_dim, (2 + rank) * latent_dim, hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Normal(mu, diag(sigma^2) + F F')."""
        mean, log_variance, factor = self.network(x).split([self.latent_dim] * 2 + [self.rank * self.latent_dim], -1)
        factor = factor.reshape(*factor.shape[:-1], self.latent_dim, self.rank)  # (B, K, R)
        return PreciseLowRankMultivariateNormal(mean, factor, log_variance.clamp(-20, 20).exp())
