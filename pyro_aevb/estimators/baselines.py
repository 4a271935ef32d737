"""What a score's weight is compared with, so that it varies less: other data, other samples, or what a site says."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError
from pyro_aevb.traces import Score

__all__ = ["BASELINES", "Baseline", "averages", "score_sum"]

Baseline = Literal["none", "mean", "leave_one_out"]
BASELINES: tuple[Baseline, ...] = ("none", "mean", "leave_one_out")

OPTIONS = ("nn_baseline", "nn_baseline_input", "use_decaying_avg_baseline", "baseline_beta", "baseline_value")
"""What ``infer={"baseline": {...}}`` of a site may say: Pyro's words."""


def score_sum(particles: list[list[Score]], baseline: Baseline) -> Tensor:
    r"""A sum whose gradient is :math:`\sum (f - b)\, \nabla \log q(z)` over scores, and of baselines that learn.

    Arguments:
        particles: The scores of each particle; those of one list have the particles at dimension 0 where all were drawn
            in one run.
        baseline: What a latent's cost f is compared with, unless its own site says: ``none`` for b = 0, ``mean`` for
            the mean over the *other* data of the minibatch, ``leave_one_out`` for that over the datum's other samples.

    Raises:
        InputError: If a baseline cannot be had: names the site.
    """
    own = [score for found in particles for score in found if traces.has_baseline(score.site)]
    ours = [[score for score in found if not traces.has_baseline(score.site)] for found in particles]
    if baseline == "leave_one_out":
        weighed = [_weighed(score, _others_mean(score.cost, 0)) for score in _stacked(ours)]
    elif baseline == "mean":
        weighed = [_weighed(score, _others_mean(_of_one_datum(score).cost, -1)) for found in ours for score in found]
    else:
        weighed = [_weighed(score, 0.0) for found in ours for score in found]
    return sum([*weighed, *map(_by_its_own, own)], torch.zeros(()))


def _weighed(score: Score, baseline: Tensor | float) -> Tensor:
    return ((score.cost - baseline) * score.log_prob).sum()


def _others_mean(costs: Tensor, dim: int) -> Tensor:
    """Mean of all costs but its own for each, along one dimension; zero where there are no others."""
    others = costs.shape[dim] - 1
    if others == 0:  # a last minibatch of one datum: no baseline is unbiased too
        return torch.zeros_like(costs)
    return (costs.sum(dim, keepdim=True) - costs) / others


def _stacked(particles: list[list[Score]]) -> list[Score]:
    """The scores with particles at dimension 0."""
    if len(particles) == 1:
        return particles[0]
    names = [[score.site["name"] for score in found] for found in particles]
    if any(other != names[0] for other in names):
        raise InputError("baseline='leave_one_out' compares samples, and the guide draws other latents in each of them")
    together = [list(scores) for scores in zip(*particles, strict=True)]
    return [
        Score(scores[0].site, torch.stack([s.log_prob for s in scores]), torch.stack([s.cost for s in scores]), False)
        for scores in together
    ]


def _of_one_datum(score: Score) -> Score:
    """A score whose cost is one datum's alone: of another the mean would not be independent of the draw."""
    if score.shared:
        raise InputError(
            f"baseline='mean' compares data, and site {score.site['name']!r} lies outside their plate, or terms that "
            "weigh it do: use 'leave_one_out', or a baseline of the site's own, infer={'baseline': ...}"
        )
    return score


# ---------------------------------------------------------------- a site's own


def _by_its_own(score: Score) -> Tensor:
    """A score compared with what its own site says, and the squared error by which a baseline learns to foretell f."""
    options = _options(score.site)
    baseline = torch.zeros_like(score.cost)
    error = torch.zeros(())
    if options.get("use_decaying_avg_baseline", False):
        baseline = baseline + _decaying_average(score, options.get("baseline_beta", 0.9))
    learned = _learned(options)
    if learned is not None:
        baseline = baseline + _of_shape(learned, score)
        error = (score.cost - baseline).square().sum()
    return _weighed(score, baseline.detach()) - error


def _options(site: Any) -> dict[str, Any]:
    options: dict[str, Any] = site["infer"]["baseline"]
    where = f"infer={{'baseline': ...}} of site {site['name']!r}"
    if unknown := options.keys() - set(OPTIONS):
        raise InputError(f"{where} knows no {min(unknown)!r}: give some of {', '.join(OPTIONS)}")
    if options.get("nn_baseline") is not None and options.get("baseline_value") is not None:
        raise InputError(f"{where} has nn_baseline and baseline_value: give one of them")
    return options


def _learned(options: dict[str, Any]) -> Tensor | None:
    """A network's baseline, whose input has no gradient, or a value that the guide computed."""
    network: Callable[[Any], Tensor] | None = options.get("nn_baseline")
    if network is None:
        return options.get("baseline_value")
    return network(pyro.distributions.util.detach(options.get("nn_baseline_input")))


def _of_shape(value: Tensor, score: Score) -> Tensor:
    if value.shape != score.cost.shape:
        raise InputError(
            f"the baseline of site {score.site['name']!r} has shape {tuple(value.shape)}, and what it is compared with "
            f"{tuple(score.cost.shape)}: one number for each place of the site's plates"
        )
    return value


AVERAGE = "__baseline_avg_downstream_cost_"
"""What the name of a decaying average begins with in the parameter store, as Pyro names it."""


def averages(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decaying averages among a parameter store's tensors, which a step changes without a gradient."""
    return {name: parameter for name, parameter in parameters.items() if name.startswith(AVERAGE)}


def _decaying_average(score: Score, beta: float) -> Tensor:
    """Mean of the costs of steps before, kept in the parameter store."""
    with torch.no_grad():
        average = pyro.param(AVERAGE + score.site["name"], torch.zeros_like(score.cost)).requires_grad_(False)
        before = _of_shape(average, score).clone()
        average.copy_((1 - beta) * score.cost + beta * before)
    return before
