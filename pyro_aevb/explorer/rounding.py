"""What rounding the weights of a page costs, in nats."""

from typing import Any

from torch import Tensor

from pyro_aevb import evidence
from pyro_aevb.evaluation import mean_of
from pyro_aevb.explorer.graphs import Live, rounded
from pyro_aevb.runs.run import Run

__all__ = ["rounding_of"]


def rounding_of(run: Run, live: Live, x: Tensor, dtype: str, seed: int) -> dict[str, Any]:
    """The bound with the page's weights less that with the run's own, at the same noise, in double precision.

    Arguments:
        run: The run.
        live: The pair as the page has it, with rounded weights.
        x: The data, ``(N, D)``, two at least.
        dtype: Type that the weights were rounded to.
        seed: Seed of the noise.

    Returns:
        ``dtype``; ``count``, N; ``difference``, its mean in nats per datum, and ``se``, the standard error over data;
        ``largest``, the largest absolute difference of a datum.
    """
    own_model, own_guide, _ = rounded(run.model, run.guide, "float64")
    data = x.detach().cpu().double()
    own = evidence.bound(own_model, own_guide, data, seed=seed).bound
    difference = evidence.bound(live.model, live.guide, data, seed=seed).bound - own
    mean = mean_of(difference)
    largest = difference.abs().max().item()
    return {"dtype": dtype, "count": len(data), "difference": mean.mean, "se": mean.se, "largest": largest}
