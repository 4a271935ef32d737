"""What a page shows of a pair that it cannot run: a plane of latent space, decoded beforehand, and reconstructions."""

from typing import Any

import torch
from torch import Tensor

from pyro_aevb import predictions
from pyro_aevb.data import Rows
from pyro_aevb.explorer.arrays import compact
from pyro_aevb.explorer.packed import packed
from pyro_aevb.runs.run import Run

__all__ = ["plane_of", "reconstructions_of"]

SIDE = 24
"""Number of tiles along each side of a plane, where the page has room for them."""

MOST_NUMBERS = 1_200_000
"""Numbers of all tiles of a plane together, at most."""

MARGIN = 0.1
"""How far the plane goes beyond the posterior means, as a share of their range."""


def plane_of(run: Run, rows: Rows, means: Tensor, weight: Tensor) -> dict[str, Any]:
    """Means of p(x|z) over a plane of two latent dimensions, the others at the mean of the posterior means.

    A model with a condition or an exposure is decoded with those of the first datum.

    Arguments:
        run: The run.
        rows: The data.
        means: Their posterior means, ``(N, K)``.
        weight: How much each latent dimension tells, ``(K,)``: the plane is of the two with the most.

    Returns:
        ``dimensions``, the two in their order; ``low`` and ``high``, where it begins and ends along each; ``side``, the
        number of tiles along each; ``means``, ``(side * side, D)``, row by row, the first dimension along a row;
        ``rest``, the values of all K dimensions where they are not moved.
    """
    chosen = sorted(weight.argsort(descending=True)[:2].tolist())
    points = means.detach().cpu().double()
    low, high = _ends(points[:, chosen])
    side = _side(run.data.dim, len(chosen))
    grid = _grid(low, high, side)
    z = points.mean(0).expand(len(grid), -1).clone()
    z[:, chosen] = grid
    return {
        "kind": "plane",
        "dimensions": chosen,
        "low": low.tolist(),
        "high": high.tolist(),
        "side": side,
        "means": pixels_or_numbers(_decoded(run, rows, z.to(means))),
        "rest": points.mean(0).tolist(),
    }


def _ends(points: Tensor) -> tuple[Tensor, Tensor]:
    """Where a plane of two dimensions begins and ends, somewhat beyond the points."""
    low, high = points.amin(0), points.amax(0)
    margin = ((high - low) * MARGIN).clamp(min=1e-3)
    return low - margin, high + margin


def _side(dim: int, dimensions: int) -> int:
    most = MOST_NUMBERS // dim
    return max(2, min(SIDE, int(most ** (1 / dimensions))))


def _grid(low: Tensor, high: Tensor, side: int) -> Tensor:
    """Points of the plane, row by row, ``(side * side, 2)``; of one dimension alone ``(side, 1)``."""
    along = [torch.linspace(a, b, side, dtype=torch.float64) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    rows = torch.cartesian_prod(*reversed(along)).view(-1, len(along))
    return rows.flip(1)


@torch.no_grad()
def _decoded(run: Run, rows: Rows, z: Tensor) -> Tensor:
    """Means of p(x|z), ``(G, D)``, of each point."""
    first = rows.first(1).to(run.device).beside
    parts = (first.condition, first.exposure)
    found = []
    for some in z.to(run.device).split(100):
        given = (None if part is None else part.expand(len(some), *part.shape[1:]) for part in parts)
        found.append(run.model.likelihood_at(some, *given).mean)
    return torch.cat(found).cpu()


def reconstructions_of(run: Run, rows: Rows, seed: int) -> dict[str, Any]:
    """Mean of p(x|z) at the posterior mean of each datum, ``(N, D)``.

    Arguments:
        run: The run.
        rows: The data.
        seed: Seed of draws, where a guide tells no mean.
    """
    return pixels_or_numbers(predictions.reconstruct(run.model, run.guide, rows.arguments, seed=seed).cpu())


def pixels_or_numbers(values: Tensor) -> dict[str, Any]:
    """Grey values between 0 and 1 as bytes, which a screen shows no finer; other numbers with three digits.

    Arguments:
        values: The numbers, of any shape.
    """
    if bool(((values >= 0) & (values <= 1)).all()):
        return {**packed((values * 255).round(), "uint8"), "divided_by": 255}
    return compact(values)
