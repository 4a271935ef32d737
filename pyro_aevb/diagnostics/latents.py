"""The information that each latent dimension carries: KL(q(z|x) || p(z)) by dimension, and which are active."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
)

from pyro_aevb import evidence, traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.data.given import as_rows
from pyro_aevb.distributions import NormalMixture
from pyro_aevb.errors import InputError, whole
from pyro_aevb.evaluation import Data, map_blocks
from pyro_aevb.origins import comes_from
from pyro_aevb.pairs import Pair

__all__ = [
    "ACTIVE",
    "Latent",
    "LatentKL",
    "is_one_vector",
    "latent_kl",
    "latent_of",
    "latents_of",
    "local_latents",
    "marginals",
    "name_of",
]

ACTIVE = 0.01
"""Variance over data of the posterior mean, above which a dimension is active (Burda et al., 2016)."""


class Latent(NamedTuple):
    """A latent site of a pair at some data, one value for each."""

    name: str
    guide: Any
    """q(z|x), batch shape ``(B,)``; given the latents drawn before it"""
    prior: Any
    """p(z), of the same shapes; given the latents drawn before it"""
    value: Tensor
    """A draw from the guide, ``(B, ...)``"""
    mask: Tensor | bool | None
    """Which data have the site at all, ``(B,)``; ``None`` for all"""
    made: bool
    """The value is made from an auxiliary site's, whose density is not told apart from it."""
    closed: bool
    """All that the prior depends on is drawn before it in the guide too, so that a KL given these is what it seems."""


class LatentKL(NamedTuple):
    """KL(q(z|x) || p(z)) of each datum, in nats: of all dimensions together, and of each by itself."""

    total: Tensor
    """KL(q(z|x) || p(z)) of the whole latent, ``(B,)``."""
    per_dimension: Tensor | None
    """KL(q(z_k|x) || p(z_k)) between marginals, ``(B, K)``; ``None`` where a marginal has no known density. Of several
    latent sites each is given those drawn before it, and averaged over their draws."""
    activity: Tensor
    """Variance of the posterior mean over the data that have the latent, ``(K,)``."""
    factorised: bool
    """Prior and guide are products over dimensions, so that ``per_dimension`` adds up to ``total``."""
    by_site: dict[str, Tensor]
    """The part of each latent site, ``(B,)``, given the sites drawn before it, in the order of the guide; they add up
    to ``total``. Empty where a guide makes latents from auxiliary sites, whose densities are not told apart."""
    dimensions: list[str]
    """Name of each of the K dimensions, in tables, figures and warnings alike: its site's name, and its index there,
    counted from 0 as in Python: ``z[0]``, ``z[1]``, ..."""

    @property
    def active(self) -> Tensor:
        """Which dimensions are active: the posterior mean varies over data by more than 0.01, ``(K,)``."""
        return self.activity > ACTIVE

    @property
    def note(self) -> str | None:
        """What a reader must know about ``per_dimension``; ``None`` where it adds up to ``total``."""
        if self.factorised:
            return None
        if self.per_dimension is None:
            return "prior or guide has marginals without a known density: KL has no parts by dimension, only the total"
        return (
            "prior or guide does not factorise: KL by dimension is between marginals, and the total holds "
            f"{(self.total - self.per_dimension.sum(-1)).mean().item():.2f} nats more for how dimensions depend"
        )


def _is_everywhere(mask: Any) -> bool:
    return mask is None or mask is True or (isinstance(mask, Tensor) and bool(mask.all()))


def name_of(kl: LatentKL, dimension: int) -> str:
    """The one name that tables, figures and warnings call a dimension by: ``z[0]`` for the first one of site ``z``."""
    return kl.dimensions[dimension]


