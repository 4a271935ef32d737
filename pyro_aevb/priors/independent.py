"""Priors whose latents are independent."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import positive
from pyro_aevb.priors.base import Prior

__all__ = ["Laplace", "LearnedNormal", "StandardNormal", "StudentT"]


class StandardNormal(Prior):
    r"""The paper's prior: centred, isotropic, without parameters.

    .. math:: p(z) = \mathcal{N}(z; 0, I)

    Oracle: ``scipy.stats.norm``.

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


class LearnedNormal(Prior):
    r"""A diagonal Gaussian whose mean and scale are learned with the model.

    .. math:: p(z) = \mathcal{N}(z; \mu, \mathrm{diag}(\sigma^2))

    Oracle: ``scipy.stats.norm``.

    Arguments:
        latent_dim: Number of latent dimensions K.

    References:
        | Auto-Encoding Variational Bayes, section 2.1, whose prior p_θ(z) may have parameters (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> TorchDistributionMixin:
        """N(mu, sigma^2)."""
        return dist.Normal(self.loc, self.log_scale.clamp(-10, 10).exp()).to_event(1)


class Laplace(Prior):
    r"""Independent Laplace latents: sparse codes.

    .. math:: p(z) = \prod_k \tfrac{1}{2b} e^{-|z_k| / b}

    Oracle: ``scipy.stats.laplace``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        scale: Scale :math:`b` of all latents, positive; the default, the square root of 1/2, gives variance 1.

    Raises:
        InputError: If ``scale`` is not positive.

    References:
        | Emergence of simple-cell receptive field properties by learning a sparse code (Olshausen & Field, 1996)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, *, scale: float = 0.5**0.5) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.full((latent_dim,), positive("scale", scale)))

    def forward(self) -> TorchDistributionMixin:
        """Laplace(0, b)."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(Prior):
    r"""Independent Student's t latents: heavy tails.

    .. math:: p(z) = \prod_k t_\nu(z_k)

    Oracle: ``scipy.stats.t``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        df: Degrees of freedom :math:`\nu` of all latents, positive: the fewer, the heavier the tails.

    Raises:
        InputError: If ``df`` is not positive.

    References:
        | Variational inference for Student-t models (Tipping & Lawrence, 2005)
    """

    df: Tensor

    def __init__(self, latent_dim: int, *, df: float = 5.0) -> None:
        super().__init__(latent_dim)
        self.register_buffer("df", torch.full((latent_dim,), positive("df", df)))

    def forward(self) -> TorchDistributionMixin:
        """t(nu)."""
        return dist.StudentT(self.df).to_event(1)
