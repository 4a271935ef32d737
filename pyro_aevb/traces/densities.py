"""Log densities per datum and particle, unscaled: what evaluation and the multi-sample bounds are made of."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair
from pyro_aevb.traces.agreement import check_no_point_masses, check_one_scale
from pyro_aevb.traces.particles import ParticleRun, rows_of, run
from pyro_aevb.traces.plates import layout_of, may_look, size_of_data_plate, summed
from pyro_aevb.traces.sites import Latents, Site, latent_sites, pair_trace, site_kls, without_gradient
from pyro_aevb.traces.ways import Choices, Ways

__all__ = [
    "LogDensities",
    "Particles",
    "PathDensities",
    "check_every_datum",
    "draw",
    "guide_means",
    "guide_scales",
    "log_densities",
    "log_guide_at",
    "log_joint_of",
    "per_datum_kl",
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
    """N/M under a subsampling plate; where ``poutine.scale`` gives each datum a weight, times these, ``(B,)``"""

    @property
    def log_weight(self) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x): its mean over particles is the bound (6)."""
        return self.log_likelihood + self.log_prior - self.log_guide

    def scaled_sum(self, bound: Tensor) -> Tensor:
        """Sum over data of the scaled bounds, a scalar, from the bound of each datum, ``(B,)``, in nats."""
        return (self.scale * bound).sum()


class PathDensities(NamedTuple):
    """Log densities at latents cut off from the guide, so that gradients by the latents can be told from all others."""

    latents: list[Tensor]
    """Latents as drawn, in the guide's order: differentiable by its parameters, and by the leaves of latents before."""
    leaves: list[Tensor]
    """The same values cut off from the guide: log densities and later latents are differentiable by these."""
    runs: int
    """Number of runs of the guide that the latents come from: those of the first run, then those of the next."""
    densities: LogDensities
    """Log densities at the leaves."""


