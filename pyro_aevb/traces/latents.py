"""The latents of a model as one unconstrained vector for each datum: the space in which Hamiltonian dynamics move."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Size, Tensor
from torch.distributions import biject_to

from pyro_aevb.errors import InputError
from pyro_aevb.traces.densities import log_guide_at, log_joint, particles_of, sites_per_datum
from pyro_aevb.traces.sites import Latents, Pair, describe, latent_sites, observed_sites

__all__ = ["LatentSpace", "distributions", "latent_space"]


@dataclass(frozen=True)
class LatentSpace:
    r"""All latent sites of a model, side by side, as :math:`u \in \mathbb R^K` for each datum.

    Each site's value is :math:`z = T(u)`, with the bijection from the reals onto its support; densities of u are those
    of z times :math:`|\det \partial z / \partial u|`.

    Arguments:
        shapes: Event shape of each site's unconstrained value, by name.
        transforms: T of each site, by name.
    """

    shapes: dict[str, Size]
    transforms: dict[str, Any]

    @property
    def dim(self) -> int:
        """K, how many numbers all latents of one datum are."""
        return sum(shape.numel() for shape in self.shapes.values())

    def latents(self, u: Tensor) -> tuple[Latents, Tensor]:
        """Values by site, and the log determinant, ``(C, B)``, from u, ``(C, B, K)``."""
        parts = u.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        values, log_determinant = {}, u.new_zeros(u.shape[:-1])
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            free = part.reshape(part.shape[:-1] + shape)
            values[name] = self.transforms[name](free)
            change = self.transforms[name].log_abs_det_jacobian(free, values[name])
            log_determinant = log_determinant + change.reshape(*u.shape[:-1], -1).sum(-1)
        return values, log_determinant

    def vector(self, latents: Latents) -> Tensor:
        """u, ``(C, B, K)``, from values by site."""
        flat = []
        for name, shape in self.shapes.items():
            free = self.transforms[name].inv(latents[name])
            flat.append(free.reshape(*free.shape[: free.dim() - len(shape)], -1))
        return torch.cat(flat, dim=-1)

    def log_joint(self, model: Pair, args: tuple[Any, ...], u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(u), ``(C, B)`` each, at u, ``(C, B, K)``."""
        latents, log_determinant = self.latents(u)
        likelihood, prior = log_joint(model, args, latents, len(u))
        return likelihood, prior + log_determinant

    def log_guide(self, guide: Pair, args: tuple[Any, ...], u: Tensor) -> Tensor:
        """log q(u|x), ``(C, B)``, at u, ``(C, B, K)``."""
        latents, log_determinant = self.latents(u)
        return log_guide_at(guide, args, latents, len(u)) + log_determinant

    def draw(self, function: Pair, args: tuple[Any, ...], count: int) -> Tensor:
        """Draws of a model's prior, or of a guide, ``(count, B, K)``."""
        trace = poutine.trace(particles_of(function, count)).get_trace(*args)
        return self.vector({site["name"]: site["value"] for site in latent_sites(trace)}).detach()


def distributions(
    model: Pair, args: tuple[Any, ...], latents: Latents | None = None
) -> tuple[dict[str, Any], dict[str, tuple[Any, Tensor]]]:
    """A model's prior of each latent site; and the likelihood, with its data, of each observed one.

    At given latents, ``(S, B, ...)`` each, or at draws from the prior, one for each datum.
    """
    count = len(next(iter(latents.values()))) if latents else 1
    conditioned = poutine.condition(particles_of(model, count), data=latents or {})
    trace = poutine.trace(conditioned).get_trace(*args)
    known = list(latents) if latents else [site["name"] for site in latent_sites(trace)]
    observed = {s["name"]: (s["fn"], s["value"]) for s in observed_sites(trace) if s["name"] not in known}
    return {name: trace.nodes[name]["fn"] for name in known}, observed


@torch.no_grad()
def latent_space(model: Pair, args: tuple[Any, ...]) -> LatentSpace:
    """The space of a model's latents, read from one run of it.

    Raises:
        InputError: If a latent is discrete, or lies outside the data plate, or there is none.
    """
    sites = latent_sites(poutine.trace(particles_of(model, 1)).get_trace(*args))
    if not sites:
        raise InputError("the model has no latent site: there is nothing to sample")
    sites_per_datum(sites)
    shapes, transforms = {}, {}
    for site in sites:
        name, support = site["name"], site["fn"].support
        if support.is_discrete:
            raise InputError(
                f"site {name!r} ({describe(site['fn'])}) is discrete, and Hamiltonian dynamics move continuous "
                "latents only: use importance sampling"
            )
        transforms[name] = biject_to(support)
        event = site["value"].shape[site["value"].dim() - len(site["fn"].event_shape) :]
        shapes[name] = transforms[name].inverse_shape(event)
    return LatentSpace(shapes, transforms)
