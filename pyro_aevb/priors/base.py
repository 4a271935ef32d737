"""What every prior p(z) is."""

from abc import ABC, abstractmethod

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_aevb.errors import whole

__all__ = ["Prior"]


class Prior(nn.Module, ABC):
    """Base of all priors.

    Subclass it, take ``latent_dim`` first and everything else as keywords, keep constants in buffers, and return from
    ``forward`` a Pyro distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Arguments:
        latent_dim: Number of latent dimensions K.

    Raises:
        InputError: If ``latent_dim`` is no whole number of at least 1.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole("latent_dim", latent_dim)

    @abstractmethod
    def forward(self) -> TorchDistributionMixin:
        """The distribution p(z), batch shape ``()``, event shape ``(K,)``."""
