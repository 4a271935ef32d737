"""What the posterior over weights says: of the whole data set, of new data; and plain models drawn from it."""

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb import evidence, traces
from pyro_aevb.bayesian.functions import At, WeightedFunction, Weights
from pyro_aevb.bayesian.pair import BayesianGuide, BayesianModel
from pyro_aevb.data.arguments import Data, Form, called, taken_apart
from pyro_aevb.errors import InputError, flag, instance, whole
from pyro_aevb.evaluation import map_blocks
from pyro_aevb.pairs import Pair
from pyro_aevb.seeds import derive, seeded

__all__ = [
    "MarginalLikelihoodBound",
    "draw_model",
    "marginal_likelihood_bound",
    "posterior_predictive",
    "predictive_log_likelihood",
]


@torch.no_grad()
def _draw_weights(guide: BayesianGuide, seed: int, index: int = 0) -> Weights:
    device = next(guide.posterior.parameters()).device
    with seeded(derive(seed, "theta", index), device):
        return {site: q.sample() for site, q in guide.posterior().items()}


def _draw_pairs(
    model: BayesianModel, guide: BayesianGuide, form: Form | None, count: int, seed: int
) -> Iterator[tuple[Weights, Pair, Pair, int]]:
    """Weights from q(theta), the pair at them, called with tensors, and a seed for the noise of the rest."""
    for i in range(count):
        weights = _draw_weights(guide, seed, i)
        at, local = (called(At(each.function, weights), form) for each in (model, guide))
        yield weights, at, local, derive(seed, "evaluation", i)


def _data(model: BayesianModel, guide: BayesianGuide, x: Data) -> tuple[tuple[Any, ...], Form | None]:
    """What stands for the data, and the form that the pair is called in.

    Raises:
        InputError: If there are no data, or the pair does not take them.
    """
    found = taken_apart(x, evaluated=True)
    for each in (model, guide):
        found.check(each)
    return found.given_to(model, guide), found.form


def _check(model: BayesianModel, guide: BayesianGuide) -> None:
    """Refuse a pair that :func:`bayesian` has not made."""
    instance("model", model, BayesianModel, "give what bayesian(model, guide) returns")
    instance("guide", guide, BayesianGuide, "give what bayesian(model, guide) returns")


@torch.no_grad()
def draw_model(model: BayesianModel, guide: BayesianGuide, *, seed: int = 0, mean: bool = False) -> Pair:
    r"""The plain model at one draw of its weights, :math:`\theta \sim q(\theta)`: for everything that takes a model.

    Arguments:
        model: The model, of :func:`bayesian`.
        guide: Its guide.
        seed: Seed of the draw; the caller's random state is left alone.
        mean: Whether to take the mean of q(theta) instead of a draw.

    Returns:
        A copy of the model that :func:`bayesian` was given, with these weights, to be used with the guide that it was
        given. A function that only names its modules cannot be copied with them: of such a model, a module that runs it
        with these weights.

    Raises:
        InputError: If the pair is not one of :func:`bayesian`.
    """
    _check(model, guide)
    flag("mean", mean)
    weights = {s: q.mean for s, q in guide.posterior().items()} if mean else _draw_weights(guide, seed)
    drawn = copy.deepcopy(model.function.original[0])
    lifted = WeightedFunction(drawn, {})
    if any(part is own for part in lifted.parts for own in model.function.parts):
        return At(model.function, {site: value.clone() for site, value in weights.items()})
    for site, place in model.function.places.items():
        lifted.get_parameter(place).copy_(weights[site])
    return drawn


