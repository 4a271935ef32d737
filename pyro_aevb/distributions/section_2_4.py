"""What the paper names in section 2.4 and neither torch nor Pyro has, each reparameterised as it says there."""

import math
from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_aevb.errors import InputError, tensors, told
from pyro_aevb.torch_internals import checked, drawn_shape, expanded

__all__ = ["EllipticalLaplace", "Erlang", "Gompertz", "InverseCDF", "Rayleigh", "Reciprocal", "Triangular"]


class InverseCDF(dist.TorchDistribution):
    r"""Base of distributions on the line that are sampled by their inverse CDF, section 2.4 (a).

    .. math:: z = F^{-1}(\epsilon), \quad \epsilon \sim \mathcal U(0, 1)

    Subclass it, name the parameters in ``arg_constraints`` (``dependent`` ones increase in their order), write ``icdf``
    and ``log_prob``, and set ``support``.

    Arguments:
        parameters: Parameters, numbers or tensors that broadcast, in the order of ``arg_constraints``.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.
        named: Parameters by their names, in place of those by their order.

    Raises:
        InputError: If a parameter is missing or unknown.
    """

    has_rsample = True

    def __init__(self, *parameters: float | Tensor, validate_args: bool | None = None, **named: float | Tensor) -> None:
        given = dict(zip(self.arg_constraints, parameters, strict=False)) | named
        if given.keys() != self.arg_constraints.keys():
            raise InputError(f"{type(self).__name__} takes {', '.join(self.arg_constraints)}, not {', '.join(given)}")
        values = _broadcast(type(self).__name__, {name: given[name] for name in self.arg_constraints})
        for name, value in zip(self.arg_constraints, values, strict=True):
            setattr(self, name, value)
        super().__init__(values[0].shape, validate_args=validate_args)

    @abstractmethod
    def icdf(self, value: Tensor) -> Tensor:
        """The inverse CDF."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The inverse CDF of uniform noise, strictly inside the support: at its ends the density may be zero."""
        first = getattr(self, next(iter(self.arg_constraints)))
        noise = torch.rand(drawn_shape(self, sample_shape), dtype=first.dtype, device=first.device)
        # A zero stands for all that is less than torch.rand's step, eps / 2: the middle of that.
        draw = self.icdf(noise.clamp(min=torch.finfo(first.dtype).eps / 4))
        return draw + (self._inside(draw.detach()) - draw.detach())  # rounding may have moved it to an end

    def _inside(self, draw: Tensor) -> Tensor:
        """The nearest number strictly within the support."""
        support: Any = self.support
        low, high = (getattr(support, end, None) for end in ("lower_bound", "upper_bound"))
        if low is not None:
            draw = draw.maximum(_next(_like(draw, low), math.inf))
        if high is not None:
            draw = draw.minimum(_next(_like(draw, high), -math.inf))
        return draw

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        parameters = {name: getattr(self, name).expand(batch_shape) for name in self.arg_constraints}
        return expanded(self, type(self), _instance, batch_shape, **parameters)


def _broadcast(name: str, parameters: dict[str, Any]) -> Any:
    """Parameters as tensors of one shape."""
    try:
        return broadcast_all(*parameters.values())
    except (ValueError, RuntimeError, TypeError) as error:
        given = ", ".join(f"{parameter}={told(value)}" for parameter, value in parameters.items())
        raise InputError(f"{name} takes numbers or tensors that broadcast, not {given}") from error


def _like(other: Tensor, end: float | Tensor) -> Tensor:
    """A tensor where the other lies; a copy from the processor cannot be part of a CUDA graph."""
    return end if isinstance(end, Tensor) else torch.full_like(other, end)


def _next(end: Tensor, towards: float) -> Tensor:
    """The next number, after zero the least that is not subnormal."""
    return torch.where(
        end == 0,
        torch.full_like(end, math.copysign(torch.finfo(end.dtype).tiny, towards)),
        end.detach().nextafter(torch.full_like(end, towards)),
    )


