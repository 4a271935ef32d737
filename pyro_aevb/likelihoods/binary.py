"""Likelihoods of binary pixels, and of grey ones on the same footing."""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_aevb.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from pyro_aevb.errors import flag
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    r"""Binary data: independent Bernoulli pixels, parameterised by logits.

    .. math:: \log p(x \mid z) = \sum_d x_d \log y_d + (1 - x_d) \log (1 - y_d), \quad
              y = \mathrm{sigmoid}(f_\theta(z)) \tag{11}

    Oracle: ``scipy.stats.bernoulli``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        relaxed: Whether grey pixels in [0, 1] are accepted as well. The cross-entropy is then no likelihood of the
            data: the paper used it so, and its best possible value on MNIST is about -45 nats, not 0.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

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
        self.relaxed = flag("relaxed", relaxed)
        self.network = make_network(latent_dim, data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Bernoulli(logits = f(z)), (11)."""
        family = _GreyBernoulli if self.relaxed else dist.Bernoulli
        return family(logits=self.network(z)).to_event(1)


class _GreyBernoulli(dist.Bernoulli):  # type: ignore[misc]  # Pyro makes its wrappers at run time
    """The cross-entropy of (11) at any x in [0, 1]; samples are binary all the same."""

    support = constraints.unit_interval


class ContinuousBernoulli(Likelihood):
    r"""Grey pixels in [0, 1]: the cross-entropy of (11) with the constant that makes it a density.

    .. math:: p(x \mid z) = \prod_d \frac{\lambda_d}{e^{\lambda_d} - 1} e^{\lambda_d x_d}, \quad \lambda = f_\theta(z)

    Oracle: closed form, and quadrature.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | The continuous Bernoulli: fixing a pervasive error in VAEs (Loaiza-Ganem & Cunningham, 2019)
        | https://arxiv.org/abs/1907.06845
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.network = make_network(latent_dim, data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """ContinuousBernoulli(logits = f(z))."""
        return ContinuousBernoulliDistribution(self.network(z)).to_event(1)
