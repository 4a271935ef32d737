"""A prior that depends on the condition of a conditional model."""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_aevb.errors import whole
from pyro_aevb.nn import Activation, Network, make_network
from pyro_aevb.priors.base import Prior

__all__ = ["ConditionalNormal"]


class ConditionalNormal(Prior):
    r"""A diagonal Gaussian whose moments are made from the condition: each class has a place of its own.

    .. math:: p(z \mid c) = \mathcal{N}(z; \mu(c), \mathrm{diag}(\sigma^2(c)))

    Oracle: ``scipy.stats.norm``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        condition: Number of columns C of the condition, a category's classes.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Learning structured output representation using deep conditional generative models (Sohn et al., 2015)
        | https://papers.nips.cc/paper/5775
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        condition: int = 1,
        hidden: int | Sequence[int] = 50,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim)
        self.condition = whole("condition", condition)
        self.network = make_network(condition, 2 * latent_dim, hidden, activation, network)

    def forward(self, c: Tensor) -> TorchDistributionMixin:
        """Normal(mu(c), sigma(c)) for a condition of shape ``(B, C)``."""
        mean, log_variance = self.network(c).chunk(2, dim=-1)  # (B, K) each
        return dist.Normal(mean, (log_variance / 2).clamp(-10, 10).exp()).to_event(1)
