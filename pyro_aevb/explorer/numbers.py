"""What a page tells of each datum and of the latents: the evaluation's own numbers, at fixed noise."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb import diagnostics, evidence, predictions, traces
from pyro_aevb.data import Rows
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.evaluation import AfterBlock, Data, map_blocks
from pyro_aevb.explorer.arrays import compact
from pyro_aevb.explorer.packed import packed
from pyro_aevb.pairs import Pair
from pyro_aevb.runs.run import BOUND_DRAWS, Run

__all__ = ["Axes", "Latents", "Numbers", "draws_of", "latents_of", "numbers_of", "principal_axes"]

MOST_DRAWS = 1000
"""Number of draws from the prior, and from the aggregate posterior, that a page shows."""


class Numbers(NamedTuple):
    """Numbers of each datum."""

    arrays: dict[str, Any]
    """By name, as arrays of a page"""
    means: Tensor
    """Posterior means, ``(N, K)``"""


class Latents(NamedTuple):
    """What each latent dimension carries."""

    told: dict[str, Any]
    """By name, in plain values"""
    weight: Tensor
    """Mean KL of each, ``(K,)``, in nats; the variance of its posterior mean where KL has no parts"""


class Axes(NamedTuple):
    """Principal axes of the posterior means, that with the largest variance first."""

    mean: Tensor
    """Mean over data, ``(K,)``"""
    directions: Tensor
    """A unit vector a row, ``(K, K)``"""
    explained: Tensor
    """Share of the variance along each, ``(K,)``; zeros where the means do not vary"""


def numbers_of(run: Run, rows: Rows, num_samples: int, seed: int, progress: AfterBlock | None = None) -> Numbers:
    """Bound, evidence and q(z|x) of each datum.

    Arguments:
        run: The run, with its own weights, not those that the page rounds.
        rows: The data.
        num_samples: Number of importance samples for each datum.
        seed: Seed of the draws.
        progress: Function that is called after each block of data with the number of data in it.
    """
    bound = evidence.bound(run.model, run.guide, rows.arguments, BOUND_DRAWS, seed=seed)
    weights = evidence.importance_weights(
        run.model, run.guide, rows.arguments, num_samples, seed=seed, progress=progress
    )
    codes = predictions.encode(run.guide, rows.arguments, seed=seed)
    found = {
        "bound": bound.bound,
        "reconstruction": bound.log_likelihood,
        "kl": bound.kl,
        "log_likelihood": weights.log_likelihood,
        "log_likelihood_se": weights.standard_error,
        "k_hat": weights.khat,
        "mean": codes.mean,
        "sd": codes.scale,
    }
    return Numbers({name: packed(values, "float32") for name, values in found.items()}, codes.mean)


def latents_of(run: Run, rows: Rows, means: Tensor, seed: int) -> Latents:
    """What each latent dimension carries, and the principal axes of the posterior means.

    Arguments:
        run: The run.
        rows: The data, two at least.
        means: Their posterior means, ``(N, K)``.
        seed: Seed of the draws.
    """
    found = diagnostics.latent_kl(run.model, run.guide, rows.arguments, seed=seed)
    kl = None if found.per_dimension is None else found.per_dimension.double().mean(0)
    axes = principal_axes(means)
    told = {
        "dimensions": found.dimensions,
        "kl": None if kl is None else packed(kl, "float64"),
        "kl_note": found.note,
        "activity": packed(found.activity.double(), "float64"),
        "active": found.active.tolist(),
        "axes": {name: packed(values, "float64") for name, values in axes._asdict().items()},
    }
    return Latents(told, found.activity.double() if kl is None else kl)


def principal_axes(means: Tensor) -> Axes:
    """Principal axes of points, each turned so that its largest component is positive.

    Arguments:
        means: The points, ``(N, K)``.

    >>> principal_axes(torch.tensor([[0.0, 0.0], [0.0, -2.0]])).directions[0].abs().tolist()
    [0.0, 1.0]
    """
    points = means.detach().cpu().double()
    centre = points.mean(0)
    covariance = (points - centre).T @ (points - centre) / len(points)  # (K, K)
    variances, vectors = torch.linalg.eigh(covariance)  # the smallest first
    directions = vectors.T.flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))  # (K, 1)
    variances = variances.flip(0).clamp(min=0)
    return Axes(centre, directions * largest.sign(), variances / variances.sum().clamp(min=1e-300))


def draws_of(run: Run, rows: Rows, seed: int) -> dict[str, Any]:
    """Draws from the prior, and from the aggregate posterior q(z), the mean of q(z|x) over the data.

    Where the prior is another for each datum, p(z|c), its draws are those of the data's own conditions.

    Arguments:
        run: The run.
        rows: The data.
        seed: Seed of the draws.
    """
    each = -(-MOST_DRAWS // len(rows.x))
    prior, guide = _draws(run.model, run.guide, rows.arguments, each, seed)
    return {
        "prior_draws": compact(prior.flatten(0, 1)[:MOST_DRAWS]),
        "aggregate_draws": compact(guide.flatten(0, 1)[:MOST_DRAWS]),
    }


@takes_any_data
@torch.no_grad()
def _draws(model: Pair, guide: Pair, x: Data, count: int, seed: int) -> list[Tensor]:
    """Draws from prior and guide for each datum, ``(B, S, K)`` each."""
    choices = traces.Choices()

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The draws for the data of a block."""
        return tuple(traces.draw(part, args, count, choices)["z"].transpose(0, 1) for part in (model, guide))

    return map_blocks(of_block, model, guide, x, seed)
