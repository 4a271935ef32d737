"""Log densities of a (model, guide) pair, read from its traces: the only file that touches ``pyro.poutine``.

A density is written once, in its distribution; what follows only runs the two Pyro functions and adds up.
Shapes: ``S`` particles at ``dim=-2``, ``B`` data at ``dim=-1``.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_aevb.errors import InputError

__all__ = [
    "LogDensities",
    "analytic_kl",
    "check_reparameterised",
    "first_run",
    "guide_means",
    "latent_sites",
    "log_densities",
    "log_joint",
    "log_likelihood_sum",
    "observed_sites",
    "pair_trace",
    "per_datum_kl",
    "sample_guide",
]

Pair = Callable[..., Any]
Site = Any  # Pyro's own Message: a dictionary with the site's name, fn, value, scale, mask, ...
Latents = dict[str, Tensor]


# ---------------------------------------------------------------- one run of the guide and of the replayed model


def pair_trace(
    model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any], max_plate_nesting: float = math.inf
) -> tuple[Trace, Trace]:
    """Run the guide, replay the model on its samples, and compute every site's scaled ``log_prob``.

    Returns:
        The model's and the guide's trace, in Pyro's order.
    """
    model_trace, guide_trace = get_importance_trace("flat", max_plate_nesting, model, guide, args, kwargs)
    return model_trace, guide_trace


def observed_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that carry data."""
    return [site for site in _sample_sites(trace) if site["is_observed"]]


def latent_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that were sampled."""
    return [site for site in _sample_sites(trace) if not site["is_observed"]]


def _sample_sites(trace: Trace) -> list[Site]:
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]


def check_reparameterised(guide_trace: Trace) -> None:
    """Refuse a guide with a site that has no reparameterisation (4), since its pathwise gradient would be wrong.

    Raises:
        InputError: Names the site and the estimator that serves.
    """
    for site in latent_sites(guide_trace):
        if not site["fn"].has_rsample:
            raise InputError(
                f"guide site {site['name']!r} ({_describe(site['fn'])}) cannot be reparameterised, so a pathwise "
                "gradient does not exist: use a score-function estimator, such as pyro.infer.Trace_ELBO"
            )


# ---------------------------------------------------------------- scaled sums over all sites: the objectives' terms


def log_likelihood_sum(model_trace: Trace) -> Tensor:
    r"""Scaled sum of the observed sites' log densities, :math:`\frac NM \sum_i \log p(x_i \mid z_i)`."""
    return _sum(site["log_prob_sum"] for site in observed_sites(model_trace))


def analytic_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    r"""Scaled sum over latent sites of the closed-form :math:`\mathrm{KL}(q \,\|\, p)`, plus auxiliary guide sites.

    Raises:
        InputError: If no closed form is registered for a site's two distributions.
    """
    kls = (
        scale_and_mask(kl, scale=site["scale"], mask=site["mask"]).sum()
        for site, kl in _site_kls(model_trace, guide_trace)
    )
    auxiliary = (site["log_prob_sum"] for site in latent_sites(guide_trace) if site["name"] not in model_trace.nodes)
    return _sum(kls) + _sum(auxiliary)


def _site_kls(model_trace: Trace, guide_trace: Trace) -> Iterable[tuple[Site, Tensor]]:
    for site in latent_sites(model_trace):
        guide_site = guide_trace.nodes[site["name"]]
        yield guide_site, _site_kl(site, guide_site)


def _site_kl(model_site: Site, guide_site: Site) -> Tensor:
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        raise InputError(
            f"no closed form of KL(q || p) is registered for site {model_site['name']!r}, with "
            f"q = {_describe(guide_site['fn'])} and p = {_describe(model_site['fn'])}: "
            "use estimator A (SGVB), which needs none"
        ) from None


def _describe(distribution: Any) -> str:
    base = distribution
    while hasattr(base, "base_dist"):
        base = base.base_dist
    return f"{type(base).__name__} with event shape {tuple(distribution.event_shape)}"


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return sum(terms, torch.zeros(()))


# ---------------------------------------------------------------- unscaled, per datum and particle: the evaluation's


