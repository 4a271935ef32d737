"""What every guide q(z|x) is."""

from abc import ABC, abstractmethod

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import whole

__all__ = ["Guide"]


class Guide(nn.Module, ABC):
    """Base of all guides.

    Subclass it, take ``data_dim`` and ``latent_dim`` first and everything else as keywords, and return from ``forward``
    a Pyro distribution with batch shape ``(B,)`` and event shape ``(latent_dim,)``.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.

    Raises:
        InputError: If a size is no whole number of at least 1.
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.data_dim = whole("data_dim", data_dim)
        self.latent_dim = whole("latent_dim", latent_dim)

    @abstractmethod
    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """The distribution q(z|x) for x of shape ``(B, D)``."""
