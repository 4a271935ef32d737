"""What every prior p(z) is."""

from abc import ABC, abstractmethod

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_aevb.errors import InputError

__all__ = ["Prior"]


class Prior(nn.Module, ABC):
    """Base of all priors.

    Subclass it, take ``latent_dim`` first and everything else as keywords, keep constants in buffers, and return from
    ``forward`` a Pyro distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Arguments:
        latent_dim: Number of latent dimensions K.

    Raises:
        InputError: If ``latent_dim`` is not positive.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, not {latent_dim}")
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> TorchDistributionMixin:
        """The distribution p(z), batch shape ``()``, event shape ``(K,)``."""
