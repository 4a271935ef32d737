"""Where a density lives: what its distribution declares, except where that is another place."""

import math
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.errors import InputError

__all__ = ["innermost", "support_of"]

CIRCLE = constraints.interval(-math.pi, math.pi)


@singledispatch
def support_of(distribution: Any) -> Any:
    r"""The constraint over which a distribution's density integrates to one.

    That is ``distribution.support``, but for angles: torch and Pyro declare them real, and a density of period
    :math:`2\pi` integrates over the reals to infinity. They lie in :math:`[-\pi, \pi]`. A generalised Pareto's
    interval up to infinity, onto which torch's bijection is NaN, is told as a half-line.

    A distribution of another library that declares a wrong one is told by ``support_of.register(its_class)(rule)``.

    Oracle: quadrature of every continuous distribution on the line that torch and Pyro have.

    Arguments:
        distribution: Any distribution of torch or Pyro.

    Returns:
        A constraint that ``torch.distributions.biject_to`` takes where it takes the declared one. A point mass,
        ``Delta``, which has no density, keeps what it declares.

    Raises:
        InputError: If there is no such support: the distribution has no density, or one that nobody has normalised.

    >>> support_of(dist.VonMises(0.0, 1.0).expand([3]).to_event(1))
    IndependentConstraint(Interval(lower_bound=-3.141592653589793, upper_bound=3.141592653589793), 1)
    >>> support_of(dist.Gamma(2.0, 1.0))
    GreaterThanEq(lower_bound=0.0)
    """
    return distribution.support


@support_of.register(torch.distributions.VonMises)
def _of_an_angle(_: Any) -> Any:
    return CIRCLE


@support_of.register(dist.SineBivariateVonMises)
@support_of.register(dist.SineSkewed)
def _of_angles(_: Any) -> Any:
    return constraints.independent(CIRCLE, 1)


@support_of.register(torch.distributions.GeneralizedPareto)
def _of_generalized_pareto(distribution: Any) -> Any:
    """Without an end where there is none: of the declared interval up to infinity the bijection is NaN."""
    ends = bool((distribution.concentration < 0).any())
    return distribution.support if ends else constraints.greater_than_eq(distribution.loc)


@support_of.register(dist.ImproperUniform)
@support_of.register(dist.Unit)
@support_of.register(dist.Empirical)
def _of_no_density(distribution: Any) -> Any:
    raise InputError(
        f"{type(distribution).__name__} has no density that integrates to one, so there is no support that it could be "
        "compared or sampled on: use a distribution that has one"
    )


@support_of.register(torch.distributions.Independent)
def _of_independent(distribution: Any) -> Any:
    inner = support_of(distribution.base_dist)
    dims = distribution.reinterpreted_batch_ndims
    return constraints.independent(inner, dims) if dims else inner


@support_of.register(dist.ExpandedDistribution)
@support_of.register(dist.MaskedDistribution)
def _of_base(distribution: Any) -> Any:
    return support_of(distribution.base_dist)


@support_of.register(torch.distributions.MixtureSameFamily)
def _of_mixture(distribution: Any) -> Any:
    """The components' own, unless its ends differ between them."""
    inner = support_of(distribution.component_distribution)
    ends = (getattr(innermost(inner), name, None) for name in ("lower_bound", "upper_bound"))
    return distribution.support if any(isinstance(end, Tensor) for end in ends) else inner


@support_of.register(dist.MaskedMixture)
def _of_masked_mixture(distribution: Any) -> Any:
    parts = [support_of(part) for part in (distribution.component0, distribution.component1)]
    if len({innermost(part) is CIRCLE for part in parts}) > 1:
        raise InputError(
            "MaskedMixture of an angle and a number that is none: their densities live in different places"
        )
    return parts[0] if innermost(parts[0]) is CIRCLE else distribution.support


@support_of.register(torch.distributions.TransformedDistribution)
def _of_transformed(distribution: Any) -> Any:
    """The support that is declared, or the image of the circle."""
    base = support_of(distribution.base_dist)
    if innermost(base) is not CIRCLE:
        return distribution.support
    ends = torch.tensor(CIRCLE.lower_bound), torch.tensor(CIRCLE.upper_bound)
    for transform in distribution.transforms:
        domain = transform.domain
        if not transform.bijective or domain.event_dim or not all(domain.check(end).all() for end in ends):
            raise InputError(f"where the density of an angle under {transform} lives is not known")
        ends = transform(ends[0]), transform(ends[1])
    image = constraints.interval(ends[0].minimum(ends[1]), ends[0].maximum(ends[1]))
    return constraints.independent(image, base.event_dim) if base.event_dim else image


@support_of.register(dist.FoldedDistribution)
def _of_folded(distribution: Any) -> Any:
    """Half the circle, or as declared."""
    circular = innermost(support_of(distribution.base_dist)) is CIRCLE
    return constraints.interval(0.0, math.pi) if circular else distribution.support


def innermost(support: Any) -> Any:
    """A constraint without what says over how many dimensions it is, or for which mixture.

    >>> innermost(constraints.independent(constraints.boolean, 1)) is constraints.boolean
    True
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
