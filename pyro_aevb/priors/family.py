"""A prior from any distribution."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.priors.base import Prior

__all__ = ["Family"]


class Family(Prior):
    r"""Any distribution by its name, its parameters learned or fixed.

    .. math:: p(z) = f(z; \eta), \quad \eta = \texttt{transform\_to}(\theta)

    Oracle: ``scipy.stats.gamma``, for one.

    Arguments:
        latent_dim: Number of latent dimensions K.
        distribution: Name of a class of ``pyro.distributions``, ``torch.distributions`` or ``pyro_aevb.distributions``.
        fixed: Values of parameters that are not learned, by name, the same for all latents; ``None`` for none.

    Raises:
        InputError: If there is no such distribution, or a parameter must be fixed and is not.

    References:
        | Auto-Encoding Variational Bayes, section 2.4 (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(self, latent_dim: int, *, distribution: str, fixed: dict[str, float] | None = None) -> None:
        super().__init__(latent_dim)
        self.family = DistributionFamily(distribution, latent_dim, fixed)
        self.unconstrained = nn.Parameter(torch.zeros(self.family.size))

    def forward(self) -> TorchDistributionMixin:
        """The distribution at the learned parameters."""
        return self.family(self.unconstrained)
