"""Are data where the model has a density for them? Each datum is checked against its own."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.distributions import PartlyObserved
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import REFUSALS, InputError, in_one_line
from pyro_aevb.pairs import Pair
from pyro_aevb.seeds import seeded
from pyro_aevb.torch_internals import validates
from pyro_aevb.traces.agreement import check_observes
from pyro_aevb.traces.parts import device_of, untouched
from pyro_aevb.traces.sites import Site, base_of, observed_sites
from pyro_aevb.traces.told_supports import advice_on, words_of

__all__ = ["Observed", "check_observed", "check_values", "observed"]

MISSING = ", or say that NaN means missing: missing=True of GenerativeModel and RecognitionModel, --missing"

NAN_MASKED = (dist.NanMaskedNormal, dist.NanMaskedMultivariateNormal)


class Observed(NamedTuple):
    """A site that carries data."""

    name: str
    value: Tensor
    support: Any
    """The constraint on values that have a density; ``None`` where values are not to be checked: because it depends on
    a latent, or because the user switched validation off."""
    takes_nan: bool
    """Whether its distribution takes NaN for a value that is missing."""
    unlooked: Any = None
    """The support of a distribution of which the user switched validation off."""

    @property
    def is_constant(self) -> bool:
        """Is the support of one number for all data, or of none?"""
        bounds = [value for part in _nested(self.support) for value in vars(part).values()]
        return all(not isinstance(bound, Tensor) or bound.dim() == 0 for bound in bounds)

    @property
    def is_universal(self) -> bool:
        """Is the support one of torch's own constants, the reals say, or none?"""
        inner = innermost(self.support)
        return inner is None or any(inner is own for own in vars(constraints).values())

    def same_support(self, other: "Observed") -> bool:
        """Has another run the same support?"""
        pairs = list(zip(_nested(self.support), _nested(other.support), strict=False))
        same = (_bounds(a) == _bounds(b) and type(a) is type(b) for a, b in pairs)
        return len(list(_nested(self.support))) == len(list(_nested(other.support))) and all(same)


def _nested(support: Any) -> Iterator[Any]:
    while support is not None:
        yield support
        support = getattr(support, "base_constraint", None)


def _bounds(support: Any) -> dict[str, Any]:
    numbers = {n: v for n, v in vars(support).items() if isinstance(v, (Tensor, int, float))}
    return {n: v.tolist() if isinstance(v, Tensor) else v for n, v in numbers.items()}


@torch.no_grad()
def observed(model: Pair, guide: Pair | None, args: tuple[Any, ...], rows: Tensor | None = None) -> list[Observed]:
    """The sites of a model that carry data, from a run of it in a parameter store and noise of its own.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide, from which latents are drawn, since a prior need not be one that can be sampled; ``None`` to
            draw them from the prior.
        args: Arguments of both, batch first.
        rows: Index of each of these data in the whole data set, ``(B,)``, for messages; by default 0 to B - 1.

    Raises:
        InputError: If the pair cannot be run; if beside a guide the model observes nothing.
    """
    found = _sites(model, guide, args, 0, rows)
    if guide is not None:
        check_observes(found)
    if all(site.is_constant for site in found.values()):
        return list(found.values())
    again = _sites(model, guide, args, 1)  # at other latents, on which the support may depend
    return [
        site if name in again and site.same_support(again[name]) else site._replace(support=None)
        for name, site in found.items()
    ]


def _sites(
    model: Pair, guide: Pair | None, args: tuple[Any, ...], seed: int, rows: Tensor | None = None
) -> dict[str, Observed]:
    with untouched(args), seeded(seed, device_of(args)), pyro.validation_enabled(True):
        try:
            if guide is not None:
                with pyro.validation_enabled(False):
                    drawn = poutine.trace(guide).get_trace(*args)
                model = poutine.replay(model, trace=drawn)
            trace = poutine.trace(model).get_trace(*args)
        except InputError:
            raise
        except REFUSALS as error:
            for data in args:
                if isinstance(data, Tensor) and not data.isfinite().all():
                    where = f"in row {_first(~data.isfinite(), rows)} first"
                    raise InputError(
                        f"the data have NaN or infinite values, {where}: clean them first{MISSING}"
                    ) from error
            raise InputError(f"the model cannot be run on these data: {in_one_line(error)}") from error
    return {site["name"]: _observed(site) for site in observed_sites(trace) if isinstance(site["value"], Tensor)}


def _observed(site: Site) -> Observed:
    base = base_of(site["fn"])
    by_itself = isinstance(base, NAN_MASKED)
    takes_nan = by_itself or isinstance(base, PartlyObserved)
    try:
        support = None if by_itself else site["fn"].support
    except (NotImplementedError, AttributeError):  # a support that is not told cannot be compared
        support = None
    if validates(base):
        return Observed(str(site["name"]), site["value"], support, takes_nan)
    return Observed(str(site["name"]), site["value"], None, takes_nan, unlooked=support)


def check_observed(model: Pair, guide: Pair | None, args: tuple[Any, ...], rows: Tensor) -> None:
    """Refuse data where a model has no density for them.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide; ``None`` where there is none.
        args: Arguments of both, batch first.
        rows: Index of each of these data in the whole data set, ``(B,)``, for the message.

    Raises:
        InputError: Names the first datum that is not where its own distribution has a density.
    """
    for site in observed(model, guide, args, rows):
        check_values(site.value, site, rows)


def check_values(values: Tensor, site: Observed, rows: Tensor | None = None) -> Observed:
    """Refuse values that a site has no density for.

    Arguments:
        values: Data for the site, ``(B, ...)``.
        site: The site, as :func:`observed` tells it.
        rows: Index of each of these data in the whole data set, ``(B,)``, for the message; by default 0 to B - 1.

    Returns:
        The site to check further data with, by which what was warned of once is not warned of again.

    Raises:
        InputError: Names the first datum.
    """
    wrong = values.isinf() if site.takes_nan else ~values.isfinite()
    if wrong.any():
        row = _first(wrong, rows)
        missing = "" if site.takes_nan or not values.isnan().any() else MISSING
        raise InputError(f"the data have NaN or infinite values, in row {row} first: clean them first{missing}")
    if site.unlooked is not None and not site.unlooked.check(values).all():
        warnings.warn(
            f"site {site.name!r} has data outside its support, {site.unlooked}, which validate_args=False lets pass: "
            "no number of this pair is a log-likelihood",
            stacklevel=2,
        )
        site = site._replace(unlooked=None)
    if site.support is None:
        return site
    inside = site.support.check(values)
    if inside.all():
        return site
    row = _first(~inside, rows)
    raise InputError(
        f"data row {row} lies outside the likelihood's support, {words_of(site.support)}"
        f"{_with_value(values, site.support)}: {advice_on(values, site.support)}"
    )


def _with_value(values: Tensor, support: Any) -> str:
    """The first value that lies outside, where values are looked at one by one."""
    inside = innermost(support).check(values)
    if inside.shape != values.shape:
        return ""
    outside = ~(inside | values.isnan())  # NaN is in no set, and where it may stand another value is wrong
    return f", with {values[outside][0].item():.4g}" if outside.any() else ""


def _first(wrong: Tensor, rows: Tensor | None) -> int:
    """The lowest index in the data set of a datum that is wrong, whatever the order of these data."""
    if not wrong.dim():
        return 0
    places = wrong.nonzero()[:, 0]
    return int(places[0]) if rows is None or len(rows) != len(wrong) else int(rows[places.to(rows.device)].min())