class Rayleigh(InverseCDF):
    r"""Length of a vector of two normals.

    .. math:: F(z) = 1 - e^{-z^2 / 2\sigma^2}, \quad z \ge 0

    Oracle: ``scipy.stats.rayleigh``.

    Arguments:
        scale: Standard deviation :math:`\sigma > 0` of the two normals.
    """

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012  # as torch writes it
    support = constraints.nonnegative
    scale: Tensor

    def icdf(self, value: Tensor) -> Tensor:
        """sigma sqrt(-2 log(1 - u))."""
        return self.scale * (-2 * torch.log1p(-value)).sqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """log z / sigma^2 - z^2 / 2 sigma^2."""
        value = checked(self, value)
        return value.log() - 2 * self.scale.log() - (value / self.scale) ** 2 / 2

    @property
    def mean(self) -> Tensor:
        """sigma sqrt(pi / 2)."""
        return self.scale * math.sqrt(math.pi / 2)


class Reciprocal(InverseCDF):
    r"""The logarithm is uniform (also: log-uniform).

    .. math:: p(z) = \frac{1}{z \log(b / a)}, \quad 0 < a \le z \le b

    Oracle: ``scipy.stats.loguniform``.

    Arguments:
        low: Least value :math:`a > 0`.
        high: Largest value :math:`b > a`.
    """

    arg_constraints = {"low": constraints.positive, "high": constraints.dependent}  # noqa: RUF012
    low: Tensor
    high: Tensor

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """[low, high]."""
        return constraints.interval(self.low, self.high)

    def icdf(self, value: Tensor) -> Tensor:
        """a (b / a)^u."""
        return self.low * (self.high / self.low) ** value

    def log_prob(self, value: Tensor) -> Tensor:
        """-log z - log log(b / a)."""
        return -checked(self, value).log() - (self.high / self.low).log().log()

    @property
    def mean(self) -> Tensor:
        """(b - a) / log(b / a)."""
        return (self.high - self.low) / (self.high / self.low).log()


