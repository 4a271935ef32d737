"""The information that each latent dimension carries: KL(q(z|x) || p(z)) by dimension, and which are active."""

from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyro_aevb import evidence, traces
from pyro_aevb.data import as_tensors
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.distributions import NormalMixture
from pyro_aevb.errors import InputError, whole
from pyro_aevb.evaluation import Data, map_blocks
from pyro_aevb.pairs import Pair

__all__ = ["ACTIVE", "Latent", "LatentKL", "latent_kl", "latent_of", "marginals"]

ACTIVE = 0.01
"""Variance over data of the posterior mean, above which a dimension is active (Burda et al., 2016)."""


class Latent(NamedTuple):
    """The one latent site of a pair at some data."""

    name: str
    guide: Any
    """q(z|x), batch shape ``(B,)``, event shape ``(K,)``"""
    prior: Any
    """p(z), of the same shapes"""


class LatentKL(NamedTuple):
    """KL(q(z|x) || p(z)) in nats, whole and by dimension."""

    total: Tensor
    """KL(q(z|x) || p(z)) of the whole latent, ``(B,)``."""
    per_dimension: Tensor | None
    """KL(q(z_k|x) || p(z_k)) between marginals, ``(B, K)``; ``None`` where a marginal has no known density."""
    activity: Tensor
    """Variance over data of the posterior mean, ``(K,)``."""
    factorised: bool
    """Prior and guide are products over dimensions, so that ``per_dimension`` adds up to ``total``."""

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


def latent_of(model: Pair, guide: Pair, args: tuple[Any, ...]) -> Latent:
    """The pair's one latent site, a vector for each datum.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.

    Raises:
        InputError: If there is not one latent site, or it is no vector for each datum.
    """
    model_trace, guide_trace = traces.pair_trace(model, guide, args, {})
    sites = traces.latent_sites(guide_trace)
    if len(sites) != 1:
        raise InputError(
            f"diagnostics need one latent site, a vector for each datum; the guide has {len(sites)}: "
            f"{[site['name'] for site in sites]}"
        )
    name = sites[0]["name"]
    q = sites[0]["fn"]
    if q.batch_shape != (len(args[0]),) or len(q.event_shape) != 1:
        raise InputError(
            f"diagnostics need a latent vector for each datum, batch shape ({len(args[0])},) and event shape (K,); "
            f"site {name!r} has {tuple(q.batch_shape)} and {tuple(q.event_shape)}"
        )
    return Latent(name, q, model_trace.nodes[name]["fn"])


def marginals(distribution: Any) -> Any:
    """Distributions of the single dimensions, batch shape ``(..., K)``; ``None`` where their density is not known.

    >>> marginals(dist.Normal(torch.zeros(3), 1.0).to_event(1)).batch_shape
    torch.Size([3])
    """
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        return distribution.base_dist
    if isinstance(distribution, (MultivariateNormal, LowRankMultivariateNormal)):
        return Normal(distribution.mean, distribution.stddev)
    if isinstance(distribution, NormalMixture):
        return _mixture(distribution.logits, Normal(distribution.loc, distribution.scale))
    if isinstance(distribution, dist.MixtureOfDiagNormals):
        return _mixture(distribution.component_logits, Normal(distribution.locs, distribution.coord_scale))
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

    Arguments:
        model: The model, any Pyro function with one latent site.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws per datum that a KL without a closed form is averaged over.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, or not one latent vector for each datum.

    References:
        | Importance Weighted Autoencoders, section 5.1 (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """
    whole("num_samples", num_samples)
    if len(as_tensors(x, evaluated=True)[0]) == 1:
        raise InputError("diagnostics compare data with one another: give at least 2")
    of_block = partial(_kl_of_block, traces.Particles(model, guide), num_samples)
    total, per_dimension, factorised = map_blocks(of_block, model, guide, x, seed)
    activity = evidence.activity(guide, x, seed=seed)
    known = per_dimension.shape[-1] > 0
    return LatentKL(total, per_dimension if known else None, activity, bool(factorised.all()))


def _kl_of_block(pair: traces.Particles, num_samples: int, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    latent = latent_of(pair.model, pair.guide, args)
    draws, log_guide = pair.sample_guide(args, num_samples)
    z = draws[latent.name]  # (S, B, K)
    total = traces.per_datum_kl(pair.model, pair.guide, args)
    if total is None:
        total = (log_guide - latent.prior.log_prob(z)).mean(0)
    factorised = isinstance(latent.guide, Independent) and isinstance(latent.prior, Independent)
    return total, _kl_of_marginals(latent, z), torch.full((len(total),), factorised)


def _kl_of_marginals(latent: Latent, z: Tensor) -> Tensor:
    """KL(q(z_k|x) || p(z_k)), ``(B, K)``; of no dimension, ``(B, 0)``, where a density is not known."""
    q = marginals(latent.guide)
    p = marginals(latent.prior)
    if q is None or p is None:
        return z.new_zeros(z.shape[1], 0)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return (q.log_prob(z) - p.log_prob(z)).mean(0)
