"""Priors p(z). A new one is one class here: subclass :class:`Prior`, return a Pyro distribution, done."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import InputError

__all__ = ["StandardNormal"]


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


class StandardNormal(Prior):
    r"""The paper's prior: centred, isotropic, without parameters.

    .. math:: p(z) = \mathcal{N}(z; 0, I)

    Arguments:
        latent_dim: Number of latent dimensions K.

    References:
        | Auto-Encoding Variational Bayes, section 3 (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self) -> TorchDistributionMixin:
        """N(0, I)."""
        return dist.Normal(self.loc, self.scale).to_event(1)
