"""A guide from any distribution."""

from collections.abc import Sequence

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.errors import InputError
from pyro_aevb.guides.base import Guide
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Family"]


class Family(Guide):
    r"""Any distribution by its name, its parameters made by the network or fixed.

    .. math:: q(z \mid x) = f(z; \eta(x)), \quad \eta(x) = \texttt{transform\_to}(f_\phi(x))

    Oracle: ``scipy.stats.gamma``, for one.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        distribution: Name of a class of ``pyro.distributions``, ``torch.distributions`` or ``pyro_aevb.distributions``.
        fixed: Values of parameters that do not depend on x, by name, the same for all latents; ``None`` for none.
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
        data_dim: int,
        latent_dim: int,
        *,
        distribution: str,
        fixed: dict[str, float] | None = None,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        self.family = DistributionFamily(distribution, latent_dim, fixed)
        if self.family.size == 0:
            raise InputError(f"all parameters of {distribution} are fixed: nothing is left that depends on x")
        self.network = make_network(data_dim, self.family.size, hidden, activation, network)

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """The distribution at the network's outputs."""
        return self.family(self.network(x))
