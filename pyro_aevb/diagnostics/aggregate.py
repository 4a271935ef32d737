"""The aggregate posterior q(z), the mean of q(z|x) over data, against the prior."""

import math
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.data.given import as_rows
from pyro_aevb.diagnostics.latents import is_one_vector, latent_kl, latent_of, local_latents
from pyro_aevb.errors import InputError, in_one_line, whole
from pyro_aevb.evaluation import Data, map_blocks
from pyro_aevb.pairs import Pair
from pyro_aevb.traces.sites import describe

__all__ = ["AggregatePosterior", "aggregate_posterior"]

ELEMENTS_AT_ONCE = 4_000_000


class AggregatePosterior(NamedTuple):
    """The aggregate posterior q(z), the mean of q(z|x) over data, beside the prior.

    The mean over data of KL(q(z|x) || p(z)) is told in its two parts, and draws are kept to compare the two
    distributions dimension by dimension.
    """

    mutual_information: Tensor | None
    """Each datum's term of I_q(x; z), ``(B,)``, nats; ``None`` where q cannot tell the density of a given value."""
    marginal_kl: Tensor | None
    """Each datum's term of KL(q(z) || p(z)), ``(B,)``, nats: its KL less its mutual information."""
    draws: Tensor
    """Draws from q(z): S from each datum's q(z|x), those of one datum after another, ``(B * S, K)``."""
    prior_draws: Tensor
    """As many draws from p(z), ``(B * S, K)``."""
    distances: Tensor
    """Kolmogorov-Smirnov distance of q(z_k) and p(z_k), the largest difference of their CDFs, ``(K,)``, in [0, 1]."""
    size: int
    """Number N of data."""

    @property
    def ceiling(self) -> float:
        """log N, the most that the estimate of the mutual information can be with N data, nats."""
        return math.log(self.size)

    @property
    def at_ceiling(self) -> bool:
        """The estimate is within 1 nat of its ceiling: the mutual information is at least that, how much more is not
        known, and ``marginal_kl`` is an upper bound.
        """
        return self.mutual_information is not None and self.mutual_information.mean().item() > self.ceiling - 1

    @property
    def note(self) -> str | None:
        """What a reader must know; ``None`` if nothing."""
        if self.mutual_information is None:
            return "the guide cannot tell the density of a given value: the mutual information is not known"
        return None


@takes_any_data
@torch.no_grad()
def aggregate_posterior(
    model: Pair, guide: Pair, x: Data, num_samples: int = 10, *, seed: int = 0
) -> AggregatePosterior:
    r"""Mutual information of data and latents, and how far the aggregate posterior is from the prior.

    .. math:: \mathbb E_x[\mathrm{KL}(q(z|x) \,\|\, p(z))] = I_q(x; z) + \mathrm{KL}(q(z) \,\|\, p(z)), \quad
              I_q = \mathbb E[\log q(z|x) - \log q(z)], \quad q(z) = \tfrac1N \sum_{j=1}^N q(z \mid x_j)

    With q(z) made of the N data given, the estimate of the mutual information is a lower bound in expectation and at
    most log N; the other part is then an upper bound. The standard deviation of the ``(B,)`` terms over sqrt(N) is the
    standard error to first order: that q(z) is made of the same data adds nothing to it, because a small change of q(z)
    changes E[log q(z)] only by what it changes the integral of q(z), which is 1.

    Oracle: the closed forms of Gaussians, and for distances ``scipy.stats.ks_2samp``.

    Arguments:
        model: The model, any Pyro function whose latent sites have a value for each datum.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws per datum; the density of each draw is computed under the guide of every datum,
            so that N² S densities are computed in all.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, a latent is not one for each datum or is masked, or the prior
            differs between data.

    References:
        | ELBO surgery (Hoffman & Johnson, 2016)
        | http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    whole("num_samples", num_samples)
    kl = latent_kl(model, guide, x, seed=seed).total
    sites = _Sites()
    of_block = partial(_draws_of_block, traces.Particles(model, guide), num_samples, sites)
    z, prior_draws, log_guide = map_blocks(of_block, model, guide, x, seed)
    _check_one_prior(model, guide, x, sites, z[0])
    flat = z.flatten(0, 1)  # (B * S, K)
    flat_prior = prior_draws.flatten(0, 1)  # (B * S, K)
    log_marginal = _log_marginal(model, guide, x, sites, flat)
    information = None if log_marginal is None else (log_guide - log_marginal.view_as(log_guide)).mean(-1)
    return AggregatePosterior(
        mutual_information=information,
        marginal_kl=None if information is None else kl - information,
        draws=flat,
        prior_draws=flat_prior,
        distances=_distances(flat, flat_prior),
        size=len(kl),
    )


class _Sites:
    """The latent sites of a pair, whose values stand side by side in one vector of K numbers."""

    def __init__(self) -> None:
        self.like: dict[str, Tensor] = {}  # one datum's value of each site
        self.is_one = True

    def vector(self, latents: dict[str, Tensor]) -> Tensor:
        """One vector, ``(S, B, K)``, of values by site, ``(S, B, ...)``; whole numbers become floating-point ones."""
        values = [latents[name] for name in self.like]
        floating = [each.dtype for each in values if each.is_floating_point()] or [torch.get_default_dtype()]
        dtype = max(floating, key=lambda each: torch.finfo(each).bits)
        return torch.cat([each.reshape(*each.shape[:2], -1).to(dtype) for each in values], -1)

    def values(self, vector: Tensor) -> dict[str, Tensor]:
        """Values by site, ``(S, B, ...)``, of one vector, ``(S, B, K)``."""
        parts = vector.split([one.numel() for one in self.like.values()], -1)
        return {
            name: part.reshape(part.shape[:2] + one.shape).to(one.dtype)
            for (name, one), part in zip(self.like.items(), parts, strict=True)
        }


def _draws_of_block(
    pair: traces.Particles, num_samples: int, sites: _Sites, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Draws from the guide and from the prior, ``(B, S, K)``, and log q(z|x) at the former, ``(B, S)``."""
    found = local_latents(pair, args)
    if masked := [latent.name for latent in found if latent.mask is not None]:
        raise InputError(
            f"site {masked[0]!r} is masked, so that not every datum has it: there is no one q(z) to compare with the "
            "prior; use latent_kl alone"
        )
    sites.like = {latent.name: latent.value[0] for latent in found}
    sites.is_one = is_one_vector(found)
    draws, log_guide = pair.sample_guide(args, num_samples)
    z = sites.vector(draws)  # (S, B, K)
    prior_draws = sites.vector(traces.draw(pair.model, args, num_samples, pair.choices))
    return z.transpose(0, 1), prior_draws.transpose(0, 1), log_guide.T