class Particles:
    """A pair, run for many particles at once in the ways that were found to give what one at a time gives.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        choices: The ways of running particles that were found so far, reused and added to; by default none are known.
        of: What tells the pair from others among ``choices``, where its functions are made anew for each call: the
            functions behind them, and keyword arguments. By default model and guide themselves.
        vectorised: Whether many particles may be run at once; ``False`` for one at a time.
        scaled: Whether sums over data are to be scaled, so that all sites must be scaled alike.
    """

    def __init__(
        self,
        model: Pair,
        guide: Pair,
        choices: Choices | None = None,
        of: tuple[Any, ...] | None = None,
        vectorised: bool = True,
        scaled: bool = False,
    ) -> None:
        self.model = model
        self.guide = guide
        self.of = of
        self.vectorised = vectorised
        self.scaled = scaled
        self.choices = choices or Choices()

    def log_densities(self, args: tuple[Any, ...], count: int = 1, constant: bool = False) -> LogDensities:
        """Log densities at draws from the guide, ``(S, B)`` each, in nats.

        Arguments:
            args: The pair's arguments, batch first.
            count: Number S of draws for each datum.
            constant: Whether the draws are constants, through which no gradient passes.

        Raises:
            InputError: If there is one log-weight for all data and only some are there; if sites are scaled
                differently, or model and guide do not agree.
        """
        ways = self._ways(args, count)
        around = without_gradient if constant else None
        drawn = run(self.guide, args, count, ways.guide, around=around, layout=ways.layout)
        if not self.scaled:  # numbers for each datum, not a sum that stands for all
            check_every_datum(drawn.sizes, args)
        return self._joint(args, _latents(drawn), drawn, _of_guide(drawn), ways)

    def path_densities(self, args: tuple[Any, ...], count: int = 1) -> PathDensities:
        """Log densities at draws from the guide that are cut off from it.

        The guide runs once, each latent cut off as it is drawn, so that what else is random in it, a dropout's mask
        say, is the same for the draws and for their densities.

        Arguments:
            args: The pair's arguments, batch first.
            count: Number S of draws for each datum.

        Raises:
            InputError: As for :meth:`log_densities`; and if the guide cannot tell the density of a value that it has
                not just drawn.
        """
        ways = self._ways(args, count)
        cut = _CutOff()
        drawn = run(self.guide, args, count, ways.guide, around=cut, layout=ways.layout)
        densities = self._joint(args, _latents(drawn), drawn, _of_guide(drawn), ways)
        return PathDensities(cut.latents, cut.leaves, len(drawn.parts), densities)

    def sample_guide(self, args: tuple[Any, ...], count: int) -> tuple[Latents, Tensor]:
        """Latents drawn from the guide, ``(S, B, ...)`` by site, and their log q(z|x), ``(S, B)``, in nats."""
        ways = self._ways(args, count)
        drawn = run(self.guide, args, count, ways.guide, layout=ways.layout)
        check_every_datum(drawn.sizes, args)
        return _latents(drawn), _of_guide(drawn)

    def log_joint(self, args: tuple[Any, ...], latents: Latents, count: int) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) at given latents, ``(S, B)`` each, in nats.

        Arguments:
            args: The pair's arguments, batch first.
            latents: Values of all latents, ``(S, B, ...)`` each, by site.
            count: Number S of them for each datum.
        """
        found = _at(self.model, args, latents, {}, count, self._ways(args, count))
        check_every_datum(found.sizes, args)
        return _total(found, found.sites.keys() - latents.keys()), _total(found, latents)

    def is_joint(self, args: tuple[Any, ...]) -> bool:
        """Whether there is one log-weight for all data, ``(S, 1)``, since not every latent belongs to one datum."""
        return self._ways(args, 1).layout.dim is None

    def _ways(self, args: tuple[Any, ...], count: int) -> Ways:
        ways = self.choices.ways(self.model, self.guide, args, count if self.vectorised else 1, self.of)
        if self.scaled and ways.scaled_differently:
            raise InputError(ways.scaled_differently)
        return ways if self.vectorised else ways._replace(guide="loop", model="loop")

    def _joint(
        self, args: tuple[Any, ...], latents: Latents, drawn: ParticleRun, log_guide: Tensor, ways: Ways
    ) -> LogDensities:
        found = _at(self.model, args, latents, drawn.rows(), drawn.count, ways)
        if self.scaled:
            check_one_scale([*found.sites.values(), *drawn.sites.values()], look=may_look())
        likelihood = _total(found, found.sites.keys() - latents.keys(), like=log_guide)
        return LogDensities(likelihood, _total(found, latents), log_guide, found.scale(ways.plate_scale))


def log_densities(
    model: Pair, guide: Pair, args: tuple[Any, ...], num_particles: int = 1, constant: bool = False
) -> LogDensities:
    """Log densities of a pair at draws from its guide: :meth:`Particles.log_densities`, with nothing kept for later.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.
        num_particles: Number S of draws for each datum.
        constant: Whether the draws are constants, through which no gradient passes.
    """
    return Particles(model, guide).log_densities(args, num_particles, constant)


def log_joint_of(
    model: Pair, args: tuple[Any, ...], latents: Latents, count: int, choices: Choices
) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) of a model without a guide, at given latents, ``(S, B)`` each, in nats.

    Arguments:
        model: The model, any Pyro function.
        args: Its arguments, batch first.
        latents: Values of all latents, ``(S, B, ...)`` each, by site.
        count: Number S of them for each datum.
        choices: The ways of running particles that were found so far, reused and added to.
    """
    found = _at(model, args, latents, {}, count, choices.ways(model, None, args, count))
    check_every_datum(found.sizes, args)
    return _total(found, found.sites.keys() - latents.keys()), _total(found, latents)


