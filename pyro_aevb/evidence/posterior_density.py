r"""log p(x) from draws of the posterior: the paper's appendix D.

Hamiltonian Monte Carlo draws from p(z|x); a density q(z) is fitted to the first draws; with the others,

.. math:: \frac1{p(x)} = \int \frac{q(z)}{p(x)}\,dz = \mathbb E_{p(z|x)}\Big[\frac{q(z)}{p(z)\,p(x \mid z)}\Big]
          \approx \frac1L \sum_{l=1}^L \frac{q(z_l)}{p(z_l)\, p(x \mid z_l)}

It needs no guide. Its error is that of q, so it serves few latents only: the paper says fewer than 5.
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_aevb import hmc, traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.errors import InputError
from pyro_aevb.evaluation import AfterBlock, Data, map_blocks
from pyro_aevb.hmc.posterior import check_counts
from pyro_aevb.pairs import Pair
from pyro_aevb.views import NATS, html_table, mean_row

__all__ = ["PosteriorDensity", "appendix_d"]

MOST_LATENTS = 5
DISTANCES = "donot_use_mm_for_euclid_dist"  # by products, float32 distances have no correct digit left near zero
RIDGE = 1e-6  # of the mean variance, so that draws in a plane still have a density


class PosteriorDensity(NamedTuple):
    """What the paper's appendix D estimates for each datum, ``(B,)`` each."""

    log_likelihood: Tensor
    """Estimate of log p(x), in nats"""
    standard_error: Tensor
    """Monte Carlo standard error of the estimate, in nats, with the effective number of draws of an autocorrelated
    chain; infinite where a chain never moved"""
    acceptance: Tensor
    """Mean acceptance rate of the transitions, between 0 and 1"""
    rhat: Tensor
    """The largest R-hat over latents: where it is above 1.1, say, or NaN, the chains do not agree"""
    kernel: Tensor
    """1 where a kernel density had the higher held-out score, 0 where a Gaussian had"""

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data."""
        notes = [
            f"acceptance rate of the transitions: {self.acceptance.mean().item():.2f}",
            f"largest R-hat: {self.rhat.max().item():.2f}",
        ]
        title = f"The paper's appendix D of {len(self.log_likelihood):,} data"
        return html_table([mean_row("log p(x)", self.log_likelihood)], NATS, title, notes)


@takes_any_data
def appendix_d(
    model: Pair,
    x: Data,
    num_samples: int = 50,
    *,
    guide: Pair | None = None,
    chains: int = 1,
    burn_in: int = 50,
    leapfrog_steps: int = 4,
    seed: int = 0,
    progress: AfterBlock | None = None,
    keep: str | Path | None = None,
) -> PosteriorDensity:
    r"""log p(x) of each datum by the estimator of the paper's appendix D, ``(B,)``, in nats.

    It serves few latents, the paper says fewer than 5, since its error is that of a density fitted to draws.
    Hamiltonian Monte Carlo draws latents from the posterior; a density q is fitted to the first draws, and as many
    more make the mean of

    .. math:: \frac{1}{p(x)} \approx \frac1S \sum_{s=1}^S \frac{q(z_s)}{p(z_s)\, p(x \mid z_s)},
              \quad z_s \sim p(z \mid x)

    Oracle: the exact log p(x) of a linear-Gaussian pair; for the densities, SciPy's.

    The density is a Gaussian, or a kernel density with Gaussian kernels of Scott's width, whichever gives the second
    half of the first draws the higher score when it is fitted to their first half. Each datum has a step size of its
    own, so that no narrow posterior is left unvisited.

    Arguments:
        model: The model, any Pyro function with continuous latents.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws from each chain that the density is fitted to; as many again make the mean.
        guide: Guide at whose draws the chains begin; by default they begin at draws from the prior.
        chains: Number of chains of each datum.
        burn_in: Number of transitions before the first draw that is kept.
        leapfrog_steps: Number of leapfrog steps in each transition.
        seed: Seed of all draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.
        keep: File that the result of each block of data is kept in, so that a computation that was stopped goes on
            where it was when it is called again; by default nothing is kept.

    Raises:
        InputError: If there are too few draws for a density; if a count is not positive; if a latent is discrete or
            global; if the log joint density is not finite where chains begin; if after burn-in no chain moves.

    References:
        | Auto-Encoding Variational Bayes, appendix D (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """
    check_counts(num_samples, chains, burn_in, leapfrog_steps)

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The estimate for each datum of a block."""
        _check_dim(traces.latent_space(model, args).dim, num_samples * chains)
        samples = hmc.sample_posterior(
            model,
            args,
            2 * num_samples,
            guide=guide,
            chains=chains,
            burn_in=burn_in,
            leapfrog_steps=leapfrog_steps,
            adaptation="datum",
        )
        return _estimate(samples, num_samples)

    settings = f"appendix_d {num_samples} {chains} {burn_in} {leapfrog_steps}"
    return PosteriorDensity(*map_blocks(of_block, model, guide or model, x, seed, progress, keep, settings))


def _check_dim(dim: int, draws: int) -> None:
    if draws < 2 * (dim + 2):
        raise InputError(
            f"{draws} draws are too few to fit a density over {dim} latents: give num_samples times chains of at least "
            f"{2 * dim + 4}"
        )
    if dim > MOST_LATENTS:
        warnings.warn(
            f"appendix D with {dim} latents: no density fitted to {draws} draws is near such a posterior, so that its "
            f"estimate is reliable up to {MOST_LATENTS} latents only; use annealed_importance_sampling",
            stacklevel=7,
        )


def _estimate(samples: hmc.Samples, num_samples: int) -> tuple[Tensor, ...]:
    first = samples.position[:num_samples].flatten(0, 1).transpose(0, 1)  # (B, L, K)
    second = samples.position[num_samples:]  # (L, C, B, K)
    kernel = _kernel_is_better(first)  # (B,)
    points = second.flatten(0, 1).transpose(0, 1)  # (B, L, K)
    log_q = torch.where(kernel.unsqueeze(-1), _log_kernel_density(first, points), _log_gaussian(first, points))
    log_q = log_q.transpose(0, 1).view_as(samples.log_joint[num_samples:])  # (L, C, B)
    log_ratio = log_q - samples.log_joint[num_samples:]
    log_mean = log_ratio.flatten(0, 1).logsumexp(0) - math.log(log_ratio[..., 0].numel())
    error = _relative_error((log_ratio - log_mean).exp())
    # A chain that stood still has seen nothing of its posterior, whatever its draws agree on.
    moved = (samples.position[1:] != samples.position[:-1]).any(-1).any(0).all(0)  # (B,)
    error = torch.where(moved, error, math.inf)
    return -log_mean, error, samples.acceptance, samples.rhat.amax(-1).to(log_mean), kernel.to(log_mean)


def _kernel_is_better(draws: Tensor) -> Tensor:
    """Whether a kernel density fitted to the first half of the draws, ``(B, L, K)``, has a higher score on the second
    half than a Gaussian, ``(B,)``.
    """
    half = draws.shape[1] // 2
    fitted = draws[:, :half]
    held_out = draws[:, half:]
    return _log_kernel_density(fitted, held_out).sum(-1) > _log_gaussian(fitted, held_out).sum(-1)


def _log_gaussian(draws: Tensor, points: Tensor) -> Tensor:
    """Log density at points, ``(B, P, K)``, of the Gaussian with the draws' mean and covariance, ``(B, P)``."""
    mean = draws.mean(1, keepdim=True)
    scale_tril = torch.linalg.cholesky(_covariance(draws)).unsqueeze(1)
    return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False).log_prob(points)


