"""The latents of a model as one unconstrained vector for each datum: the space in which Hamiltonian dynamics move."""

from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch import Size, Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pyro_aevb.distributions.supports import support_of
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair
from pyro_aevb.traces.agreement import check_observes
from pyro_aevb.traces.densities import check_every_datum, draw, log_guide_at, log_joint_of
from pyro_aevb.traces.plates import size_of_data_plate
from pyro_aevb.traces.sites import Latents, Site, describe, latent_sites, observed_sites, sample_sites
from pyro_aevb.traces.ways import Choices

__all__ = ["LatentSpace", "distributions", "latent_space"]


@dataclass(frozen=True)
class LatentSpace:
    r"""All latent sites of a model, side by side, as :math:`u \in \mathbb R^K` for each datum.

    Each site's value is :math:`z = T(u)`, with the bijection from the reals onto its support; densities of u are those
    of z times :math:`|\det \partial z / \partial u|`.

    Arguments:
        shapes: Event shape of each site's unconstrained value, by the site's name.
        transforms: The bijection T of each site, by the site's name.
        choices: The ways found so far to run many chains at once, which are particles to the pair.
    """

    shapes: dict[str, Size]
    transforms: dict[str, Any]
    choices: Choices = field(default_factory=Choices, repr=False, compare=False)

    @property
    def dim(self) -> int:
        """K, how many numbers all latents of one datum are."""
        return sum(shape.numel() for shape in self.shapes.values())

    def latents(self, u: Tensor) -> tuple[Latents, Tensor]:
        """Values by site, and the log determinant, ``(C, B)``, from u, ``(C, B, K)``."""
        parts = u.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        values = {}
        log_determinant = u.new_zeros(u.shape[:-1])
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            free = part.reshape(part.shape[:-1] + shape)
            values[name] = self.transforms[name](free)
            change = self.transforms[name].log_abs_det_jacobian(free, values[name])
            log_determinant = log_determinant + change.reshape(*u.shape[:-1], -1).sum(-1)
        return values, log_determinant

    def vector(self, latents: Latents) -> Tensor:
        """u, ``(C, B, K)``, from values by site.

        Raises:
            InputError: If a site's values are missing.
        """
        if missing := self.shapes.keys() - latents.keys():
            raise InputError(f"the guide does not sample the model's site {min(missing)!r}: add it to the guide")
        flat = []
        for name, shape in self.shapes.items():
            free = self.transforms[name].inv(latents[name])
            flat.append(free.reshape(*free.shape[: free.dim() - len(shape)], -1))
        return torch.cat(flat, dim=-1)

    def probe(self, size: int) -> Latents:
        """Latents at one fixed u for each of ``size`` data, by site, by which two spaces can be compared."""
        u = torch.full((1, size, self.dim), 0.3)
        return {name: value.double() for name, value in self.latents(u)[0].items()}

    def log_joint(self, model: Pair, args: tuple[Any, ...], u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(u), ``(C, B)`` each, at u, ``(C, B, K)``."""
        latents, log_determinant = self.latents(u)
        likelihood, prior = log_joint_of(model, args, latents, len(u), self.choices)
        return likelihood, prior + log_determinant

    def log_guide(self, guide: Pair, args: tuple[Any, ...], u: Tensor) -> Tensor:
        """log q(u|x), ``(C, B)``, at u, ``(C, B, K)``."""
        latents, log_determinant = self.latents(u)
        return log_guide_at(guide, args, latents, len(u), self.choices) + log_determinant

    def draw(self, function: Pair, args: tuple[Any, ...], count: int) -> Tensor:
        """Draws of a model's prior, or of a guide, ``(count, B, K)``."""
        return self.vector(draw(function, args, count, self.choices)).detach()


def distributions(
    model: Pair, args: tuple[Any, ...], latents: Latents | None = None
) -> tuple[dict[str, Any], dict[str, tuple[Any, Tensor]]]:
    """A model's prior of each latent site; and the likelihood, with its data, of each observed one.

    Arguments:
        model: The model, any Pyro function.
        args: Its arguments, batch first.
        latents: Values of the latents at which the likelihood is told, ``(B, ...)`` each, by site; by default one draw
            from the prior for each datum.

    Raises:
        InputError: If a site is masked, or lies outside the data plate.
    """
    trace = poutine.trace(poutine.condition(model, data=latents or {})).get_trace(*args)
    known = list(latents) if latents else [site["name"] for site in latent_sites(trace)]
    if masked := [s["name"] for s in sample_sites(trace) if s["mask"] is not None]:
        raise InputError(f"site {masked[0]!r} is masked: no closed form of log p(x) is known")
    sites = sample_sites(trace)
    for site in sites:
        size_of_data_plate(site, len(args[0]))
    observed = {s["name"]: (s["fn"], s["value"]) for s in observed_sites(trace) if s["name"] not in known}
    return {name: trace.nodes[name]["fn"] for name in known}, observed


@torch.no_grad()
def latent_space(model: Pair, args: tuple[Any, ...]) -> LatentSpace:
    """The space of a model's latents, read from two runs of it.

    Arguments:
        model: The model, any Pyro function.
        args: Its arguments, batch first.

    Raises:
        InputError: If a latent is discrete, masked, outside the data plate, or without a known bijection; if its
            support depends on another latent; if there is none, or the model observes nothing.
    """
    spaces = [_space(sample_sites(poutine.trace(model).get_trace(*args)), args) for _ in range(2)]
    first, second = (space.probe(len(args[0])) for space in spaces)
    for name in first:
        if not torch.equal(first[name], second[name]):
            raise InputError(
                f"the support of site {name!r} depends on another latent: Hamiltonian dynamics need it to be the same "
                "everywhere; rescale the latent in the model instead"
            )
    return spaces[0]


def _space(sites: list[Site], args: tuple[Any, ...]) -> LatentSpace:
    latents = [site for site in sites if not site["is_observed"]]
    check_observes([site for site in sites if site["is_observed"]])
    if not latents:
        raise InputError("the model has no latent site: there is nothing to sample")
    check_every_datum({site["name"]: size_of_data_plate(site, len(args[0])) for site in latents}, args)
    shapes = {}
    transforms = {}
    for site in latents:
        transforms[site["name"]] = _bijection(site)
        shapes[site["name"]] = transforms[site["name"]].inv(site["value"]).shape[1:]  # less data
    return LatentSpace(shapes, transforms)


def _bijection(site: Site) -> Any:
    name = site["name"]
    try:
        support = support_of(site["fn"])
    except NotImplementedError as error:
        raise InputError(
            f"site {name!r} ({describe(site['fn'])}) does not tell where it may lie: give its distribution a support, "
            "constraints.real_vector for one, or use importance sampling"
        ) from error
    if support.is_discrete:
        raise InputError(
            f"site {name!r} ({describe(site['fn'])}) is discrete, and Hamiltonian dynamics move continuous latents "
            "only: use importance sampling"
        )
    if site["mask"] is not None:
        raise InputError(f"site {name!r} is masked: where a latent has no density there is no posterior to sample")
    while isinstance(support, MixtureSameFamilyConstraint):  # a mixture's components share one support
        support = support.base_constraint
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise InputError(
            f"site {name!r} ({describe(site['fn'])}): no bijection from the reals onto its support is known ({error})"
        ) from error
