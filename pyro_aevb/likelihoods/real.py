"""Likelihoods of real numbers."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_aevb.errors import InputError, flag, positive, told
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Beta", "Gaussian", "Laplace"]

Scale = Literal["network", "pixel", "shared"] | float
SCALES = ("network", "pixel", "shared")


class _LocationScale(Likelihood):
    """A location and a scale for each pixel, the location from the network, the scale from where ``scale`` says.

    The logarithm of the scale lies in [log min_scale, 10]; from the network comes the logarithm of its square, as in
    the paper's (12).
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        scale: Scale,
        sigmoid_mean: bool,
        min_scale: float,
        hidden: int | Sequence[int],
        activation: Activation,
        network: Network | None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.min_scale = positive("min_scale", min_scale)  # without a floor the likelihood is unbounded
        self.sigmoid_mean = flag("sigmoid_mean", sigmoid_mean)
        self.scale = _checked(scale, min_scale)
        self.network = make_network(
            latent_dim, data_dim * (2 if scale == "network" else 1), hidden, activation, network
        )
        if not isinstance(scale, str):
            self.register_buffer("log_variance", torch.full((1,), 2 * math.log(scale)))
        elif scale != "network":
            self.log_variance = nn.Parameter(torch.zeros(data_dim if scale == "pixel" else 1))

    def location_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of each pixel, ``(..., D)`` each, given z, ``(..., K)``."""
        outputs = self.network(z)
        if self.scale == "network":
            location, log_variance = outputs.chunk(2, dim=-1)  # (..., D) each
        else:
            location = outputs
            log_variance = self.log_variance
        if self.sigmoid_mean:
            location = torch.sigmoid(location)
        return location, (log_variance / 2).clamp(math.log(self.min_scale), 10).exp()

    def warning(self, z: Tensor) -> str | None:
        """Name the share of pixels whose scale sits on the floor."""
        _, scale = self.location_and_scale(z)
        share = (scale <= self.min_scale * (1 + 1e-6)).float().mean().item()
        if share < 1e-3:
            return None
        return f"{share:.1%} of the pixels' scales sit on the floor of {self.min_scale:g}, which bounds log p(x|z)"


def _checked(scale: Scale, min_scale: float) -> Scale:
    """One of three words, or a number that does not lie below the floor."""
    if isinstance(scale, str) and scale in SCALES:
        return scale
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InputError(f"unknown scale {told(scale)}: give one of {', '.join(SCALES)}, or a number")
    if positive("scale", scale) < min_scale:
        raise InputError(f"scale {scale} lies below min_scale {min_scale}: lower that too")
    return scale


class Gaussian(_LocationScale):
    r"""Real data: a Gaussian with diagonal covariance.

    .. math:: \log p(x \mid z) = \log \mathcal{N}(x; \mu, \sigma^2 I), \quad (\mu, \log \sigma^2) = f_\theta(z) \tag{12}

    Oracle: ``scipy.stats.norm``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        scale: The standard deviation: from the ``network`` as in (12), learned for each ``pixel``, one learned and
            ``shared``, or a fixed number.
        sigmoid_mean: Whether to pass the mean through a sigmoid, as the paper does for Frey Face.
        min_scale: Floor of the standard deviation: without one, a pixel that never varies drives the likelihood to
            infinity. ``evaluate`` warns where pixels sit on it.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If ``min_scale`` or a given ``scale`` is not positive.

    References:
        | Auto-Encoding Variational Bayes, equation (12) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        scale: Scale = "network",
        sigmoid_mean: bool = False,
        min_scale: float = 1e-3,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim, scale, sigmoid_mean, min_scale, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Normal(mu, sigma), (12), with sigma in [min_scale, e^10]."""
        return dist.Normal(*self.location_and_scale(z)).to_event(1)


class Laplace(_LocationScale):
    r"""Real data with heavy tails: independent Laplace pixels, the absolute error in place of the squared one.

    .. math:: \log p(x \mid z) = -\sum_d \frac{\lvert x_d - \mu_d \rvert}{b_d} + \log 2 b_d,
              \quad (\mu, 2 \log b) = f_\theta(z)

    Oracle: ``scipy.stats.laplace``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        scale: The scale b: from the ``network``, learned for each ``pixel``, one learned and ``shared``, or a fixed
            number.
        sigmoid_mean: Whether to pass the location through a sigmoid, as the paper does for Frey Face.
        min_scale: Floor of the scale: without one, a pixel that never varies drives the likelihood to
            infinity. ``evaluate`` warns where pixels sit on it.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If ``min_scale`` or a given ``scale`` is not positive.

    References:
        | Auto-Encoding Variational Bayes, section 2.4, for the distribution (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        scale: Scale = "network",
        sigmoid_mean: bool = False,
        min_scale: float = 1e-3,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim, scale, sigmoid_mean, min_scale, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Laplace(mu, b), with b in [min_scale, e^10]."""
        return dist.Laplace(*self.location_and_scale(z)).to_event(1)


class Beta(Likelihood):
    r"""Pixels in [0, 1] with a density that may pile up at either end.

    .. math:: x_d = (1 + 2 m)\, y_d - m, \quad y_d \sim \mathrm{Beta}(\mu_d \nu_d, (1 - \mu_d) \nu_d), \quad
              (\mathrm{logit}\, \mu, \log \nu) = f_\theta(z)

    The density lives on [-m, 1 + m], so that a pixel of exactly 0 or 1 has a finite one; m is part of the model.

    Oracle: ``scipy.stats.beta``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        margin: How far m the density reaches beyond 0 and 1, positive; by default half of one grey level of 256.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If ``margin`` is not positive.

    References:
        | Beta regression for modelling rates and proportions (Ferrari & Cribari-Neto, 2004)
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        margin: float = 1 / 512,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.margin = positive("margin", margin)
        self.network = make_network(latent_dim, 2 * data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The stretched Beta of mean mu and precision nu in [e^-10, e^10]."""
        logit, log_precision = self.network(z).chunk(2, dim=-1)  # (..., D) each
        precision = log_precision.clamp(-10, 10).exp()
        mean = logit.clamp(-10, 10).sigmoid()
        low = torch.full_like(mean, -self.margin)
        width = torch.full_like(mean, 1 + 2 * self.margin)
        return _StretchedBeta(mean * precision, (1 - mean) * precision, low, width).to_event(1)


class _StretchedBeta(dist.AffineBeta):
    """A Beta that declares one support for all pixels, so that a message can tell its two ends."""

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """[-m, 1 + m]."""
        return constraints.interval(self.low.min().item(), self.high.max().item())