class LogDensities(NamedTuple):
    """Unscaled log densities in nats, each of shape ``(S, B)``."""

    log_likelihood: Tensor
    """log p(x|z)"""
    log_prior: Tensor
    """log p(z)"""
    log_guide: Tensor
    """log q(z|x)"""

    @property
    def log_weight(self) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x): its mean over particles is the bound (6)."""
        return self.log_likelihood + self.log_prior - self.log_guide


def log_densities(model: Pair, guide: Pair, args: tuple[Any, ...], num_particles: int = 1) -> LogDensities:
    """Log densities of ``num_particles`` draws from the guide, ``(S, B)`` each.

    Raises:
        InputError: If a site lies outside the data plate, or inside further plates.
    """
    latents, log_guide = sample_guide(guide, args, num_particles)
    log_likelihood, log_prior = log_joint(model, args, latents, num_particles)
    return LogDensities(log_likelihood, log_prior, log_guide)


def sample_guide(guide: Pair, args: tuple[Any, ...], num_particles: int) -> tuple[Latents, Tensor]:
    """Draw latents from the guide: values ``(S, B, ...)`` by site, and their log q(z|x), ``(S, B)``."""
    sites = latent_sites(poutine.trace(_particles(guide, num_particles)).get_trace(*args))
    latents = {site["name"]: site["value"] for site in sites}
    return latents, _total(sites, (num_particles, len(args[0])))


def log_joint(model: Pair, args: tuple[Any, ...], latents: Latents, num_particles: int) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) at given latents, ``(S, B)`` each."""
    conditioned = poutine.condition(_particles(model, num_particles), data=latents)
    sites = _sample_sites(poutine.trace(conditioned).get_trace(*args))
    if missing := [site["name"] for site in sites if not site["is_observed"]]:
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    shape = (num_particles, len(args[0]))
    likelihood = _total((site for site in sites if site["name"] not in latents), shape)
    return likelihood, _total((site for site in sites if site["name"] in latents), shape)


def per_datum_kl(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Tensor | None:
    """The closed-form KL(q || p) of each datum, ``(B,)``; ``None`` where it is not known in closed form.

    It counts as known when each latent's prior and guide are one registered pair and no latent is the parent of
    another, which is certain for a single latent site.
    """
    traces = pair_trace(model, guide, args, {})
    try:
        kls = list(_site_kls(*traces))
    except InputError:
        return None
    if len(kls) != 1 or len(latent_sites(traces[1])) != 1:
        return None
    site, kl = kls[0]
    _check_plates(site)
    return scale_and_mask(kl, mask=site["mask"]).expand(len(args[0]))


def guide_means(guide: Pair, args: tuple[Any, ...]) -> list[Tensor]:
    """Mean of each of the guide's latent sites, ``(B, ...)``; the draw itself where the distribution tells no mean."""
    sites = latent_sites(poutine.trace(guide).get_trace(*args))
    return [_mean(site) for site in sites]


def _mean(site: Site) -> Tensor:
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]


def _particles(function: Pair, num_particles: int) -> Pair:
    return pyro.plate("particles", num_particles, dim=-2)(function)


def _total(sites: Iterable[Site], shape: tuple[int, int]) -> Tensor:
    return sum((_per_datum(site, shape) for site in sites), torch.zeros(()))


def _per_datum(site: Site, shape: tuple[int, int]) -> Tensor:
    _check_plates(site)
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, mask=site["mask"]).expand(shape)  # (S, B)


def _check_plates(site: Site) -> None:
    dims = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized} - {-2}
    if dims != {-1}:
        where = "outside the data plate, a global latent" if not dims else f"in plates at dims {sorted(dims)}"
        raise InputError(
            f"site {site['name']!r} lies {where}: numbers per datum need every site in one plate at dim=-1"
        )


# ---------------------------------------------------------------- the first run of a training


def _check_scales(model_trace: Trace, guide_trace: Trace) -> None:
    """A plate of another size in the guide would scale log q alone: neither a bound nor its multiple."""
    for site in latent_sites(guide_trace):
        other: Site = model_trace.nodes.get(site["name"], site)
        scale = other["scale"]
        if abs(float(scale) - float(site["scale"])) > 1e-6 * abs(float(scale)):
            raise InputError(
                f"site {site['name']!r} is scaled by {float(scale):g} in the model and by {float(site['scale']):g} in "
                "the guide: give both the same size"
            )


class FirstRun(NamedTuple):
    """What one validated run tells of a pair."""

    loss: Tensor
    """The estimator's loss."""
    parameters: dict[str, Tensor]
    """Every parameter site's unconstrained leaf, by its name in the store."""
    scale: float
    """The observed data's scale, N/M under a subsampling plate."""


def first_run(
    loss: Pair, model: Pair, guide: Pair, args: tuple[Any, ...], check_supports: Callable[[dict[int, Any]], None]
) -> FirstRun:
    """Run a loss once with every check on, whatever the caller's setting, and look at what it used.

    Arguments:
        loss: Called with model, guide and ``args``.
        check_supports: Called before the loss with the supports of what is observed, to refuse the data in its words.

    Raises:
        InputError: If Pyro refuses the pair; its reason is in the message.
    """
    try:
        with pyro.validation_enabled(False), poutine.block(), torch.no_grad():
            model_trace, guide_trace = pair_trace(model, guide, args, {})
        sites = observed_sites(model_trace)
        _check_scales(model_trace, guide_trace)
        check_supports({i: site["fn"].support for site in sites for i, a in enumerate(args) if site["value"] is a})
        with pyro.validation_enabled(True), poutine.trace(param_only=True) as params:
            value = loss(model, guide, *args)
    except InputError:
        raise
    except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
        raise InputError(f"the first run of model and guide failed: {error}") from error
    sites_of_parameters: dict[str, Site] = dict(params.trace.nodes)
    leaves = {name: site["value"].unconstrained() for name, site in sites_of_parameters.items()}
    return FirstRun(value, leaves, float(sites[0]["scale"]) if sites else 1.0)