def latents_of(model: Pair, guide: Pair, args: tuple[Any, ...]) -> list[Latent]:
    """The latent sites of a pair, in the guide's order, at one draw from the guide.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.

    Raises:
        InputError: If a site is not one for each datum, or there is none.
    """
    model_trace, guide_trace = traces.pair_trace(model, guide, args, {})
    drawn = traces.latent_sites(guide_trace)
    made = any(site["infer"].get("is_auxiliary") for site in drawn)
    sites = [site for site in drawn if not site["infer"].get("is_auxiliary")]
    if not sites:
        raise InputError("the guide has no latent site: there is nothing to diagnose")
    names = {site["name"] for site in sites}
    if missing := [site["name"] for site in traces.latent_sites(model_trace) if site["name"] not in names]:
        raise InputError(f"the guide does not sample the model's site {missing[0]!r}: add it to the guide")
    closed = set(traces.drawn_after_their_parents(model_trace, guide_trace))
    found = []
    for site in sites:
        name = site["name"]
        if name not in model_trace.nodes:
            raise InputError(f"the guide samples site {name!r}, which the model does not: add it to the model")
        if site["fn"].batch_shape != (len(args[0]),):
            raise InputError(
                f"diagnostics need latents of each datum, batch shape ({len(args[0])},); site {name!r} has batch shape "
                f"{tuple(site['fn'].batch_shape)}: what is one for all data, or lies in further plates, has no q(z|x) "
                "of a datum"
            )
        prior = model_trace.nodes[name]["fn"]
        mask = None if _is_everywhere(site["mask"]) else site["mask"]
        found.append(Latent(name, site["fn"], prior, site["value"], mask, made, name in closed))
    return found


def local_latents(pair: traces.Particles, args: tuple[Any, ...]) -> list[Latent]:
    """:func:`latents_of`, where each latent belongs to one datum, not to all though there are as many.

    Raises:
        InputError: If it does not.
    """
    found = latents_of(pair.model, pair.guide, args)
    if pair.is_joint(args):
        raise InputError(
            "diagnostics need latents of each datum; one of "
            f"{[latent.name for latent in found]} lies in another plate than the data, which all depend on it"
        )
    return found