def _log_kernel_density(draws: Tensor, points: Tensor) -> Tensor:
    r"""Log of :math:`\frac1L \sum_l N(z; z_l, h^2 \Sigma)` with Scott's :math:`h = L^{-1/(K+4)}`, ``(B, P)``."""
    count, dim = draws.shape[1:]
    scale_tril = count ** (-1 / (dim + 4)) * torch.linalg.cholesky(_covariance(draws))  # (B, K, K)
    white, at = (torch.linalg.solve_triangular(scale_tril, v.mT, upper=False).mT for v in (draws, points))
    log_kernel = -torch.cdist(at, white, compute_mode=DISTANCES).square() / 2  # (B, P, L)
    log_norm = dim / 2 * math.log(2 * math.pi) + scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    return log_kernel.logsumexp(-1) - math.log(count) - log_norm


def _covariance(draws: Tensor) -> Tensor:
    centred = draws - draws.mean(1, keepdim=True)
    covariance = centred.transpose(1, 2) @ centred / (draws.shape[1] - 1)  # (B, K, K)
    ridge = RIDGE * covariance.diagonal(dim1=-2, dim2=-1).mean(-1) + torch.finfo(draws.dtype).tiny
    return covariance + torch.diag_embed(ridge.unsqueeze(-1).expand(draws.shape[::2]))


def _relative_error(ratio: Tensor) -> Tensor:
    """Standard error of the mean of ``(L, C, B)`` values whose mean is 1."""
    from arviz_stats.base import array_stats  # a second to import, so only where it is used

    if len(ratio) < 8:  # too few to see autocorrelation
        effective = torch.tensor(float(ratio[..., 0].numel()))
    else:
        values = array_stats.ess(ratio.double().cpu().numpy(), chain_axis=1, draw_axis=0, method="mean")
        effective = torch.as_tensor(values).clamp(max=ratio[..., 0].numel())
    return ratio.flatten(0, 1).std(0) / effective.to(ratio).sqrt()
