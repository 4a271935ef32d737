"""Supports in plain words: which values a distribution has a density for, and what to do with others."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.distributions.columns import EachColumns
from pyro_aevb.distributions.pixels import Grid
from pyro_aevb.distributions.supports import innermost

__all__ = ["advice_on", "words_of"]

MOST_LEVELS = 1024


def words_of(support: Any) -> str:
    """The values that lie in a support.

    >>> words_of(constraints.independent(constraints.boolean, 1)), words_of(constraints.positive)
    ('0 and 1 alone', 'numbers above 0')
    """
    inner = innermost(support)
    low, high = (_number(getattr(inner, name, None)) for name in ("lower_bound", "upper_bound"))
    if inner is constraints.boolean:
        return "0 and 1 alone"
    if isinstance(inner, Grid):
        return f"multiples of 1/{inner.steps} between 0 and 1"
    if isinstance(inner, constraints.integer_interval):
        return f"whole numbers from {low} to {high}"
    if isinstance(inner, type(constraints.nonnegative_integer)):
        return f"whole numbers of at least {low}"
    if isinstance(inner, constraints.interval | constraints.half_open_interval):
        return f"numbers between {low} and {high}"
    if isinstance(inner, constraints.greater_than_eq):
        return f"numbers of at least {low}"
    if isinstance(inner, constraints.greater_than):
        return f"numbers above {low}"
    if isinstance(inner, constraints.less_than):
        return f"numbers below {high}"
    if inner is constraints.simplex:
        return "numbers of at least 0 that sum to 1"
    if inner is constraints.one_hot:
        return "one 1 among zeros"
    if isinstance(inner, EachColumns):
        each = (f"columns {', '.join(map(str, columns))}: {words_of(one)}" for columns, one in inner.each())
        return "; ".join(each)
    return str(inner)


def _number(bound: Any) -> str:
    """A bound, as it is told; one that differs between data has no one number."""
    if isinstance(bound, Tensor):
        bound = bound.unique().tolist()[0] if bound.unique().numel() == 1 else None
    return "each datum's own bound" if bound is None else f"{bound:g}"


def advice_on(values: Tensor, support: Any) -> str:
    """What to do with data that do not lie in a support, by its kind.

    Arguments:
        values: The data, of which one at least lies outside.
        support: The support.
    """
    inner = innermost(support)
    grey = bool(constraints.unit_interval.check(values).all())
    if inner is constraints.boolean:
        return _of_binary(grey)
    if isinstance(inner, Grid):
        return _of_levels(values, grey)
    if isinstance(inner, type(constraints.nonnegative_integer) | constraints.integer_interval):
        return _of_counts(values)
    if inner is constraints.simplex:
        return "divide each datum by its sum"
    if isinstance(inner, constraints.interval | constraints.half_open_interval):
        return "shift and scale the data into it, or take a likelihood of real numbers, Gaussian say"
    if isinstance(inner, constraints.greater_than | constraints.greater_than_eq | constraints.less_than):
        return "take a likelihood of real numbers, Gaussian say, or data that lie there"
    return "give data that lie there, or the model another distribution"


def _of_binary(grey: bool) -> str:
    if grey:
        return "binarize grey values (static or dynamic), or give the Bernoulli relaxed=True"
    return "make them 0 and 1, x > threshold say, or take a likelihood of real numbers, Gaussian say"


def _of_levels(values: Tensor, grey: bool) -> str:
    if not grey:
        return "divide the data by their largest possible value, 255 of bytes"
    if (steps := _fewest_steps(values)) is not None:
        return f"these are multiples of 1/{steps}: give the likelihood steps={steps}"
    return (
        "round them to as many levels as the likelihood has, steps + 1, or take a likelihood of real numbers, Beta say"
    )


def _fewest_steps(values: Tensor) -> int | None:
    """The smallest number of steps from 0 to 1 that all data lie on, to the rounding of float32; ``None`` for many."""
    distinct = values.unique().double()
    rounding = 2.5e-7 * distinct.abs().max()
    misses = ((distinct * steps - (distinct * steps).round()).abs().max() / steps for steps in range(1, MOST_LEVELS))
    return next((steps for steps, miss in enumerate(misses, 1) if miss <= rounding), None)


def _of_counts(values: Tensor) -> str:
    if torch.equal(values, values.round()):
        return "these are whole numbers too: shift them, or take a distribution of a wider range"
    steps = _fewest_steps(values)
    undone = f"times {steps} they are whole numbers; " if steps is not None else ""
    return f"{undone}give counts as they were counted, undivided, or take a likelihood of real numbers, Gaussian say"