def latent_of(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Latent:
    """The pair's one latent site, a vector for each datum.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.

    Raises:
        InputError: If there is not one latent site, or it is no vector for each datum.
    """
    found = latents_of(model, guide, args)
    if not is_one_vector(found):
        names = [latent.name for latent in found]
        raise InputError(
            f"one latent site is needed here, a vector for each datum; the guide has {len(names)}: {names}"
        )
    return found[0]


def is_one_vector(found: list[Latent]) -> bool:
    """Is the pair's only latent a vector that every datum has, with a density of its own?"""
    one = found[0]
    return len(found) == 1 and len(one.guide.event_shape) == 1 and not one.made and one.mask is None


def marginals(distribution: Any) -> Any:
    """Distributions of the single dimensions, batch shape ``(..., K)``; ``None`` where their density is not known.

    >>> marginals(dist.Normal(torch.zeros(3), 1.0).to_event(1)).batch_shape
    torch.Size([3])
    """
    if isinstance(distribution, Independent) and not distribution.base_dist.event_shape:
        return distribution.base_dist
    if isinstance(distribution, NormalMixture):
        return _mixture(distribution.logits, Normal(distribution.loc, distribution.scale))
    if isinstance(distribution, dist.MixtureOfDiagNormals):
        return _mixture(distribution.component_logits, Normal(distribution.locs, distribution.coord_scale))
    if traces.has_own_density(distribution) and not comes_from(type(distribution), "pyro_aevb", "pyro"):
        return None  # a stranger's class, whose marginals need not be those of the class that it extends
    if isinstance(distribution, (MultivariateNormal, LowRankMultivariateNormal)):
        return Normal(distribution.mean, distribution.stddev)
    if isinstance(distribution, OneHotCategorical):
        return Bernoulli(distribution.probs)
    if isinstance(distribution, Dirichlet):
        rest = distribution.concentration.sum(-1, keepdim=True) - distribution.concentration
        return Beta(distribution.concentration, rest)
    if isinstance(distribution, MixtureSameFamily):
        return _mixture(distribution.mixture_distribution.logits, marginals(distribution.component_distribution))
    return None


def _mixture(logits: Tensor, components: Any) -> Any:
    """Marginals of a mixture of C components with Gaussian marginals, ``(..., C, K)``."""
    if not isinstance(components, Normal):
        return None
    weights = dist.Categorical(logits=logits.unsqueeze(-2))  # (..., 1, C)
    return dist.MixtureSameFamily(weights, Normal(components.loc.mT, components.scale.mT))  # (..., K)


@takes_any_data
@torch.no_grad()
def latent_kl(model: Pair, guide: Pair, x: Data, num_samples: int = 100, *, seed: int = 0) -> LatentKL:
    r"""KL(q(z|x) || p(z)) of each datum, by latent dimension, and which dimensions are active.

    .. math:: \mathrm{KL}_k(x) = \mathrm{KL}(q(z_k \mid x) \,\|\, p(z_k)), \quad
              \text{active}_k: \mathrm{Var}_x(\mathbb E_q[z_k]) > 0.01

    In closed form where one is registered, else averaged over draws. Where prior and guide factorise the parts add up
    to KL(q(z|x) || p(z)). Where they do not, the parts are between marginals; with a prior that factorises, what the
    total holds more is the total correlation of q(z|x).

    Of several latent sites each has its part, given those that the guide draws before it, averaged over their draws:

    .. math:: \mathrm{KL}(q(z|x) \,\|\, p(z)) = \sum_i \mathbb E_{q(z|x)}\Big[\log
              \frac{q(z_i \mid z_{<i}, x)}{p(z_i \mid \mathrm{pa}_i)}\Big]

    Oracle: the closed form of the paper's Appendix B, quadrature, and the KL of joint Gaussians.

    Arguments:
        model: The model, any Pyro function whose latent sites have a value for each datum.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws per datum that a KL without a closed form is averaged over.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, or a latent is not one for each datum.

    References:
        | Importance Weighted Autoencoders, section 5.1 (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """
    whole("num_samples", num_samples)
    if len(as_rows(x, evaluated=True)[0]) == 1:
        raise InputError("diagnostics compare data with one another: give at least 2")
    kept: list[list[str]] = []
    of_block = partial(_kl_of_block, traces.Particles(model, guide), num_samples, kept)
    total, per_dimension, by_site, factorised, there = map_blocks(of_block, model, guide, x, seed)
    activity = evidence.activity(guide, x, seed=seed) if there.all() else _activity_of_some(guide, x, seed, there)
    known = per_dimension.shape[-1] > 0
    names, dimensions = kept
    parts = dict(zip(names, by_site.unbind(-1), strict=False))  # of no site where none has a part of its own
    return LatentKL(total, per_dimension if known else None, activity, bool(factorised.all()), parts, dimensions)


def _kl_of_block(
    pair: traces.Particles, num_samples: int, kept: list[list[str]], args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """KL in all, ``(B,)``, by dimension and by site, and whether all factorises; beside it what both are named."""
    found = local_latents(pair, args)
    kept[:] = [latent.name for latent in found], [each for latent in found for each in _dimensions(latent)]
    factorised = all(_factorises(latent.guide) and _factorises(latent.prior) for latent in found)
    if is_one_vector(found):
        total, per_dimension = _kl_of_one(pair, found[0], num_samples, args)
        by_site = total.unsqueeze(-1)
    elif found[0].made:
        densities = pair.log_densities(args, num_samples)
        total = (densities.log_guide - densities.log_prior).mean(0)
        per_dimension = by_site = total.new_zeros(len(total), 0)
    else:
        by_site, per_dimension = _kl_of_several(pair, num_samples, args)
        total = by_site.sum(-1)
    there = torch.cat([_there(latent) for latent in found], -1)  # (B, K)
    return total, per_dimension, by_site, torch.full((len(total),), factorised and not found[0].made), there


def _there(latent: Latent) -> Tensor:
    """Which data have the site, for each of its dimensions, ``(B, K)``."""
    ones = torch.ones(len(latent.value), latent.value[0].numel(), dtype=torch.bool, device=latent.value.device)
    return ones if latent.mask is None else ones & torch.as_tensor(latent.mask, device=ones.device).reshape(-1, 1)


def _activity_of_some(guide: Pair, x: Data, seed: int, there: Tensor) -> Tensor:
    """Each dimension's activity over the data that have it, ``(K,)``; 0 where fewer than two do."""
    means = evidence.posterior_means(guide, x, seed=seed)
    each = [means[there[:, k], k] for k in range(means.shape[1])]
    return torch.stack([some.var() if len(some) > 1 else means.new_zeros(()) for some in each])


def _factorises(distribution: Any) -> bool:
    return isinstance(distribution, Independent) or not distribution.event_shape


def _dimensions(latent: Latent) -> list[str]:
    shape = latent.value.shape[1:]
    places = itertools.product(*map(range, shape))
    return [f"{latent.name}[{', '.join(map(str, place))}]" if place else latent.name for place in places]


def _kl_of_one(
    pair: traces.Particles, latent: Latent, num_samples: int, args: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """KL in all, ``(B,)``, and by dimension, ``(B, K)``, of a pair whose one latent is a vector."""
    draws, log_guide = pair.sample_guide(args, num_samples)
    z = draws[latent.name]  # (S, B, K)
    total = traces.per_datum_kl(pair.model, pair.guide, args)
    if total is None:
        total = (log_guide - latent.prior.log_prob(z)).mean(0)
    return total, _kl_of_marginals(latent, z)


def _kl_of_several(pair: traces.Particles, num_samples: int, args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """KL by site, ``(B, sites)``, and by dimension, ``(B, K)``, averaged over runs of the pair, one for each draw."""
    runs = [latents_of(pair.model, pair.guide, args) for _ in range(num_samples)]
    by_site = torch.stack([torch.stack([_kl_of_site(each) for each in run], -1) for run in runs])  # (S, B, sites)
    parts = [[_kl_of_dimensions(each) for each in run] for run in runs]
    known = [[part for part in run if part is not None] for run in parts]
    whole = all(len(some) == len(run) for some, run in zip(known, parts, strict=True))
    per_dimension = torch.stack([torch.cat(run, -1) for run in known]) if whole else by_site[..., :0]  # (S, B, K)
    return by_site.mean(0), per_dimension.mean(0)


def _kl_of_site(latent: Latent) -> Tensor:
    """The site's part at this draw, ``(B,)``: in closed form where one is registered and is what it seems."""
    return _masked(_kl_at(latent, latent.guide, latent.prior), latent.mask)


def _kl_at(latent: Latent, q: Any, p: Any) -> Tensor:
    """KL(q || p), of the site or of its marginals: at the site's draw, where no closed form is what it seems."""
    kl = _closed_form(q, p) if latent.closed else None
    return q.log_prob(latent.value) - p.log_prob(latent.value) if kl is None else kl


def _closed_form(q: Any, p: Any) -> Tensor | None:
    try:
        return traces.site_kl({"name": "z", "fn": p}, {"name": "z", "fn": q})
    except InputError:  # none is registered
        return None


def _kl_of_dimensions(latent: Latent) -> Tensor | None:
    """The parts of the site's dimensions at this draw, ``(B, K)``; ``None`` where a marginal is not known."""
    if not latent.guide.event_shape:
        return _kl_of_site(latent).unsqueeze(-1)
    q = marginals(latent.guide)
    p = marginals(latent.prior)
    if q is None or p is None:
        return None
    return _masked(_kl_at(latent, q, p).flatten(1).T, latent.mask).T


def _masked(values: Tensor, mask: Tensor | bool | None) -> Tensor:
    """Zero where there is no such latent, from numbers ``(..., B)``."""
    return values if mask is None else torch.where(torch.as_tensor(mask, device=values.device), values, 0)


def _kl_of_marginals(latent: Latent, z: Tensor) -> Tensor:
    """KL(q(z_k|x) || p(z_k)), ``(B, K)``; of no dimension, ``(B, 0)``, where a density is not known."""
    q = marginals(latent.guide)
    p = marginals(latent.prior)
    if q is None or p is None:
        return z.new_zeros(z.shape[1], 0)
    kl = _closed_form(q, p)
    return (q.log_prob(z) - p.log_prob(z)).mean(0) if kl is None else kl
