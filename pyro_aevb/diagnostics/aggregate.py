"""The aggregate posterior q(z), the mean of q(z|x) over data, against the prior."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data import as_tensors
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.diagnostics.latents import latent_kl, latent_of
from pyro_aevb.errors import InputError, in_one_line, whole
from pyro_aevb.evaluation import Data, map_blocks
from pyro_aevb.pairs import Pair
from pyro_aevb.traces.sites import describe

__all__ = ["AggregatePosterior", "aggregate_posterior"]

ELEMENTS_AT_ONCE = 4_000_000


class AggregatePosterior(NamedTuple):
    """The two parts of E[KL(q(z|x) || p(z))], and draws to compare dimension by dimension."""

    mutual_information: Tensor | None
    """Each datum's term of I_q(x; z), ``(B,)``, nats; ``None`` where q cannot tell the density of a given value."""
    marginal_kl: Tensor | None
    """Each datum's term of KL(q(z) || p(z)), ``(B,)``, nats: its KL less its mutual information."""
    draws: Tensor
    """Draws from q(z), S of each datum's q(z|x), ``(B * S, K)``."""
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

    Arguments:
        model: The model, any Pyro function with one latent site.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws per datum; the density of each draw is computed under the guide of every datum,
            so that N² S densities are computed in all.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, not one latent vector for each datum, or a prior that differs
            between data.

    References:
        | ELBO surgery (Hoffman & Johnson, 2016)
        | http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    whole("num_samples", num_samples)
    kl = latent_kl(model, guide, x, seed=seed).total
    z, prior_draws, log_guide = map_blocks(
        partial(_draws_of_block, traces.Particles(model, guide), num_samples), model, guide, x, seed
    )
    _check_one_prior(model, guide, x, z[0])
    flat = z.flatten(0, 1)  # (B * S, K)
    flat_prior = prior_draws.flatten(0, 1)  # (B * S, K)
    log_marginal = _log_marginal(model, guide, x, flat)
    information = None if log_marginal is None else (log_guide - log_marginal.view_as(log_guide)).mean(-1)
    return AggregatePosterior(
        mutual_information=information,
        marginal_kl=None if information is None else kl - information,
        draws=flat,
        prior_draws=flat_prior,
        distances=_distances(flat, flat_prior),
        size=len(kl),
    )


def _draws_of_block(pair: traces.Particles, num_samples: int, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    latent = latent_of(pair.model, pair.guide, args)
    draws, log_guide = pair.sample_guide(args, num_samples)
    z = draws[latent.name]  # (S, B, K)
    # Expanded as a plate does it: Pyro's MixtureOfDiagNormals cannot draw many at once from a batch.
    prior_draws = latent.prior.expand(z.shape[:2]).sample()  # (S, B, K)
    return z.transpose(0, 1), prior_draws.transpose(0, 1), log_guide.T


def _check_one_prior(model: Pair, guide: Pair, x: Data, points: Tensor) -> None:
    """Refuse a prior that depends on the datum, seen at points ``(S, K)``: there is no p(z) to be compared with."""

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """log p(z) at the points under each datum's prior."""
        latent = latent_of(model, guide, args)
        return (latent.prior.log_prob(points.unsqueeze(1).expand(-1, len(args[0]), -1)).T,)  # (B, S)

    (log_prior,) = map_blocks(of_block, model, guide, x, 0)
    if not torch.allclose(log_prior, log_prior[:1].expand_as(log_prior), rtol=1e-4, atol=1e-4):
        raise InputError(
            "the latent's prior differs between data: there is no one p(z) to compare the aggregate posterior with; "
            "use latent_kl alone"
        )


def _log_marginal(model: Pair, guide: Pair, x: Data, z: Tensor) -> Tensor | None:
    """log q(z), ``(Z,)``, at values ``(Z, K)``; ``None`` where the guide cannot tell the density of a given value."""

    def sum_of_block(args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """log of the sum of q(z|x) over a block's data."""
        q = latent_of(model, guide, args).guide
        size = len(args[0])
        chunks = z.split(max(1, ELEMENTS_AT_ONCE // (size * z.shape[-1])))
        # A flow's context does not broadcast: each datum sees a copy.
        log_densities = (q.log_prob(chunk.unsqueeze(1).expand(-1, size, -1)) for chunk in chunks)  # (chunk, B) each
        try:
            return (torch.cat([log_density.logsumexp(-1) for log_density in log_densities]).unsqueeze(0),)
        except (KeyError, NotImplementedError) as error:
            reason = in_one_line(error)
            raise traces.UnknownDensityError(
                f"{describe(q)} cannot tell the density of a given value ({reason})"
            ) from error

    try:
        (sums,) = map_blocks(sum_of_block, model, guide, x, 0)  # (blocks, Z)
    except traces.UnknownDensityError:
        return None
    size = len(as_tensors(x, evaluated=True)[0])
    return sums.logsumexp(0) - math.log(size)


def _distances(draws: Tensor, prior_draws: Tensor) -> Tensor:
    from scipy import stats  # a second to import, so only where it is used

    columns = zip(_columns(draws), _columns(prior_draws), strict=True)
    return torch.tensor([stats.ks_2samp(q, p, method="asymp").statistic for q, p in columns])


def _columns(values: Tensor) -> np.ndarray[Any, Any]:
    return values.double().cpu().numpy().T
