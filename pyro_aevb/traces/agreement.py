"""Model and guide must agree on what counts: the same latents, scaled and masked alike, no term in one of them alone.

Where they do not, a loss is no bound, and one estimator's number is not another's.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.pyro_internals import is_straight_through, own_mask
from pyro_aevb.traces.plates import may_look, own_scale, plate_scale, same_scale
from pyro_aevb.traces.sites import Site, base_of, describe, latent_sites, layers_of, observed_sites

__all__ = [
    "check_agreement",
    "check_densities",
    "check_factors",
    "check_no_factors",
    "check_no_point_masses",
    "check_observes",
    "check_one_plate_scale",
    "check_one_scale",
    "check_scales",
]

STRAIGHT_THROUGH = (
    torch.distributions.OneHotCategoricalStraightThrough,
    dist.RelaxedBernoulliStraightThrough,
    dist.RelaxedOneHotCategoricalStraightThrough,
)


def check_agreement(model_trace: Trace, guide_trace: Trace, look: bool | None = None) -> None:
    """Refuse a pair whose parts do not count the same latents in the same way.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
        look: Whether to compare by their values those scales and masks that are tensors, which a step that is being
            recorded as a graph must not read; by default yes, unless one is being recorded.

    Raises:
        InputError: Names the site, and what each part says of it.
    """
    look = may_look() if look is None else look
    for site in latent_sites(model_trace):
        if site["name"] not in guide_trace:
            raise InputError(
                f"the guide does not sample the model's site {site['name']!r}: add it to the guide; a latent that is "
                "summed out is known to Pyro's TraceEnum_ELBO alone"
            )
    for site in latent_sites(guide_trace):
        other: Site | None = model_trace.nodes.get(site["name"])
        if other is not None:
            _check_scale(other, site, look)
            _check_mask(other, site, look)
        elif not site["infer"].get("is_auxiliary"):
            raise InputError(
                f"the guide samples site {site['name']!r}, which the model does not: add it to the model, or mark it "
                "with infer={'is_auxiliary': True} where it only makes other sites' values"
            )


def check_scales(model_trace: Trace, guide_trace: Trace, look: bool) -> None:
    """Refuse a latent that model and guide scale differently: a plate of another size would scale log q alone.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
        look: Whether to compare scales that are tensors by their values.

    Raises:
        InputError: Names the site and both scales.
    """
    for site in latent_sites(guide_trace):
        if site["name"] in model_trace:
            _check_scale(model_trace.nodes[site["name"]], site, look)


def _check_scale(model_site: Site, guide_site: Site, look: bool) -> None:
    if not same_scale(model_site["scale"], guide_site["scale"], look):
        raise InputError(
            f"site {guide_site['name']!r} is scaled by {_words(model_site['scale'])} in the model and by "
            f"{_words(guide_site['scale'])} in the guide: give both the same size, and the same poutine.scale"
        )


def _check_mask(model_site: Site, guide_site: Site, look: bool) -> None:
    name = guide_site["name"]
    if not _same_mask(_mask_of(model_site), _mask_of(guide_site), look):
        raise InputError(
            f"site {name!r} is masked otherwise in the model than in the guide: a latent that counts in one of them "
            "alone makes a number that is no bound; give both the same mask (what obs_mask=m makes of a latent is "
            "masked by ~m)"
        )


def _words(scale: Any) -> str:
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return f"a tensor of shape {tuple(scale.shape)}"
    return f"{float(scale):g}"


def _mask_of(site: Site) -> Tensor | None:
    """Where a site counts, by its own mask and those of the layers of its distribution; ``None`` for everywhere."""
    masked = (layer for layer in layers_of(site["fn"]) if isinstance(layer, dist.MaskedDistribution))
    masks = [site["mask"], *map(own_mask, masked)]
    known = [torch.as_tensor(mask) for mask in masks if mask is not None and mask is not True]
    return None if not known else torch.stack(list(torch.broadcast_tensors(*known))).all(0)


def _same_mask(one: Tensor | None, other: Tensor | None, look: bool) -> bool:
    if not look or (one is None and other is None):
        return True
    if one is None or other is None:
        only = other if one is None else one
        return only is None or bool(only.all())
    try:
        return torch.equal(*torch.broadcast_tensors(one, other))
    except RuntimeError:
        return False


def check_factors(guide_trace: Trace) -> None:
    """Refuse terms of a guide that are no latents and have no path, of which no gradient of the loss is made.

    Arguments:
        guide_trace: Trace of the guide.

    Raises:
        InputError: Names the site.
    """
    for site in observed_sites(guide_trace):
        if not site["fn"].has_rsample:
            raise InputError(
                f"guide site {site['name']!r} ({describe(site['fn'])}) is observed, or a factor, and cannot be "
                "reparameterised: Trace_ELBO weighs its score as if it were drawn, which is not the loss's gradient; a "
                "factor of parameters or reparameterised latents takes has_rsample=True"
            )


def check_no_factors(guide_trace: Trace, uncounted: str) -> None:
    """Refuse terms of a guide that are no latents: what it observes, and factors.

    Arguments:
        guide_trace: Trace of the guide.
        uncounted: Name of what would leave these terms out, an estimator say, for the message.

    Raises:
        InputError: Names the site.
    """
    for site in observed_sites(guide_trace):
        raise InputError(
            f"the guide's site {site['name']!r} is observed, or a factor: {uncounted} does not count it; use SGVB, "
            "which does where it is reparameterised, or Pyro's Trace_ELBO"
        )


def check_observes(observed: Collection[Any]) -> None:
    """Refuse a model that observes nothing: what was trained or evaluated would be its prior alone.

    Arguments:
        observed: The sites of a model that carry data, among them its factors.

    Raises:
        InputError: If there are none.
    """
    if not observed:
        raise InputError(
            "the model observes nothing, it has no site with obs= and no factor: are model and guide swapped? Give the "
            "model first, then the guide"
        )


def check_one_scale(sites: Iterable[Site], look: bool) -> None:
    """Refuse sites that ``poutine.scale`` scales differently: a log-weight of a datum has one scale for all its terms.

    Arguments:
        sites: Sites of model and guide.
        look: Whether to compare scales that are tensors by their values.

    Raises:
        InputError: Names two sites and their scales.
    """
    _check_alike(((site["name"], own_scale(site)) for site in sites), "their plates apart", look)


def check_one_plate_scale(sites: Iterable[Site]) -> None:
    """Refuse sites that their plates scale differently, for the same reason.

    Raises:
        InputError: Names two sites and their scales.
    """
    _check_alike(((site["name"], plate_scale(site)) for site in sites), "by their plates", look=True)


def _check_alike(scales: Iterator[tuple[str, Any]], where: str, look: bool) -> None:
    first, scale = next(scales, ("", 1.0))
    for name, other in scales:
        if not same_scale(scale, other, look):
            raise InputError(
                f"sites {first!r} and {name!r} are scaled by {_words(scale)} and {_words(other)}, {where}: numbers per "
                "datum need one scale for all; use SGVB, which takes any"
            )


def check_no_point_masses(sites: Iterable[Site]) -> None:
    """Refuse a guide's latents that are points, as of a maximum: at a point a density is infinite.

    Arguments:
        sites: Latent sites of the guide's trace.

    Raises:
        InputError: Names the site.
    """
    sites = list(sites)
    auxiliary = [site for site in sites if site["infer"].get("is_auxiliary")]
    # With those an AutoGuide's others are Deltas that carry the density of the auxiliary site that they were made from.
    for site in auxiliary or sites:
        if isinstance(base_of(site["fn"]), dist.Delta):
            raise InputError(
                f"the guide's site {site['name']!r} is a Delta, a point mass, which has no density: numbers per datum "
                "need one; train a point by SGVB, and evaluate with a guide that has a density, as an "
                "AutoLaplaceApproximation's laplace_approximation() is"
            )


def check_densities(sites: Iterable[Site]) -> None:
    """Refuse latents whose density is not that of their values.

    Raises:
        InputError: Names the site.
    """
    for site in sites:
        straight = any(isinstance(layer, STRAIGHT_THROUGH) for layer in layers_of(site["fn"]))
        if straight or is_straight_through(site["value"]):
            raise InputError(
                f"site {site['name']!r} ({describe(site['fn'])}) draws straight-through values, whose density is that "
                "of another value: numbers per datum need the density of the value itself; use the relaxed "
                "distribution without StraightThrough"
            )
