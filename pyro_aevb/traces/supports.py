"""Where a latent's guide has a density, against where its prior has one: they must be the same place."""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.distributions.supports import innermost, support_of
from pyro_aevb.errors import InputError
from pyro_aevb.traces.sites import Site, describe, latent_sites

__all__ = ["check_latent_supports"]

INFINITY = float("inf")


class _Interval(NamedTuple):
    """An interval of reals or integers; its ends, which have measure zero or are shared, are not told apart."""

    low: Tensor
    high: Tensor
    integer: bool


def check_latent_supports(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a guide that can draw where the prior has no density, or cannot draw where it has one.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.

    Raises:
        InputError: Names the site, both distributions and both supports.
    """
    for guide_site in latent_sites(guide_trace):
        model_site: Site | None = model_trace.nodes.get(guide_site["name"])
        if model_site is None or isinstance(guide_site["fn"], dist.Delta):
            continue
        if fault := _fault(guide_site["fn"], model_site["fn"]):
            raise InputError(
                f"site {guide_site['name']!r}: the guide, {describe(guide_site['fn'])} on "
                f"{_words(support_of(guide_site['fn']))}, {fault} its prior's, {describe(model_site['fn'])} on "
                f"{_words(support_of(model_site['fn']))}: choose them with the same support"
            )


def _fault(guide: Any, prior: Any) -> str | None:
    try:
        q = innermost(support_of(guide))
        p = innermost(support_of(prior))
    except (NotImplementedError, AttributeError, InputError):  # a support that is not told cannot be compared
        return None
    a = _interval(q)
    b = _interval(p)
    if a is None or b is None:
        return None if type(q) is type(p) else "has another support than"
    if a.integer != b.integer:
        return "has another support than"
    if _any(a.low < b.low) or _any(a.high > b.high):
        return "can draw outside the support of"
    if _any(a.low > b.low) or _any(a.high < b.high):
        return "cannot draw everywhere in the support of"
    return None


def _any(wrong: Tensor) -> bool:
    return bool(wrong.any())


def _interval(support: Any) -> _Interval | None:
    if isinstance(support, type(constraints.simplex)):
        return None
    if isinstance(support, type(constraints.real)):
        return _Interval(torch.tensor(-INFINITY), torch.tensor(INFINITY), False)
    if isinstance(support, type(constraints.boolean)):
        return _Interval(torch.tensor(0.0), torch.tensor(1.0), True)
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    lowest = torch.as_tensor(-INFINITY if low is None else low)
    highest = torch.as_tensor(INFINITY if high is None else high)
    return _Interval(lowest.detach().double(), highest.detach().double(), bool(support.is_discrete))


def _words(support: Any) -> str:
    interval = _interval(innermost(support))
    if interval is None:
        return str(support)
    low = interval.low.min().item()
    high = interval.high.max().item()
    varies = "about " if interval.low.numel() + interval.high.numel() > 2 else ""
    return f"{varies}[{low:g}, {high:g}]" + (" of integers" if interval.integer else "")
