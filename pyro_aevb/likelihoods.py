"""Likelihoods p(x|z). A new one is one class here: subclass :class:`Likelihood`, return a Pyro distribution, done."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import InputError
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Bernoulli", "Gaussian"]


class Likelihood(nn.Module, ABC):
    """Base of all likelihoods.

    Subclass it, take ``latent_dim`` and ``data_dim`` first and everything else as keywords, and return from ``forward``
    a Pyro distribution with batch shape ``z.shape[:-1]`` and event shape ``(data_dim,)``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.

    Raises:
        InputError: If a size is not positive.
    """

    def __init__(self, latent_dim: int, data_dim: int) -> None:
        super().__init__()
        if min(latent_dim, data_dim) < 1:
            raise InputError(f"latent_dim and data_dim must be at least 1, not {latent_dim} and {data_dim}")
        self.latent_dim = latent_dim
        self.data_dim = data_dim

    @abstractmethod
    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The distribution p(x|z) for z of shape ``(..., K)``."""

    def warning(self, z: Tensor) -> str | None:
        """What a reader of the numbers should know about p(x|z) at these latents; ``None`` if nothing."""
        return None


class Bernoulli(Likelihood):
    r"""Binary data: independent Bernoulli pixels, parameterised by logits.

    .. math:: \log p(x \mid z) = \sum_d x_d \log y_d + (1 - x_d) \log (1 - y_d), \quad
              y = \mathrm{sigmoid}(f_\theta(z)) \tag{11}

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        relaxed: Accept grey pixels in [0, 1] as well. The cross-entropy is then no likelihood of the data: the paper
            used it so, and its best possible value on MNIST is about -45 nats, not 0.
        hidden: Units of the default network's hidden layers.
        activation: Activation of the default network.
        network: What makes the network, ``(in_dim, out_dim) -> nn.Module``, instead of the default.

    References:
        | Auto-Encoding Variational Bayes, equation (11) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        relaxed: bool = False,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.relaxed = relaxed
        self.network = make_network(latent_dim, data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Bernoulli(logits = f(z)), (11)."""
        family = _GreyBernoulli if self.relaxed else dist.Bernoulli
        return family(logits=self.network(z)).to_event(1)


class _GreyBernoulli(dist.Bernoulli):  # type: ignore[misc]  # Pyro makes its wrappers at run time
    """The cross-entropy of (11) at any x in [0, 1]; samples are binary all the same."""

    support = constraints.unit_interval


class Gaussian(Likelihood):
    r"""Real data: a Gaussian with diagonal covariance, both moments from one network.

    .. math:: \log p(x \mid z) = \log \mathcal{N}(x; \mu, \sigma^2 I), \quad (\mu, \log \sigma^2) = f_\theta(z) \tag{12}

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        sigmoid_mean: Pass the mean through a sigmoid, as the paper does for Frey Face.
        min_scale: Floor of the standard deviation: without one, a pixel that never varies drives the likelihood to
            infinity. ``evaluate`` warns where pixels sit on it.
        hidden: Units of the default network's hidden layers.
        activation: Activation of the default network.
        network: What makes the network, ``(in_dim, out_dim) -> nn.Module``, instead of the default.

    Raises:
        InputError: If ``min_scale`` is not positive.

    References:
        | Auto-Encoding Variational Bayes, equation (12) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        sigmoid_mean: bool = False,
        min_scale: float = 1e-3,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        if not min_scale > 0:
            raise InputError(
                f"min_scale must be positive, not {min_scale}: without a floor the likelihood is unbounded"
            )
        self.sigmoid_mean = sigmoid_mean
        self.min_scale = min_scale
        self.network = make_network(latent_dim, 2 * data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Normal(mu, sigma), (12), with sigma in [min_scale, e^10]."""
        mean, log_variance = self.network(z).chunk(2, dim=-1)  # (..., D) each
        if self.sigmoid_mean:
            mean = torch.sigmoid(mean)
        scale = (log_variance / 2).clamp(math.log(self.min_scale), 10).exp()
        return dist.Normal(mean, scale).to_event(1)

    def warning(self, z: Tensor) -> str | None:
        """Name the share of pixels whose scale sits on the floor."""
        share = (self(z).stddev <= self.min_scale * (1 + 1e-6)).float().mean().item()
        if share < 1e-3:
            return None
        return f"{share:.1%} of the pixels' scales sit on the floor of {self.min_scale:g}, which bounds log p(x|z)"
