"""Are the draws of a distribution distributed as its density says?"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_aevb.seeds import seeded
from pyro_aevb.testing.case import Case, require

__all__ = ["rule_draws_have_the_density"]

DRAWS = 40_000
NEAR = 100  # one in how many draws lies in the ball that draws are counted in
ERRORS = 7  # standard errors that the count may be off, so that one check in 10^11 is by chance


def rule_draws_have_the_density(case: Case) -> None:
    """Of all draws as many lie near one of them as the density there says.

    For a ball A around a draw, chosen by other draws, :math:`E_p[1_A(u) / p(u)]` is its volume; for a discrete
    distribution the share of its most frequent value is its probability. What has no density that can be told of a
    given value, or none that is known to be over real numbers, is not looked at.
    """
    part = case.built().eval()
    with seeded(1), torch.no_grad():
        made = case.run(part, *case.arguments(1))
        value = case.drawn(made, (DRAWS,))
        value = value.flatten(1, -2)[:, 0] if made.batch_shape else value
        found = _of_discrete(made, value) if made.support.is_discrete else _of_continuous(made, value)
    if found is None:
        return
    ratio, error = found
    require(
        abs(ratio - 1) < ERRORS * error,
        f"{case.name}: where its draws are most frequent there are {ratio:.3g} +- {error:.1g} times as many as "
        "exp(log_prob) says: make sample and rsample draw from the density that log_prob is, and log_prob that of a "
        "distribution, whose sum or integral is 1",
    )


def _log_prob(made: Any, value: Tensor) -> Tensor | None:
    """The log density of values of the first datum, ``(n,)``; ``None`` where it cannot be told."""
    batch = made.batch_shape
    try:
        log_prob: Tensor = made.log_prob(value.reshape(len(value), *[1] * len(batch), -1).expand(-1, *batch, -1))
    except Exception:  # of a planar flow, say: another rule asks for what must be told
        return None
    return log_prob.flatten(1)[:, 0] if batch else log_prob


def _of_discrete(made: Any, value: Tensor) -> tuple[float, float] | None:
    first, second = value.chunk(2)
    kinds, counts = first.unique(dim=0, return_counts=True)
    common = kinds[counts.argmax()]
    log_prob = _log_prob(made, common.unsqueeze(0))
    if log_prob is None:
        return None
    probability = float(log_prob.exp())
    share = float((second == common).all(-1).double().mean())
    error = math.sqrt(max(share, 1 / len(second)) / len(second))
    return share / probability, error / probability


def _of_continuous(made: Any, value: Tensor) -> tuple[float, float] | None:
    try:
        transform: Any = biject_to(made.support)
        u = transform.inv(value).double()
    except NotImplementedError:
        return None
    log_prob = _log_prob(made, value)
    if log_prob is None or not u.isfinite().all():
        return None
    change = transform.log_abs_det_jacobian(u.to(value.dtype), value)
    log_density = log_prob.double() + change.reshape(len(u), -1).sum(-1)
    others = u[: len(u) // 2]
    centre = others[log_density[: len(others)].argmax()]
    radius = float((others - centre).norm(dim=-1).kthvalue(len(others) // NEAR).values)
    if radius == 0:  # draws that coincide have no density, whatever their support is said to be
        return None
    dim = u.shape[-1]
    log_volume = dim / 2 * math.log(math.pi) + dim * math.log(radius) - math.lgamma(dim / 2 + 1)
    inside = (u[len(others) :] - centre).norm(dim=-1) <= radius
    shares = torch.where(inside, (-log_density[len(others) :] - log_volume).exp(), 0)
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5)