class Gompertz(InverseCDF):
    r"""Lifetimes whose hazard grows exponentially.

    .. math:: F(z) = 1 - \exp\big(-\eta (e^{b z} - 1)\big), \quad z \ge 0

    Oracle: ``scipy.stats.gompertz``.

    Arguments:
        concentration: Shape :math:`\eta > 0`.
        rate: Rate :math:`b > 0` at which the hazard grows.
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative
    concentration: Tensor
    rate: Tensor

    def icdf(self, value: Tensor) -> Tensor:
        """log(1 - log(1 - u) / eta) / b."""
        return torch.log1p(-torch.log1p(-value) / self.concentration) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        """log(eta b) + b z - eta (e^(b z) - 1)."""
        scaled = self.rate * checked(self, value)
        return (self.concentration * self.rate).log() + scaled - self.concentration * torch.expm1(scaled)


class Triangular(InverseCDF):
    r"""A density that rises linearly from ``low`` to ``peak`` and falls linearly to ``high``.

    .. math:: p(z) = \frac{2 (z - a)}{(b - a)(c - a)} \text{ for } a \le z \le c, \quad
              p(z) = \frac{2 (b - z)}{(b - a)(b - c)} \text{ for } c \le z \le b

    Oracle: ``scipy.stats.triang``.

    Arguments:
        low: Least value :math:`a`.
        peak: Value of the highest density, :math:`c > a`.
        high: Largest value :math:`b > c`.
    """

    arg_constraints = dict.fromkeys(("low", "peak", "high"), constraints.dependent)
    low: Tensor
    peak: Tensor
    high: Tensor

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """[low, high]."""
        return constraints.interval(self.low, self.high)

    def icdf(self, value: Tensor) -> Tensor:
        """A square root on either side of the peak."""
        width = self.high - self.low
        left = self.peak - self.low
        right = self.high - self.peak
        rising = value * width <= left
        # The root not taken has argument 1: its slope would otherwise be infinite, and infinity times zero is NaN.
        # By the width squared both are at least the square of a number that torch.rand gives: they cannot be zero.
        up = torch.where(rising, value * (left / width), torch.ones_like(value)).sqrt()
        down = torch.where(rising, torch.ones_like(value), (1 - value) * (right / width)).sqrt()
        return torch.where(rising, self.low + width * up, self.high - width * down)

    def log_prob(self, value: Tensor) -> Tensor:
        """log 2 (z - a) / (b - a)(c - a), and its mirror image."""
        value = checked(self, value)
        width = self.high - self.low
        rising = value <= self.peak
        far = torch.where(rising, value - self.low, self.high - value)
        side = torch.where(rising, self.peak - self.low, self.high - self.peak)
        return math.log(2) + far.log() - width.log() - side.log()

    @property
    def mean(self) -> Tensor:
        """The mean of the three corners."""
        return (self.low + self.peak + self.high) / 3


class Erlang(dist.Gamma):
    r"""Sum of ``concentration`` exponential waiting times: a Gamma of whole concentration.

    .. math:: p(z) = \frac{\lambda^n z^{n-1} e^{-\lambda z}}{(n - 1)!}, \quad z > 0

    Oracle: ``scipy.stats.erlang``.

    Arguments:
        concentration: Number of events :math:`n`, whole and at least 1.
        rate: Events per unit of time, :math:`\lambda > 0`.
    """

    arg_constraints = {"concentration": constraints.positive_integer, "rate": constraints.positive}  # noqa: RUF012


class EllipticalLaplace(dist.TorchDistribution):
    r"""An elliptical distribution with exponential tails; in one dimension Laplace's.

    .. math:: z = \mu + r L u, \quad r \sim \mathrm{Gamma}(K, 1), \quad u \text{ uniform on the unit sphere}, \quad
              p(z) \propto \exp\big(-\lvert L^{-1}(z - \mu) \rvert\big)

    Its covariance is :math:`(K + 1) L L^\top`.

    Oracle: ``scipy.stats.laplace`` in one dimension, quadrature in two.

    Arguments:
        loc: Centre :math:`\mu`, ``(..., K)``.
        scale_tril: Factor :math:`L`, lower triangular with positive diagonal, ``(..., K, K)``.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.

    References:
        | A multivariate generalization of the power exponential family of distributions (Gómez et al., 1998)
    """

    arg_constraints = {"loc": constraints.real_vector, "scale_tril": constraints.lower_cholesky}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        tensors(loc=loc, scale_tril=scale_tril)
        shape = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        self.loc = loc.expand(*shape, -1)
        self.scale_tril = scale_tril.expand(*shape, -1, -1)
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Centre plus a scaled radius times a direction."""
        shape = drawn_shape(self, sample_shape)
        normal = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        dim = torch.full(shape[:-1], float(shape[-1]), dtype=self.loc.dtype, device=self.loc.device)
        radius = torch.distributions.Gamma(dim, torch.ones_like(dim), validate_args=False).sample().unsqueeze(-1)
        # In one dimension torch.randn gives a zero once in 2^24 times: it has no direction, so it gets one.
        normal = torch.where((normal == 0).all(-1, keepdim=True), torch.ones_like(normal), normal)
        direction = normal / normal.norm(dim=-1, keepdim=True)
        return self.loc + (self.scale_tril @ (radius * direction).unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density Gamma(K/2) e^-r / (2 pi^(K/2) Gamma(K) det L), of the batch shape."""
        k = checked(self, value).shape[-1]
        whitened = torch.linalg.solve_triangular(self.scale_tril, (value - self.loc).unsqueeze(-1), upper=False)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = math.lgamma(k / 2) - math.log(2) - k / 2 * math.log(math.pi) - math.lgamma(k)
        return constant - whitened.squeeze(-1).norm(dim=-1) - log_det

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        loc = self.loc.expand(*batch_shape, -1)
        scale_tril = self.scale_tril.expand(*batch_shape, -1, -1)
        return expanded(self, EllipticalLaplace, _instance, batch_shape, loc=loc, scale_tril=scale_tril)

    @property
    def mean(self) -> Tensor:
        """The centre mu."""
        return self.loc
