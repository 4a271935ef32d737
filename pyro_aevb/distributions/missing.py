"""The density of what was observed of a datum, where NaN stands for what is missing."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_aevb.errors import InputError
from pyro_aevb.torch_internals import checked, validates

__all__ = ["PartlyObserved", "inside"]


class _OrMissing(constraints.Constraint):
    """Vectors whose every number lies in a set, or is NaN."""

    event_dim = 1

    def __init__(self, base_constraint: Any) -> None:
        self.base_constraint = base_constraint
        self.is_discrete = base_constraint.is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each number of a vector lies in its support or is NaN."""
        return (value.isnan() | self.base_constraint.check(value)).all(-1)

    def __repr__(self) -> str:
        return f"{self.base_constraint}, or NaN where a value is missing"


class PartlyObserved(dist.TorchDistribution):
    r"""A product over dimensions, of which some were observed: the others, NaN, are integrated out.

    .. math:: \log p(x_{\text{obs}}) = \sum_{d \in \text{obs}} \log p_d(x_d)

    Samples and moments are those of the whole product.

    Oracle: the exact marginals of a linear-Gaussian pair.

    Arguments:
        product: A distribution over vectors with independent numbers, made by ``.to_event(1)``: event shape ``(D,)``.
        validate_args: Whether values whose density is asked for are checked; ``None`` for torch's default, which
            Pyro's ``enable_validation`` sets.

    Raises:
        InputError: If the numbers of a vector are not independent, so that leaving some out is more than leaving out
            their terms.

    References:
        | MIWAE: deep generative modelling and imputation of incomplete data (Mattei & Frellsen, 2019)
        | https://arxiv.org/abs/1812.02633
    """

    arg_constraints = {}  # noqa: RUF012  # as torch writes it

    def __init__(self, product: TorchDistributionMixin, validate_args: bool | None = None) -> None:
        made: Any = product
        if not isinstance(made, torch.distributions.Independent) or made.reinterpreted_batch_ndims != 1:
            raise InputError(
                f"missing=True needs a likelihood whose numbers are independent given z, so that some can be left out, "
                f"and a {type(made).__name__} does not say so: end it in .to_event(1)"
            )
        self.product = made
        super().__init__(made.batch_shape, made.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Each number lies in the support of its own distribution, or is NaN."""
        return _OrMissing(self.product.base_dist.support)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch has a class variable there
        """Whether the product has draws with pathwise gradients."""
        return bool(self.product.has_rsample)

    @property
    def mean(self) -> Tensor:
        """The mean of all numbers, observed or not, ``(..., D)``."""
        return self.product.mean

    @property
    def variance(self) -> Tensor:
        """The variance of all numbers, observed or not, ``(..., D)``."""
        return self.product.variance

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PartlyObserved":
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        return PartlyObserved(self.product.expand(batch_shape), validate_args=validates(self))

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum over the dimensions that are not NaN, ``(...)``."""
        missing = checked(self, value).isnan()
        each = self.product.base_dist
        # A value with a density in NaN's place: a NaN that is masked afterwards still has a gradient of NaN.
        log_prob = each.log_prob(torch.where(missing, inside(each.support, value), value))  # (..., D)
        return torch.where(missing, torch.zeros_like(log_prob), log_prob).sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of all numbers, with gradients, ``(*sample_shape, ..., D)``."""
        return self.product.rsample(sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of all numbers, ``(*sample_shape, ..., D)``."""
        return self.product.sample(sample_shape)


def inside(support: Any, like: Tensor) -> Tensor:
    """Numbers that have a density, of the shape of others.

    Arguments:
        support: The constraint of single numbers.
        like: Numbers of the shape, precision and device that is wanted; their values do not matter.

    Raises:
        InputError: If no such number is known.
    """
    zeros = torch.zeros_like(like)
    if hasattr(support, "inside"):
        return support.inside(zeros)
    if support.is_discrete:
        return zeros + getattr(support, "lower_bound", 0)
    try:
        return transform_to(support)(zeros)
    except NotImplementedError as error:
        raise InputError(f"missing=True: no value is known that lies in {support}: give it a method inside") from error