def _check_one_prior(model: Pair, guide: Pair, x: Data, sites: _Sites, points: Tensor) -> None:
    """Refuse a prior that depends on the datum, seen at points ``(S, K)``: there is no p(z) to be compared with."""
    pair = traces.Particles(model, guide)

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """log p(z) at the points under each datum's prior."""
        same = points.unsqueeze(1).expand(-1, len(args[0]), -1)
        if sites.is_one:
            return (latent_of(model, guide, args).prior.log_prob(same).T,)  # (B, S)
        return (pair.log_joint(args, sites.values(same), len(points))[1].T,)

    (log_prior,) = map_blocks(of_block, model, guide, x, 0)
    if not torch.allclose(log_prior, log_prior[:1].expand_as(log_prior), rtol=1e-4, atol=1e-4):
        raise InputError(
            "the latent's prior differs between data: there is no one p(z) to compare the aggregate posterior with; "
            "use latent_kl alone"
        )


def _log_marginal(model: Pair, guide: Pair, x: Data, sites: _Sites, z: Tensor) -> Tensor | None:
    """log q(z), ``(Z,)``, at values ``(Z, K)``; ``None`` where the guide cannot tell the density of a given value."""
    choices = traces.Choices()

    def log_densities(chunk: Tensor, args: tuple[Tensor, ...]) -> Tensor:
        """log q(z|x) of each value under each datum of a block, ``(chunk, B)``."""
        # A flow's context does not broadcast: each datum sees a copy.
        same = chunk.unsqueeze(1).expand(-1, len(args[0]), -1)
        if not sites.is_one:
            return traces.log_guide_at(guide, args, sites.values(same), len(chunk), choices)
        q = latent_of(model, guide, args).guide
        try:
            return cast(Tensor, q.log_prob(same))
        except (KeyError, NotImplementedError) as error:
            reason = in_one_line(error)
            raise traces.UnknownDensityError(
                f"{describe(q)} cannot tell the density of a given value ({reason})"
            ) from error

    def sum_of_block(args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """log of the sum of q(z|x) over a block's data."""
        chunks = z.split(max(1, ELEMENTS_AT_ONCE // (len(args[0]) * z.shape[-1])))
        return (torch.cat([log_densities(chunk, args).logsumexp(-1) for chunk in chunks]).unsqueeze(0),)

    try:
        (sums,) = map_blocks(sum_of_block, model, guide, x, 0)  # (blocks, Z)
    except traces.UnknownDensityError:
        return None
    size = len(as_rows(x, evaluated=True)[0])
    return sums.logsumexp(0) - math.log(size)


def _distances(draws: Tensor, prior_draws: Tensor) -> Tensor:
    from scipy import stats  # a second to import, so only where it is used

    columns = zip(_columns(draws), _columns(prior_draws), strict=True)
    return torch.tensor([stats.ks_2samp(q, p, method="asymp").statistic for q, p in columns])


def _columns(values: Tensor) -> np.ndarray[Any, Any]:
    return values.double().cpu().numpy().T