class MarginalLikelihoodBound(NamedTuple):
    """A bound on log p(X) of a whole data set, by draws of the weights."""

    draws: Tensor
    r"""Each draw's :math:`\sum_i \mathcal L(x_i; \theta_s) + \log p(\theta_s) - \log q(\theta_s)`, ``(S,)``, in nats"""
    num_data: int
    """Number N of data"""

    @property
    def bound(self) -> Tensor:
        """The bound, a scalar, in nats for the whole data set."""
        return self.draws.mean()

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`bound`, in nats; NaN, unknown, of one draw."""
        return self.draws.std() / math.sqrt(len(self.draws))

    @property
    def per_datum(self) -> Tensor:
        """The bound in nats per datum."""
        return self.bound / self.num_data


@torch.no_grad()
def marginal_likelihood_bound(
    model: BayesianModel, guide: BayesianGuide, x: Data, num_samples: int = 10, *, seed: int = 0
) -> MarginalLikelihoodBound:
    r"""The lower bound on log p(X) of a whole data set, the weights integrated out.

    .. math:: \log p(X) \ge \mathbb{E}_{q(\theta)}\Big[\sum_{i=1}^N \mathcal{L}(x_i; \theta)\Big]
              - \mathrm{KL}(q(\theta) \,\|\, p(\theta)) \tag{20}

    Every term is averaged over the same draws: at the exact posterior all draws are log p(X).

    Arguments:
        model: The model, of :func:`bayesian`.
        guide: Its guide.
        x: All the data, ``(N, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws of the weights, at least 2; the latents are drawn once for each.
        seed: Seed of the draws; the caller's random state is left alone.

    Returns:
        The draws, whose mean is the bound, in nats for the whole data set.

    Raises:
        InputError: If there are fewer than two draws, or q(theta) is a point mass, whose KL is infinite.
    """
    _check(model, guide)
    whole("num_samples", num_samples, least=2)  # of which there is a standard error
    if guide.posterior.is_point_mass:
        raise InputError(
            "a point mass over the weights has an infinite KL and bounds nothing: give draw_model's model to evidence"
        )
    data, form = _data(model, guide, x)
    draws = []
    for weights, at, local, noise in _draw_pairs(model, guide, form, num_samples, seed):
        bounds = map_blocks(partial(_bounds, at, local), at, local, data, noise)[0]
        prior = model.prior()
        posterior = guide.posterior()
        ratios = [prior[site].log_prob(value) - posterior[site].log_prob(value) for site, value in weights.items()]
        draws.append(bounds.sum() + torch.stack(ratios).sum())
    return MarginalLikelihoodBound(torch.stack(draws), len(data[0]))


def _bounds(model: Pair, guide: Pair, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Each datum's bound (6) with one draw of its latents, ``(B,)``, in nats."""
    return (traces.log_densities(model, guide, args).log_weight[0],)


def predictive_log_likelihood(
    model: BayesianModel,
    guide: BayesianGuide,
    x: Data,
    num_weights: int = 10,
    num_samples: int = 1000,
    *,
    chunk_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""log p(x | X) of each new datum, ``(B,)``, in nats: the weights averaged out.

    .. math:: \log \mathbb{E}_{q(\theta)}[p(x \mid \theta)]
              \approx \log \frac1R \sum_{r=1}^R \hat p(x \mid \theta_r), \quad \theta_r \sim q(\theta)

    Arguments:
        model: The model, of :func:`bayesian`.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_weights: Number R of draws of the weights.
        num_samples: Number of draws of the latents per datum and draw of the weights, by which
            :func:`~pyro_aevb.evidence.importance_sampling` estimates :math:`\hat p`.
        chunk_size: Number of draws of the latents for which the model is run at once; changes memory and time, not
            numbers. By default 5 for 100 data on a CPU, more where there are fewer data; 50 elsewhere.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If a count is not positive, or the pair has further global latents.
    """
    _check(model, guide)
    whole("num_weights", num_weights)
    data, form = _data(model, guide, x)
    log_likelihoods = [
        evidence.importance_sampling(at, local, data, num_samples, chunk_size=chunk_size, seed=noise)
        for _, at, local, noise in _draw_pairs(model, guide, form, num_weights, seed)
    ]
    return torch.stack(log_likelihoods).logsumexp(0) - math.log(num_weights)


@torch.no_grad()
def posterior_predictive(
    model: BayesianModel, guide: BayesianGuide, x: Data, num_samples: int = 1, *, seed: int = 0
) -> Tensor:
    r"""New data, each with weights of its own: :math:`\theta \sim q(\theta), z \sim p(z), x \sim p(x \mid z, \theta)`.

    Arguments:
        model: The model, of :func:`bayesian`.
        guide: Its guide.
        x: An example of its data, ``(1, ...)`` or more, or what else :func:`~pyro_aevb.data.taken_apart` takes. The
            model runs on the first datum; what it observes of that is drawn anew, arguments that it does not observe
            stay.
        num_samples: Number S of new data.
        seed: Seed of the draws; the caller's random state is left alone.

    Returns:
        New values of the first argument that has rows, ``(S, D)``.

    Raises:
        InputError: If ``num_samples`` is not positive, or what the model observes is no argument.
    """
    _check(model, guide)
    whole("num_samples", num_samples)
    data, form = _data(model, guide, x)
    first = tuple(part[:1] for part in data)
    drawn = [
        map_blocks(partial(_new_data, at), at, at, first, noise)[0]
        for _, at, _, noise in _draw_pairs(model, guide, form, num_samples, seed)
    ]
    return torch.cat(drawn)


def _new_data(model: Pair, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (traces.dream(model, args).args[0],)
