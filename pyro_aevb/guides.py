"""Guides q(z|x). A new one is one class here: subclass :class:`Guide`, return a Pyro distribution, done."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import InputError
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["DiagonalNormal"]


class Guide(nn.Module, ABC):
    """Base of all guides.

    Subclass it, take ``data_dim`` and ``latent_dim`` first and everything else as keywords, and return from ``forward``
    a Pyro distribution with batch shape ``(B,)`` and event shape ``(latent_dim,)``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.

    Raises:
        InputError: If a size is not positive.
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__()
        if min(data_dim, latent_dim) < 1:
            raise InputError(f"data_dim and latent_dim must be at least 1, not {data_dim} and {latent_dim}")
        self.data_dim = data_dim
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """The distribution q(z|x) for x of shape ``(B, D)``."""


class DiagonalNormal(Guide):
    r"""The paper's guide: a Gaussian with diagonal covariance, both moments from one network.

    .. math:: q(z \mid x) = \mathcal{N}(z; \mu, \sigma^2 I), \quad (\mu, \log \sigma^2) = f_\phi(x) \tag{9}

    The log-scale is clamped to [-10, 10]: beyond it a float32 square over- or underflows, and one wild datum would
    turn the loss into NaN.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        hidden: Units of the default network's hidden layers.
        activation: Activation of the default network.
        network: What makes the network, ``(in_dim, out_dim) -> nn.Module``, instead of the default.

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
    ) -> None:
        super().__init__(data_dim, latent_dim)
        # One output layer for both moments: two small products run at a quarter of one large one's rate.
        self.network = make_network(data_dim, 2 * latent_dim, hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Normal(mu, sigma), (9)."""
        mean, log_variance = self.network(x).chunk(2, dim=-1)  # (B, K) each
        return dist.Normal(mean, (log_variance / 2).clamp(-10, 10).exp()).to_event(1)
