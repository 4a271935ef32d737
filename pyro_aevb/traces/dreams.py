"""Dreams: latents and data drawn from the model, and what the guide says of those latents given those data."""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair
from pyro_aevb.traces.sites import (
    Latents,
    Site,
    UnknownDensityError,
    describe,
    latent_sites,
    sample_sites,
    subsamples,
)

__all__ = ["Dream", "dream", "dream_log_guide"]


class Dream(NamedTuple):
    """One draw of everything from the model, all of it constants."""

    args: tuple[Any, ...]
    """The model's arguments, with dreamt data in the places of the observed ones."""
    latents: Latents
    """Dreamt latents, by the name of their site."""
    rows: Latents
    """Indices of the data that the plates chose, by the name of the plate."""


def dream(model: Pair, args: tuple[Any, ...]) -> Dream:
    r"""Draw latents and data from the model, as many data as ``args`` hold: :math:`z \sim p(z), x \sim p(x \mid z)`.

    An argument that no site observes stays as it is: the model dreams given its value.

    Arguments:
        model: The model, any Pyro function.
        args: Its arguments, batch first, some of which its sites observe.

    Raises:
        InputError: If a site observes what is no argument, cannot be sampled, or has another shape than its argument;
            if two sites observe one argument.
    """
    dreaming = _Dreaming()
    with torch.no_grad():
        trace = poutine.trace(dreaming(model)).get_trace(*args)
    dreamt = _by_argument(trace, dreaming.observed, args)
    # Copies, since a transform that model and guide share would remember what it has just drawn, without a gradient.
    latents = {s["name"]: s["value"].clone() for s in sample_sites(trace) if s["name"] not in dreaming.observed}
    return Dream(tuple(dreamt.get(id(argument), argument) for argument in args), latents, subsamples(trace))


def dream_log_guide(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Tensor:
    r"""Scaled sum over one dreamt minibatch, :math:`\frac NM \sum_{i=1}^M \log q(z_i \mid x_i)`, in nats.

    Arguments:
        model: The model that dreams, any Pyro function.
        guide: The guide that is asked for the density of the dreamt latents.
        args: Arguments of both, batch first: a minibatch of M data.

    Raises:
        InputError: As for :func:`dream`; if model and guide have different latents; if the guide cannot tell the
            density of a value that it has not just drawn.
    """
    found = dream(model, args)
    trace = poutine.trace(poutine.condition(guide, data={**found.latents, **found.rows})).get_trace(*found.args)
    _check_same_latents(found.latents, trace)
    try:
        return torch.as_tensor(trace.log_prob_sum(lambda name, site: name in found.latents))
    except (KeyError, NotImplementedError) as error:
        site: Site = trace.nodes[next(iter(found.latents))]
        raise UnknownDensityError(
            f"{describe(site['fn'])} cannot tell the density of a given value ({error}), which a dream needs: "
            "use SGVB or IWAE, or a guide that can be inverted"
        ) from error


class _Dreaming(Messenger):
    """Draw every site, and keep what those that carry data had observed, by site."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: dict[str, Any] = {}

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        if msg["is_observed"]:
            self.observed[msg["name"]] = msg["value"]
            msg["is_observed"] = False
            msg["value"] = None
        if msg["value"] is None:
            msg["value"] = _draw(msg)


def _draw(site: Site) -> Tensor:
    fn = site["fn"]
    base = fn
    while isinstance(base, (dist.Independent, dist.MaskedDistribution)):
        base = base.base_dist
    if getattr(type(base), "sample", None) is torch.distributions.Bernoulli.sample:
        # 0.15 ms for 100 x 784 pixels, torch.bernoulli 0.75 ms: a third of a recorded step at 784-500-20.
        return (torch.rand_like(base.probs) < base.probs).to(base.probs.dtype)
    try:
        drawn: Tensor = fn(*site["args"], **site["kwargs"])
    except NotImplementedError as error:
        raise InputError(
            f"model site {site['name']!r} ({describe(fn)}) cannot be sampled, so the model cannot dream: "
            "use a distribution that can, or another estimator"
        ) from error
    return drawn


def _by_argument(trace: Trace, observed: dict[str, Any], args: tuple[Any, ...]) -> dict[int, Tensor]:
    """Dreamt data, by the identity of the argument whose place they take."""
    dreamt: dict[int, Tensor] = {}
    for name, value in observed.items():
        if not any(value is argument for argument in args):
            raise InputError(
                f"model site {name!r} observes what is no argument, so the guide could not be shown a dream of it: "
                "give model and guide the data as positional arguments, and observe them as they are (obs=x)"
            )
        if id(value) in dreamt:
            raise InputError(f"model site {name!r} observes an argument that another site observes too: give it twice")
        drawn = torch.as_tensor(trace.nodes[name]["value"])
        if drawn.shape != value.shape:
            raise InputError(
                f"model site {name!r} draws shape {tuple(drawn.shape)}, but its data have shape {tuple(value.shape)}: "
                "give its distribution the shape of the data"
            )
        dreamt[id(value)] = drawn.to(value)
    return dreamt


def _check_same_latents(latents: Latents, guide_trace: Trace) -> None:
    if missing := [name for name in latents if name not in guide_trace]:
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    if more := latent_sites(guide_trace):
        raise InputError(
            f"the guide samples site {more[0]['name']!r}, which the model does not and so cannot dream of: "
            "add it to the model, or use SGVB"
        )
