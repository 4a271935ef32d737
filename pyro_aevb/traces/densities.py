"""Log densities per datum and particle, unscaled: what evaluation and the multi-sample bounds are made of."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.traces.sites import (
    Latents,
    Pair,
    Site,
    describe,
    latent_sites,
    pair_trace,
    sample_sites,
    site_kls,
    subsamples,
    without_gradient,
)

__all__ = [
    "LogDensities",
    "PathDensities",
    "guide_means",
    "log_densities",
    "log_guide_at",
    "log_joint",
    "particles_of",
    "path_densities",
    "per_datum_kl",
    "sample_guide",
    "sites_per_datum",
]


class LogDensities(NamedTuple):
    """Unscaled log densities in nats, each of shape ``(S, B)``, and what scales their sum over data."""

    log_likelihood: Tensor
    """log p(x|z)"""
    log_prior: Tensor
    """log p(z)"""
    log_guide: Tensor
    """log q(z|x)"""
    scale: float | Tensor = 1.0
    """N/M under a subsampling plate"""

    @property
    def log_weight(self) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x): its mean over particles is the bound (6)."""
        return self.log_likelihood + self.log_prior - self.log_guide


class PathDensities(NamedTuple):
    """Log densities at latents cut off from the guide, so that gradients by the latents can be told from all others."""

    latents: list[Tensor]
    """As drawn: differentiable by the guide's parameters."""
    leaves: list[Tensor]
    """The same values, cut off: the log densities are differentiable by these."""
    densities: LogDensities
    """At the leaves."""


def log_densities(
    model: Pair, guide: Pair, args: tuple[Any, ...], num_particles: int | None = 1, constant: bool = False
) -> LogDensities:
    """Log densities of ``num_particles`` draws from the guide, ``(S, B)`` each.

    ``None`` runs the pair once without a plate of particles, ``(1, B)``: for pairs that do not broadcast. ``constant``
    lets no gradient pass through the draws.

    Raises:
        InputError: If a site lies outside the data plate, or inside further plates, or sites are scaled differently.
    """
    particles = particles_of(guide, num_particles)
    # Outside of the plate: inside, one draw would be made before the plate asks for many.
    drawing = without_gradient(particles) if constant else particles
    trace = poutine.trace(drawing).get_trace(*args)
    log_guide = _total(latent_sites(trace), num_particles, args)
    return _joint(model, args, _latents(trace), subsamples(trace), num_particles, log_guide)


def path_densities(model: Pair, guide: Pair, args: tuple[Any, ...], num_particles: int | None = 1) -> PathDensities:
    """As :func:`log_densities`, at latents cut off from the guide.

    Raises:
        InputError: As there; and if the guide cannot tell the density of a value that it has not just drawn.
    """
    trace = poutine.trace(particles_of(guide, num_particles)).get_trace(*args)
    sites, latents, rows = latent_sites(trace), _latents(trace), subsamples(trace)
    leaves = {name: value.detach().requires_grad_() for name, value in latents.items()}
    if len(sites) == 1:  # else a latent's distribution may depend on another latent: run the guide again at the leaves
        moved: list[Site] = [{**site, "value": leaves[site["name"]]} for site in sites]
    else:
        again = poutine.trace(poutine.condition(particles_of(guide, num_particles), data={**leaves, **rows})).get_trace(
            *args
        )
        moved = [again.nodes[name] for name in leaves]
    log_guide = _of_given(moved, num_particles, args)
    densities = _joint(model, args, leaves, rows, num_particles, log_guide)
    return PathDensities(list(latents.values()), list(leaves.values()), densities)


def sample_guide(guide: Pair, args: tuple[Any, ...], num_particles: int) -> tuple[Latents, Tensor]:
    """Draw latents from the guide: values ``(S, B, ...)`` by site, and their log q(z|x), ``(S, B)``."""
    sites = latent_sites(poutine.trace(particles_of(guide, num_particles)).get_trace(*args))
    sites_per_datum(sites, args)
    return {site["name"]: site["value"] for site in sites}, _total(sites, num_particles, args)


def _latents(trace: Trace) -> Latents:
    return {site["name"]: site["value"] for site in latent_sites(trace)}


