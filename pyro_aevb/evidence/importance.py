"""log p(x) by importance sampling with the guide."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.errors import InputError, whole
from pyro_aevb.evaluation import SAMPLE_BLOCK, AfterBlock, Data, map_blocks, not_nan
from pyro_aevb.pairs import Pair
from pyro_aevb.views import NATS, html_table, mean_row

__all__ = ["WeightSums", "importance_sampling", "importance_weights", "weighted_draws"]


# On a CPU 50 draws for 100 data take 2.5 times as long as 5 where the decoder is convolutional, 1.2 to 1.4 times where
# it is an MLP: what they pass on fits no cache. For one datum 50 take a fifth of the time of 5: there calls count.
CPU_ROWS = 500  # draws times data for which the model is run at once on a CPU
CHUNK = 50  # draws for which it is run at once elsewhere
FEWEST_FOR_A_TAIL = 25
"""Number of samples below which no k-hat is fitted: a fifth of the samples is the tail, and a tail has at least 5."""


LARGEST_KHAT = 0.7
"""Largest k-hat with which an estimate and its standard error are to be trusted."""


class WeightSums(NamedTuple):
    r"""What importance sampling keeps of each datum's weights: the logarithms of two sums, and the shape of their tail.

    .. math:: w_s = \frac{p(x, z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    Oracle: of k-hat, weights whose tail has a known index.

    References:
        | Pareto smoothed importance sampling (Vehtari et al., 2024)
        | https://arxiv.org/abs/1507.02646
    """

    log_sum: Tensor
    """Logarithm of the sum of the weights, log sum_s w_s, ``(B,)``"""
    log_sum_squares: Tensor
    """Logarithm of the sum of their squares, log sum_s w_s^2, ``(B,)``"""
    khat: Tensor
    """Pareto k-hat, the index of the tail of the largest weights, ``(B,)``: above 0.7 neither the estimate nor its
    standard error is to be trusted. Without enough samples for a tail it is NaN."""
    num_samples: int
    """Number S of samples per datum"""

    @property
    def log_likelihood(self) -> Tensor:
        r"""Estimate of log p(x), ``(B,)``, in nats: :math:`\log \frac1S \sum_s w_s`, in expectation a lower bound."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def standard_error(self) -> Tensor:
        r"""Monte Carlo standard error of the estimate, ``(B,)``, in nats, to first order; NaN with one sample alone.

        .. math:: \sqrt{\tfrac{S}{S-1} \Big(\frac{\sum w^2}{(\sum w)^2} - \frac1S\Big)}
        """
        if self.num_samples < 2:
            return torch.full_like(self.log_sum, math.nan)
        spread = (self.log_sum_squares - 2 * self.log_sum).exp() - 1 / self.num_samples
        return (spread.clamp(min=0) * self.num_samples / (self.num_samples - 1)).sqrt()

    @property
    def effective_samples(self) -> Tensor:
        r"""Effective sample size :math:`(\sum w)^2 / \sum w^2`, ``(B,)``, between 1 and S."""
        return (2 * self.log_sum - self.log_sum_squares).exp()

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data, and for how many the estimate is not to be trusted."""
        rows = [mean_row("log p(x)", self.log_likelihood)]
        notes = [
            f"Monte Carlo standard error of a datum: {_middle(self.standard_error, 'nats')}",
            f"effective samples of a datum: {_middle(self.effective_samples, f'of {self.num_samples:,}')}",
        ]
        if not self.khat.isnan().all():
            doubtful = int((self.khat > LARGEST_KHAT).sum())
            notes.append(f"not to be trusted, Pareto k-hat being above {LARGEST_KHAT}: {doubtful:,} data")
        return html_table(rows, NATS, f"Importance sampling of {len(self.log_sum):,} data", notes)


def _middle(values: Tensor, unit: str) -> str:
    """The median over data in words, and the ends."""
    low, middle, high = (each(values).item() for each in (torch.min, torch.median, torch.max))
    return f"median {middle:.3g} {unit}, between {low:.3g} and {high:.3g}"


def importance_sampling(
    model: Pair, guide: Pair, x: Data, num_samples: int = 5000, *, chunk_size: int | None = None, seed: int = 0
) -> Tensor:
    r"""log p(x) of each datum by importance sampling with the guide, ``(B,)``, in nats.

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S \frac{p(x, z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    :func:`importance_weights` also tells the standard error, and whether the estimate is to be trusted. Where a latent
    belongs to no datum, a global one, there is one number for all data together, ``(1,)``.

    Oracle: the exact log p(x) of a linear-Gaussian pair, and NumPyro's weights.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws per datum.
        chunk_size: Number of draws for which the model is run at once; changes memory and time, not numbers. By default
            5 for 100 data on a CPU, more where there are fewer data; 50 elsewhere.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If a count is not positive, there is no guide, or the pair has no log-weights.
    """
    return importance_weights(model, guide, x, num_samples, chunk_size=chunk_size, seed=seed).log_likelihood


@takes_any_data
@torch.no_grad()
def importance_weights(
    model: Pair,
    guide: Pair,
    x: Data,
    num_samples: int = 5000,
    *,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: AfterBlock | None = None,
    keep: str | Path | None = None,
) -> WeightSums:
    """Importance weights of each datum: log p(x) with its standard error, and whether it is to be trusted.

    The result has ``.log_likelihood``, ``.standard_error``, ``.effective_samples`` and ``.khat``, ``(B,)`` each. There
    are exactly ``num_samples`` draws for each datum.

    Oracle: the exact log p(x) of a linear-Gaussian pair, and NumPyro's weights.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws per datum.
        chunk_size: Number of draws for which the model is run at once; changes memory and time, not numbers. By default
            5 for 100 data on a CPU, more where there are fewer data; 50 elsewhere.
        seed: Seed of the draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.
        keep: File that the result of each block of data is kept in, so that a computation that was stopped goes on
            where it was when it is called again; by default nothing is kept.

    Raises:
        InputError: If a count is not positive, there is no guide, the pair has no log-weights, or
            ``keep`` is a file of another computation.
    """
    if guide is None:
        raise InputError(
            "importance sampling draws from a guide, and there is none: use annealed_importance_sampling or appendix_d"
        )
    whole("num_samples", num_samples)
    if chunk_size is not None:
        whole("chunk_size", chunk_size)
    pair = traces.Particles(model, guide)

    def sums_of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Log of the sum of weights, of their squares, and k-hat, ``(B,)`` each."""
        drawn = weighted_draws(pair, args, num_samples, chunk_size)
        weights = torch.cat([log_weight for _, log_weight in drawn])  # (S, B)
        not_nan(weights, "an importance weight")
        return weights.logsumexp(0), (2 * weights).logsumexp(0), _khat(weights)

    settings = f"importance num_samples={num_samples}"
    log_sum, log_sum_squares, khat = map_blocks(sums_of_block, model, guide, x, seed, progress, keep, settings)
    return WeightSums(log_sum, log_sum_squares, khat, num_samples)


def _khat(log_weight: Tensor) -> Tensor:
    """Pareto k-hat of each datum's weights, ``(S, B)`` to ``(B,)``: NaN where they are too few, -inf where equal."""
    if len(log_weight) < FEWEST_FOR_A_TAIL:
        return torch.full_like(log_weight[0], math.nan)
    columns = log_weight.double().cpu().numpy().T
    return torch.tensor([_khat_of_one(column) for column in columns], dtype=log_weight.dtype, device=log_weight.device)


def _khat_of_one(log_weight: np.ndarray[Any, Any]) -> float:
    from arviz_stats.base import array_stats  # a second to import, so only where it is used

    log_weight = log_weight[log_weight > -math.inf]  # a weight of zero is no part of the tail
    if not np.isfinite(log_weight).all() or len(log_weight) < FEWEST_FOR_A_TAIL:
        return math.nan
    try:
        with np.errstate(all="ignore"):
            return float(array_stats.psislw(-log_weight)[1])  # it takes log-likelihoods, whose inverses are weights
    except ValueError:  # the largest weights are all the same
        return -math.inf


def weighted_draws(
    pair: traces.Particles, args: tuple[Tensor, ...], num_samples: int, chunk_size: int | None = None
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Draws from the guide, chunk by chunk: latents ``(s, B, ...)`` by site, and their log-weights ``(s, B)``.

    Arguments:
        pair: The pair.
        args: Its arguments, batch first.
        num_samples: Number of draws for each datum in all.
        chunk_size: Number of draws for which the model is run at once; by default what suits the processor.
    """
    chunk_size = chunk_size or (max(1, CPU_ROWS // len(args[0])) if args[0].device.type == "cpu" else CHUNK)
    for start in range(0, num_samples, SAMPLE_BLOCK):
        count = min(SAMPLE_BLOCK, num_samples - start)
        latents, log_guide = pair.sample_guide(args, count)
        for rows in torch.arange(count).split(chunk_size):
            chosen = {name: value[rows] for name, value in latents.items()}
            log_likelihood, log_prior = pair.log_joint(args, chosen, len(rows))
            yield chosen, log_likelihood + log_prior - log_guide[rows]  # (chunk, B)