def log_guide_at(guide: Pair, args: tuple[Any, ...], latents: Latents, count: int, choices: Choices) -> Tensor:
    """log q(z|x) at given latents, ``(S, B)``, in nats.

    Arguments:
        guide: The guide, any Pyro function.
        args: Its arguments, batch first.
        latents: Values of all latents, ``(S, B, ...)`` each, by site.
        count: Number S of them for each datum.
        choices: The ways of running particles that were found so far, reused and added to.

    Raises:
        InputError: If the guide cannot tell the density of a value that it has not just drawn; if it has other latents.
    """
    found = run(guide, args, count, choices.ways(guide, None, args, count).model, latents)
    if more := sorted(found.sites.keys() - latents.keys()):
        raise InputError(f"the guide samples site {more[0]!r}, which the model does not: add it to the model")
    if missing := sorted(latents.keys() - found.sites.keys()):
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    check_no_point_masses(found.sites.values())
    return _total(found, latents)


def draw(function: Pair, args: tuple[Any, ...], count: int, choices: Choices) -> Latents:
    """Draws of a model's or a guide's latents, ``(S, B, ...)`` by site.

    Arguments:
        function: A model, whose latents are drawn from their prior, or a guide.
        args: Its arguments, batch first.
        count: Number S of draws for each datum.
        choices: The ways of running particles that were found so far, reused and added to.
    """
    drawn = run(function, args, count, choices.ways(function, None, args, count).model)
    check_every_datum(drawn.sizes, args)
    return _latents(drawn)


class _CutOff(Messenger):
    """Cut each latent off as it is drawn: what follows is differentiable by the leaf in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def _pyro_sample(self, msg: Site) -> None:
        if msg["value"] is not None or msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        self.latents.append(msg["fn"](*msg["args"], **msg["kwargs"]))
        # A copy: a transformed distribution remembers what it has just drawn, by identity, with its gradient.
        self.leaves.append(self.latents[-1].detach().clone().requires_grad_())
        msg["value"] = self.leaves[-1]


def _latents(drawn: ParticleRun) -> Latents:
    """What was drawn of the model's latents; an auxiliary site only makes their values."""
    sites = (site for site in latent_sites(drawn.trace) if not site["infer"].get("is_auxiliary"))
    return {site["name"]: drawn.value(site["name"]) for site in sites}


def _of_guide(drawn: ParticleRun) -> Tensor:
    """log q at what was drawn: of a latent made from an auxiliary site, that site's density and the volume's change."""
    return _total(drawn, {site["name"] for site in latent_sites(drawn.trace)})


def _at(model: Pair, args: tuple[Any, ...], latents: Latents, rows: Latents, count: int, ways: Ways) -> ParticleRun:
    """The model at these latents; ``rows`` are what the guide's plates chose, which the model's must choose."""
    found = run(model, args, count, ways.model, latents, rows, layout=ways.layout)
    if more := latents.keys() - found.sites.keys():
        raise InputError(
            f"the guide samples site {min(more)!r}, which the model does not: numbers per datum would be of another "
            "model; add it there"
        )
    if missing := [name for name, site in found.sites.items() if not site["is_observed"]]:
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    return found


def _total(found: ParticleRun, names: Iterable[str], like: Tensor | None = None) -> Tensor:
    """Sum over sites, ``(S, B)``; zeros where there are none."""
    terms = [found.log_prob(name) for name in found.sites if name in names]
    if terms:
        return sum(terms[1:], terms[0])
    if like is not None:
        return torch.zeros_like(like)
    value = next((found.value(name) for name in found.sites), torch.empty(0))
    dtype = value.dtype if value.is_floating_point() else None
    return torch.zeros(found.count, found.size, dtype=dtype, device=found.device)


def check_every_datum(sizes: dict[str, int], args: tuple[Any, ...]) -> None:
    """Refuse plates that do not hold every datum.

    Arguments:
        sizes: Number of data that each site is for, by the site's name.
        args: The pair's arguments, batch first.

    Raises:
        InputError: Names the site, and how many data its plate chooses.
    """
    rows = rows_of(args)
    for name, size in sizes.items():
        if rows is not None and size != rows:
            raise InputError(
                f"the plate of site {name!r} chooses {size} of the {rows} data: numbers per datum need every datum, so "
                "give the plate no subsample_size"
            )