def log_joint(model: Pair, args: tuple[Any, ...], latents: Latents, num_particles: int | None) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) at given latents, ``(S, B)`` each."""
    sites = _conditioned(model, args, latents, {}, num_particles)
    sites_per_datum(sites, args)
    likelihood = _total((site for site in sites if site["name"] not in latents), num_particles, args)
    return likelihood, _total((site for site in sites if site["name"] in latents), num_particles, args)


def log_guide_at(guide: Pair, args: tuple[Any, ...], latents: Latents, num_particles: int) -> Tensor:
    """log q(z|x) at given latents, ``(S, B)``.

    Raises:
        InputError: If the guide cannot tell the density of a value that it has not just drawn.
    """
    trace = poutine.trace(poutine.condition(particles_of(guide, num_particles), data=latents)).get_trace(*args)
    sites: list[Site] = [trace.nodes[name] for name in latents if name in trace]
    if more := latent_sites(trace):
        raise InputError(f"the guide samples site {more[0]['name']!r}, which the model does not: add it to the model")
    if len(sites) < len(latents):
        missing = next(name for name in latents if name not in trace)
        raise InputError(f"the guide does not sample the model's site {missing!r}: add it to the guide")
    return _of_given(sites, num_particles, args)


def _of_given(sites: list[Site], num_particles: int | None, args: tuple[Any, ...]) -> Tensor:
    try:
        return _total(sites, num_particles, args)
    except (KeyError, NotImplementedError) as error:
        raise InputError(
            f"{describe(sites[0]['fn'])} cannot tell the density of a given value ({error}), which is needed here: use "
            "SGVB or IWAE, or a guide that can be inverted"
        ) from error


def _joint(
    model: Pair, args: tuple[Any, ...], latents: Latents, rows: Latents, num_particles: int | None, log_guide: Tensor
) -> LogDensities:
    sites = _conditioned(model, args, latents, rows, num_particles)
    observed = [site for site in sites if site["name"] not in latents]
    prior = _total((site for site in sites if site["name"] in latents), num_particles, args)
    return LogDensities(_total(observed, num_particles, args), prior, log_guide, _one_scale(sites))


def _conditioned(
    model: Pair, args: tuple[Any, ...], latents: Latents, rows: Latents, num_particles: int | None
) -> list[Site]:
    """The model's sites at these latents; ``rows`` are what the guide's plates chose, which the model's must choose."""
    conditioned = poutine.condition(particles_of(model, num_particles), data={**latents, **rows})
    sites = sample_sites(poutine.trace(conditioned).get_trace(*args))
    if more := latents.keys() - {site["name"] for site in sites}:
        raise InputError(
            f"the guide samples site {min(more)!r}, which the model does not: numbers per datum would be of another "
            "model; add it there"
        )
    if missing := [site["name"] for site in sites if not site["is_observed"]]:
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    return sites


def _one_scale(sites: list[Site]) -> float | Tensor:
    scales = [site["scale"] for site in sites]
    numbers = {float(scale) for scale in scales if not isinstance(scale, Tensor)}
    if len(numbers) > 1:
        raise InputError(f"the model's sites are scaled by {sorted(numbers)}: numbers per datum need one scale for all")
    return scales[0] if scales else 1.0


def per_datum_kl(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Tensor | None:
    """The closed-form KL(q || p) of each datum, ``(B,)``; ``None`` where it is not known in closed form.

    It counts as known when each latent's prior and guide are one registered pair and no latent is the parent of
    another, which is certain for a single latent site.
    """
    traces = pair_trace(model, guide, args, {})
    try:
        kls = list(site_kls(*traces))
    except InputError:
        return None
    if len(kls) != 1 or len(latent_sites(traces[1])) != 1:
        return None
    site, kl = kls[0]
    _check_plates(site)
    return scale_and_mask(kl, mask=site["mask"]).expand(len(args[0]))


def guide_means(guide: Pair, args: tuple[Any, ...], num_draws: int = 100) -> tuple[Tensor, Tensor]:
    """Mean of q(z|x), ``(B, K)``, all latent sites side by side, and the variance that each has by chance.

    Where a distribution tells no mean, the average of draws stands for it; else the variance is zero.
    """
    sites = latent_sites(poutine.trace(guide).get_trace(*args))
    try:
        means = torch.cat([site["fn"].mean.reshape(len(args[0]), -1) for site in sites], dim=-1)
        return means, torch.zeros_like(means)
    except NotImplementedError:
        latents, _ = sample_guide(guide, args, num_draws)
        draws = torch.cat([latents[s["name"]].reshape(num_draws, len(args[0]), -1) for s in sites], dim=-1)  # (S, B, K)
        return draws.mean(0), draws.var(0) / num_draws


def particles_of(function: Pair, num_particles: int | None) -> Pair:
    """The same Pyro function in a plate of particles at ``dim=-2``."""
    if num_particles is None:
        return function
    plated = pyro.plate("particles", num_particles, dim=-2)(function)

    def run(*args: Any) -> Any:
        """Under the plate of particles."""
        try:
            return plated(*args)
        except ValueError as error:
            if "collide" not in str(error):
                raise
            raise InputError(
                f"numbers per datum need every site in one plate at dim=-1, and particles take dim=-2: {error}"
            ) from error

    return run


def _total(sites: Iterable[Site], num_particles: int | None, args: tuple[Any, ...]) -> Tensor:
    """Sum over sites, ``(S, B)``; zeros where there are none."""
    terms = [_per_datum(site, num_particles or 1) for site in sites]
    return sum(terms[1:], terms[0]) if terms else _zeros(num_particles or 1, args)


def _zeros(num_particles: int, args: tuple[Any, ...]) -> Tensor:
    return torch.zeros(num_particles, len(args[0]), device=args[0].device)


def _per_datum(site: Site, num_particles: int) -> Tensor:
    size = _check_plates(site)
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, mask=site["mask"]).expand(num_particles, size)  # (S, B)


def sites_per_datum(sites: Iterable[Site], args: tuple[Any, ...]) -> None:
    """Refuse sites outside the one data plate, or in one that does not hold every datum, by name."""
    for site in sites:
        if (size := _check_plates(site)) != len(args[0]):
            raise InputError(
                f"the plate of site {site['name']!r} chooses {size} of the {len(args[0])} data: numbers per datum need "
                "every datum, so give the plate no subsample_size"
            )


def _check_plates(site: Site) -> int:
    """The data plate's size."""
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized and frame.dim != -2}
    if set(sizes) != {-1}:
        where = "outside the data plate, a global latent" if not sizes else f"in plates at dims {sorted(sizes)}"
        raise InputError(
            f"site {site['name']!r} lies {where}: numbers per datum need every site in one plate at dim=-1"
        )
    return int(sizes[-1])
