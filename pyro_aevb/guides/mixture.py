"""A guide with several modes."""

from collections.abc import Sequence

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_aevb.distributions import NormalMixture
from pyro_aevb.errors import whole
from pyro_aevb.guides.base import Guide
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Mixture"]


class Mixture(Guide):
    r"""A mixture of diagonal Gaussians, for posteriors with several modes.

    .. math:: q(z \mid x) = \sum_c \pi_c(x)\, \mathcal{N}(z; \mu_c(x), \mathrm{diag}(\sigma_c^2(x)))

    Samples have pathwise gradients in all parameters, weights included: see
    :class:`~pyro_aevb.distributions.NormalMixture`, and what it says of components far apart.

    Oracle: ``scipy.stats.norm`` and ``scipy.special.logsumexp``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        components: Number of Gaussians.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Stochastic backpropagation through mixture density distributions (Graves, 2016)
        | https://arxiv.org/abs/1607.05690
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        components: int = 3,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        self.components = whole("components", components)
        self.network = make_network(data_dim, components * (2 * latent_dim + 1), hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """The mixture."""
        logits, rest = self.network(x).split([self.components, 2 * self.components * self.latent_dim], dim=-1)
        rest = rest.reshape(*rest.shape[:-1], self.components, 2 * self.latent_dim)
        mean, log_variance = rest.chunk(2, dim=-1)  # (B, C, K) each
        return NormalMixture(logits, mean, (log_variance / 2).clamp(-10, 10).exp())
