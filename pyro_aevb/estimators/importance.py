"""Bounds on log p(x) from several samples, and gradients that leave out what is zero on average."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError, real
from pyro_aevb.estimators.base import MultiSample, Reference, with_value

__all__ = ["IWAE", "DoublyReparameterized", "Renyi", "StickingTheLanding"]


class _Pathwise(MultiSample):
    """A multi-sample estimator whose guide must be reparameterisable."""

    def loss_of_weights(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of the bound over the minibatch."""
        pair.guide = traces.reparameterised(pair.guide)
        return self.pathwise_loss(pair, args)

    @abstractmethod
    def pathwise_loss(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """The loss, a scalar, of a pair whose guide is refused at a site that has no reparameterisation.

        Arguments:
            pair: Model and guide, which tell each datum's and particle's log densities.
            args: The pair's arguments, batch first.
        """


class IWAE(_Pathwise):
    r"""Importance-weighted bound: tighter than :class:`~pyro_aevb.estimators.SGVB` as ``num_particles`` grows.

    .. math:: \mathcal{L}_S(x) = \mathbb{E}\Big[\log \tfrac1S \sum_s p(x, z_s) / q(z_s \mid x)\Big]

    Oracle: log p(x) and its gradient, on a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples :math:`S` per datum.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If a guide site has no reparameterisation; if a latent lies outside the plate of the data, of which
            only some are there.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """

    @property
    def reference(self) -> Reference:
        """This bound, with as many samples."""
        return Reference(IWAE, int(self.num_particles))

    def pathwise_loss(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of log-mean-weights."""
        densities = pair.log_densities(args, self.num_particles)
        return -densities.scaled_sum(log_mean_exp(densities.log_weight))


class Renyi(_Pathwise):
    r"""Rényi's bound: between the evidence (alpha = 0, :class:`IWAE`) and the ELBO (alpha near 1), and beyond.

    .. math:: \mathcal{L}_\alpha(x) = \frac{1}{1 - \alpha}
              \mathbb{E}\Big[\log \tfrac1S \sum_s \big(p(x, z_s) / q(z_s \mid x)\big)^{1 - \alpha}\Big]

    It bounds log p(x) from below for alpha >= 0.

    Oracle: log p(x) and its gradient, on a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples :math:`S` per datum.
        alpha: Order :math:`\alpha` of Rényi's divergence, any number but 1, where the bound is the ELBO and
            :class:`~pyro_aevb.estimators.SGVB` its estimator.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If alpha is 1, or a guide site has no reparameterisation; if a latent lies outside the plate of the
            data, of which only some are there.

    References:
        | Rényi divergence variational inference (Li & Turner, 2016)
        | https://arxiv.org/abs/1602.02311
    """

    least_particles = 2

    def __init__(self, num_particles: int = 2, *, alpha: float = 0.5, **elbo_arguments: Any) -> None:
        super().__init__(num_particles, **elbo_arguments)
        self.alpha = real("alpha", alpha)
        if alpha == 1:
            raise InputError("alpha must be a number other than 1, where the bound is the ELBO: use SGVB")

    @property
    def reference(self) -> Reference:
        """This bound, with as many samples and the same alpha."""
        return Reference(Renyi, int(self.num_particles), (("alpha", self.alpha),))

    def pathwise_loss(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of the bound."""
        densities = pair.log_densities(args, self.num_particles)
        power = 1 - self.alpha
        return -densities.scaled_sum(log_mean_exp(power * densities.log_weight)) / power


class _WeighedPaths(_Pathwise):
    """An estimator that weighs gradients by the latents otherwise than those by the model's parameters."""

    def _weighed_loss(self, pair: traces.Particles, args: tuple[Any, ...], weigh: Any) -> Tensor:
        """The loss, a scalar.

        Arguments:
            pair: Model and guide.
            args: The pair's arguments, batch first.
            weigh: Function that tells, from log-weights ``(S, B)``, the bound ``(B,)`` and the weight of each datum's
                and particle's gradient ``(S, B)``: by the model's parameters, then by the latents.
        """
        path = pair.path_densities(args, self.num_particles)
        densities = path.densities
        log_weight = densities.log_weight  # (S, B)
        bound, by_model, by_latents = weigh(log_weight.detach())
        value = densities.scaled_sum(bound)
        if not torch.is_grad_enabled():
            return -value
        slopes = _slopes(densities.scaled_sum(by_latents * log_weight), path)
        moved = sum((slope * latent).sum() for slope, latent in zip(slopes, path.latents, strict=True))
        joint = densities.log_likelihood + densities.log_prior
        return -with_value(densities.scaled_sum(by_model * joint) + moved, value)


def _slopes(target: Tensor, path: traces.PathDensities) -> list[Tensor]:
    r"""Total derivative of a number by each latent, as constants, since a latent moves those that are drawn after it.

    .. math:: G_k = \frac{\partial f}{\partial z_k} + \sum_{j > k} G_j \frac{\partial z_j}{\partial z_k}
    """
    found = list(torch.autograd.grad(target, path.leaves, retain_graph=True, allow_unused=True))
    slopes = [torch.zeros_like(z) if d is None else d for d, z in zip(found, path.leaves, strict=True)]
    each = len(slopes) // path.runs  # latents of one run
    for j in reversed(range(len(slopes))):
        before = slice(j - j % each, j)
        if before.start == j or not path.latents[j].requires_grad:
            continue
        leaves = path.leaves[before]
        moved = torch.autograd.grad(path.latents[j], leaves, slopes[j], retain_graph=True, allow_unused=True)
        slopes[before] = [s if m is None else s + m for s, m in zip(slopes[before], moved, strict=True)]
    return [slope.detach() for slope in slopes]


class StickingTheLanding(_WeighedPaths):
    r"""The ELBO's gradient by the path of the latents alone, without the guide's score at fixed latents.

    .. math:: \nabla_\phi \approx
              \frac1S \sum_s \nabla_z \big[\log p(x, z) - \log q(z \mid x)\big]_{z_s} \nabla_\phi z_s

    What is left out, :math:`\nabla_\phi \log q_\phi(z)` at fixed z, is zero on average; without it the gradient's
    variance vanishes as q approaches the posterior.

    Oracle: the exact gradient of a linear-Gaussian pair, and zero at the posterior.

    Arguments:
        num_particles: Number of samples :math:`S` per datum.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If a guide site has no reparameterisation, or the guide cannot tell the density of a value that it
            has not just drawn, as planar flows cannot; if a latent lies outside the plate of the data, of which only
            some are there.

    References:
        | Sticking the landing (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194
    """

    def pathwise_loss(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of mean log-weights."""

        def weigh(log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            equal = torch.full_like(log_weight, 1 / len(log_weight))
            return log_weight.mean(0), equal, equal

        return self._weighed_loss(pair, args, weigh)


class DoublyReparameterized(_WeighedPaths):
    r"""DReG: :class:`IWAE`'s bound, with a gradient for the guide whose signal-to-noise rises with ``num_particles``.

    .. math:: \nabla_\phi \mathcal{L}_S =
              \mathbb{E}\Big[\sum_s \tilde w_s^2\, \nabla_z \log w(z_s)\, \nabla_\phi z_s\Big],
              \quad \tilde w_s = w_s / \sum_{s'} w_{s'}

    The model's parameters get IWAE's gradient.

    Oracle: IWAE's expected gradient, and zero at the posterior.

    Arguments:
        num_particles: Number of samples :math:`S` per datum.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If a guide site has no reparameterisation, or the guide cannot tell the density of a value that it
            has not just drawn, as planar flows cannot; if a latent lies outside the plate of the data, of which only
            some are there.

    References:
        | Doubly reparameterized gradient estimators for Monte Carlo objectives (Tucker et al., 2019)
        | https://arxiv.org/abs/1810.04152
    """

    @property
    def reference(self) -> Reference:
        """The bound of :class:`IWAE` with as many samples."""
        return Reference(IWAE, int(self.num_particles))

    def pathwise_loss(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of log-mean-weights."""

        def weigh(log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            normalised = log_weight.softmax(0)
            return log_mean_exp(log_weight), normalised, normalised**2

        return self._weighed_loss(pair, args, weigh)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log of the mean over particles, ``(B,)``."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))
