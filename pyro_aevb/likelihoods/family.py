"""A likelihood from any distribution."""

from collections.abc import Sequence

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Family"]


class Family(Likelihood):
    r"""Any distribution by its name, its parameters made by the network or fixed.

    .. math:: p(x \mid z) = f(x; \eta(z)), \quad \eta(z) = \texttt{transform\_to}(f_\theta(z))

    Oracle: ``scipy.stats.gumbel_r``, for one.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        distribution: Name of a class of ``pyro.distributions``, ``torch.distributions`` or ``pyro_aevb.distributions``.
        fixed: Values of parameters that do not depend on z, by name, the same for all pixels; ``None`` for none.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If there is no such distribution, or a parameter must be fixed and is not.

    References:
        | Auto-Encoding Variational Bayes, section 2.4 (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        distribution: str,
        fixed: dict[str, float] | None = None,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.family = DistributionFamily(distribution, data_dim, fixed)
        self.network = make_network(latent_dim, self.family.size, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The distribution at the network's outputs."""
        return self.family(self.network(z))
