"""Distributions of pixels in [0, 1]."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from pyro_aevb.errors import InputError, tensors, told, whole
from pyro_aevb.torch_internals import checked, drawn_shape, expanded

__all__ = ["ContinuousBernoulli", "DiscretizedLogistic", "Grid", "GridCategorical"]


class Grid(constraints.Constraint):
    """Multiples of 1/steps in [0, 1]."""

    is_discrete = True

    def __init__(self, steps: int) -> None:
        self.steps = steps
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Within float32 rounding of a multiple."""
        scaled = value * self.steps
        return ((scaled - scaled.round()).abs() < 1e-3) & (value >= 0) & (value <= 1)

    def __repr__(self) -> str:
        return f"multiples of 1/{self.steps} in [0, 1]"


class ContinuousBernoulli(dist.TorchDistribution):
    r"""The normalised density proportional to the Bernoulli's cross-entropy, for grey pixels.

    .. math:: p(x) = \frac{\lambda}{e^\lambda - 1} e^{\lambda x}, \quad x \in [0, 1]

    Written in the logit :math:`\lambda`, by even functions of it, with their series where it is small (a probability
    near 0.5): torch's own, written in probabilities, goes flat beyond logits of 16.

    Oracle: closed form, and quadrature.

    Arguments:
        logits: Logits :math:`\lambda`, of any shape, which is the batch shape.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.

    References:
        | The continuous Bernoulli: fixing a pervasive error in VAEs (Loaiza-Ganem & Cunningham, 2019)
        | https://arxiv.org/abs/1907.06845
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  # as torch writes it
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        try:
            self.logits = torch.as_tensor(logits)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"logits must be numbers or a tensor, not {told(logits)}") from error
        super().__init__(self.logits.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """lambda (x - 1/2) - log(sinh(lambda/2) / (lambda/2))."""
        return self.logits * (checked(self, value) - 0.5) - _log_sinhc(self.logits / 2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The inverse CDF, log(1 + u (e^lambda - 1)) / lambda, mirrored so that no exponential overflows."""
        u = torch.rand(drawn_shape(self, sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        small = self.logits.abs() < 1e-3
        size = torch.where(small, torch.ones_like(self.logits), self.logits.abs())
        x = -torch.log1p(u * torch.expm1(-size)) / size  # for lambda = -size
        near_uniform = u + self.logits * u * (1 - u) / 2
        mirrored = torch.where(self.logits > 0, 1 - x, x)
        return torch.where(small, near_uniform, mirrored).clamp(0, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        return expanded(self, ContinuousBernoulli, _instance, batch_shape, logits=self.logits.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """1/2 + (coth(lambda/2) - 2/lambda) / 2."""
        small = self.logits.abs() < 0.1
        safe = torch.where(small, torch.ones_like(self.logits), self.logits)
        series = self.logits / 12 - self.logits**3 / 720 + self.logits**5 / 30240
        return 0.5 + torch.where(small, series, 0.5 / torch.tanh(safe / 2) - 1 / safe)


def _log_sinhc(x: Tensor) -> Tensor:
    """log(sinh(x) / x): its series for |x| < 0.3, the next term of which is below 1e-9."""
    square = x * x
    size = x.abs()
    small = size < 0.3
    safe = torch.where(small, torch.ones_like(size), size)
    series = square / 6 - square**2 / 180 + square**3 / 2835 - square**4 / 37800
    return torch.where(small, series, safe + torch.log1p(-torch.exp(-2 * safe)) - torch.log(2 * safe))


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic distribution rounded to pixel values, multiples of 1/steps; the outer bins reach to infinity.

    .. math:: P(x) = \sigma\Big(\frac{x + \delta/2 - \mu}{s}\Big) - \sigma\Big(\frac{x - \delta/2 - \mu}{s}\Big),
              \quad \delta = 1 / \text{steps}

    By :math:`\sigma(a) - \sigma(b) = \sigma(a)\,\sigma(-b)\,(1 - e^{b-a})`, which loses no digits.

    Oracle: ``scipy.stats.logistic``.

    Arguments:
        loc: Location :math:`\mu` before rounding, in units of pixels in [0, 1].
        scale: Scale :math:`s > 0` before rounding, in the same units.
        steps: Number of pixel values less one: 255 where bytes were divided by 255, 256 where they were by 256.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.

    References:
        | PixelCNN++ (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor, steps: int = 255, validate_args: bool | None = None) -> None:
        tensors(loc=loc, scale=scale)
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.steps = whole("steps", steps)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Multiples of 1/steps in [0, 1]."""
        return Grid(self.steps)

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the class's formula; at 0 and at 1 one of its two terms is dropped."""
        value = checked(self, value)
        half = 0.5 / self.steps
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        top = value > 1 - half
        bottom = value < half
        log_upper = torch.where(top, torch.zeros_like(upper), functional.logsigmoid(upper))
        log_lower = torch.where(bottom, torch.zeros_like(lower), functional.logsigmoid(-lower))
        width = torch.log(-torch.expm1(-1 / (self.steps * self.scale)))
        return log_upper + log_lower + torch.where(top | bottom, torch.zeros_like(upper), width)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A logistic draw, rounded."""
        with torch.no_grad():
            u = torch.rand(drawn_shape(self, sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            draw = self.loc + self.scale * (u.clamp(min=torch.finfo(u.dtype).tiny).log() - torch.log1p(-u))
            return (draw.clamp(0, 1) * self.steps).round() / self.steps

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        loc = self.loc.expand(batch_shape)
        scale = self.scale.expand(batch_shape)
        return expanded(self, DiscretizedLogistic, _instance, batch_shape, loc=loc, scale=scale, steps=self.steps)

    @property
    def mean(self) -> Tensor:
        """The logistic's, clamped to [0, 1]: what a picture shows."""
        return self.loc.clamp(0, 1)


class GridCategorical(dist.TorchDistribution):
    r"""Any distribution over pixel values 0, 1/steps, ..., 1.

    .. math:: P(x = k / \text{steps}) = \mathrm{softmax}_k(\text{logits}), \quad k = 0, \dots, \text{steps}

    Oracle: closed form.

    Arguments:
        logits: Logits of all values, not normalised, ``(..., steps + 1)``.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        tensors(logits=logits)
        self.logits = logits - logits.logsumexp(-1, keepdim=True)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def steps(self) -> int:
        """Number of pixel values less one."""
        return self.logits.shape[-1] - 1

    @property
    def support(self) -> Any:
        """Multiples of 1/steps in [0, 1]."""
        return Grid(self.steps)

    def log_prob(self, value: Tensor) -> Tensor:
        """The value's logit, normalised."""
        index = (checked(self, value) * self.steps).round().long().unsqueeze(-1)  # (..., 1)
        index, logits = torch.broadcast_tensors(index, self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of pixel values."""
        categorical: TorchDistributionMixin = dist.Categorical(logits=self.logits, validate_args=False)
        return categorical.sample(torch.Size(sample_shape)).to(self.logits.dtype) / self.steps

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        return expanded(self, GridCategorical, _instance, batch_shape, logits=self.logits.expand(*batch_shape, -1))

    @property
    def mean(self) -> Tensor:
        """The mean of the values, weighted by their probabilities."""
        values = torch.linspace(0, 1, self.steps + 1, dtype=self.logits.dtype, device=self.logits.device)
        return (self.logits.exp() * values).sum(-1)