def per_datum_kl(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Tensor | None:
    """The closed-form KL(q || p) of each datum, ``(B,)``; ``None`` where it is not known in closed form.

    It counts as known when there is one latent site, so that none is the parent of another, and a closed form is
    registered for the classes of its guide's and its prior's distribution.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.
    """
    traces = pair_trace(model, guide, args, {})
    try:
        kls = list(site_kls(*traces))
    except InputError:
        return None
    if len(kls) != 1 or len(latent_sites(traces[1])) != 1:
        return None
    site, kl = kls[0]
    layout = layout_of(traces[0], rows_of(args))
    if layout.dim is None:  # of latents that belong to no datum there is none of each
        return None
    masked = scale_and_mask(kl, mask=site["mask"])
    if layout.is_simple:
        return masked.expand(size_of_data_plate(site, rows_of(args)))
    return summed(masked, site, layout.dim)


def guide_means(guide: Pair, args: tuple[Any, ...], num_draws: int = 100) -> tuple[Tensor, Tensor]:
    """Mean of q(z|x), ``(B, K)``, all latent sites side by side, and the variance that each has by chance.

    Where a distribution tells no mean, or may depend on a latent before it, the average over draws stands for it; else
    the variance is zero.

    Arguments:
        guide: The guide, any Pyro function.
        args: Its arguments, batch first.
        num_draws: Number of draws for each datum, where an average of draws is needed.
    """
    try:
        first = _means(guide, args)
        second = _means(guide, args)
        if torch.equal(first, second):  # no latent's mean depends on a draw of another
            return first, torch.zeros_like(first)
        draws = torch.stack([first, second, *(_means(guide, args) for _ in range(num_draws - 2))])  # (S, B, K)
    except NotImplementedError:
        values = draw(guide, args, num_draws, Choices()).values()
        draws = torch.cat([value.reshape(*value.shape[:2], -1) for value in values], dim=-1)  # (S, B, K)
    return draws.mean(0), draws.var(0) / num_draws


def guide_scales(guide: Pair, args: tuple[Any, ...], num_draws: int = 100) -> Tensor:
    """Standard deviation of q(z|x), ``(B, K)``, all latent sites side by side.

    Where a distribution tells none, or may depend on a latent before it, that of draws stands for it.

    Arguments:
        guide: The guide, any Pyro function.
        args: Its arguments, batch first.
        num_draws: Number of draws for each datum, where they are needed.
    """
    with suppress(NotImplementedError):
        variances, again = (_moments(guide, args, "variance") for _ in range(2))
        same = torch.equal(variances, again) and torch.equal(_means(guide, args), _means(guide, args))
        if same:  # no latent's moments depend on a draw of another
            return variances.sqrt()
    values = draw(guide, args, num_draws, Choices()).values()
    return torch.cat([value.reshape(*value.shape[:2], -1) for value in values], dim=-1).std(0)


def _means(guide: Pair, args: tuple[Any, ...]) -> Tensor:
    """Mean of each latent at a draw of those before it, ``(B, K)``."""
    return _moments(guide, args, "mean")


def _moments(guide: Pair, args: tuple[Any, ...], moment: str) -> Tensor:
    """``mean`` or ``variance`` of each latent at a draw of those before it, ``(B, K)``."""
    drawn = latent_sites(poutine.trace(guide).get_trace(*args))
    sites = [site for site in drawn if not site["infer"].get("is_auxiliary")]  # which only makes a latent's value
    check_every_datum({site["name"]: size_of_data_plate(site, rows_of(args)) for site in sites}, args)
    moments = torch.cat([getattr(site["fn"], moment).reshape(len(args[0]), -1) for site in sites], dim=-1)
    if moments.isnan().any():  # as torch tells of a Categorical: draws have one, or are NaN too
        raise NotImplementedError
    return moments
