"""What a trained pair makes of data: latents q(z|x), reconstructions, missing values, and new data of its own."""

import inspect
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import Called, takes_any_data
from pyro_aevb.distributions import ByColumn, PartlyObserved
from pyro_aevb.errors import InputError, flag, function, instance, whole
from pyro_aevb.evaluation import AfterBlock, Data, map_blocks, not_nan
from pyro_aevb.evidence.importance import weighted_draws
from pyro_aevb.models import GenerativeModel
from pyro_aevb.pairs import Pair, evaluating, own_module
from pyro_aevb.seeds import derive, seeded

__all__ = ["Codes", "Imputed", "encode", "impute", "reconstruct", "sample"]

AT_ONCE = 2**22  # numbers of a likelihood that are computed at once, 16 MB of float32


class Codes(NamedTuple):
    """The guide's posterior q(z|x) of each datum, all latent dimensions side by side, ``z[0]`` first."""

    mean: Tensor
    """Mean of q(z|x), ``(B, K)``"""
    scale: Tensor
    """Standard deviation of q(z|x), ``(B, K)``"""
    draws: Tensor
    """Draws from q(z|x), ``(S, B, K)``; S is 0 where none were asked for"""


class Imputed(NamedTuple):
    """Data with estimates where values were missing, ``(B, D)`` each."""

    mean: Tensor
    """What was observed as it is; for what is missing the mean given what was observed, of a category the most probable
    one"""
    draws: Tensor
    """Draws of what is missing given what was observed, beside what was, ``(draws, B, D)``"""
    effective_samples: Tensor
    """Effective number of the importance samples behind each datum, ``(B,)``: few mean that estimates are rough"""


@takes_any_data
@torch.no_grad()
def encode(guide: Pair, x: Data, draws: int = 0, *, seed: int = 0) -> Codes:
    """Mean, standard deviation and draws of q(z|x) for each datum.

    Where a distribution tells no moments, or they depend on another latent, those of 100 draws stand for them.

    Arguments:
        guide: The guide, any Pyro function.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        draws: Number of draws for each datum.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If there are no data, or the guide cannot be run on them.
    """
    whole("draws", draws, least=0)
    function("guide", guide)

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and scale, ``(B, K)``, and draws, ``(B, S, K)``."""
        mean = not_nan(traces.guide_means(guide, args)[0].T, "the mean of q(z|x)").T
        if not draws:
            return mean, traces.guide_scales(guide, args), mean.new_zeros(len(mean), 0, mean.shape[1])
        drawn = traces.draw(guide, args, draws, traces.Choices()).values()
        beside = torch.cat([value.reshape(*value.shape[:2], -1) for value in drawn], dim=-1)  # (S, B, K)
        return mean, traces.guide_scales(guide, args), beside.transpose(0, 1)

    mean, scale, drawn = map_blocks(of_block, guide, guide, x, seed)
    return Codes(mean, scale, drawn.transpose(0, 1))


@takes_any_data
@torch.no_grad()
def reconstruct(model: Pair, guide: Pair, x: Data, *, condition: Tensor | None = None, seed: int = 0) -> Tensor:
    """Mean of p(x|z,c) at the posterior mean of each datum, ``(B, D)``; of a category the most probable one.

    Arguments:
        model: The model, a :class:`~pyro_aevb.GenerativeModel`.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        condition: Condition under which all data are decoded, one row of it, ``(1,)`` or ``(1, C)``: what each would be
            as one of another class. By default each datum's own.
        seed: Seed of draws, where a mean is not known; the caller's random state is left alone.

    Raises:
        InputError: If the model is no :class:`~pyro_aevb.GenerativeModel`; if there are no data, or the pair cannot be
            run on them.
    """
    own = _own(model, "reconstruct")
    if condition is not None and (instance("condition", condition, Tensor).dim() == 0 or len(condition) != 1):
        raise InputError(f"condition must be one row, (1,) or (1, C), not of shape {tuple(condition.shape)}")
    if condition is not None:
        own.check_data(
            instance("condition", condition, Tensor)[:1], condition[:1], torch.ones(1) if own.exposure else None
        )

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """The means, ``(B, D)``."""
        given = _given(model, own, args)
        z = traces.guide_means(guide, args)[0]
        other = None if condition is None else condition[:1].to(z.device).expand(len(z), *condition.shape[1:])
        return (own.likelihood_at(z, given.get("condition") if other is None else other, given.get("exposure")).mean,)

    return map_blocks(of_block, model, guide, x, seed)[0]


@takes_any_data
@torch.no_grad()
def impute(
    model: Pair,
    guide: Pair,
    x: Data,
    num_samples: int = 1000,
    draws: int = 0,
    *,
    seed: int = 0,
    progress: AfterBlock | None = None,
) -> Imputed:
    r"""Estimates of missing values, by importance sampling with the guide.

    .. math:: \mathbb{E}[x_d \mid x_{\text{obs}}] \approx \sum_s w_s\, \mathbb{E}[x_d \mid z_s], \quad
              w_s \propto \frac{p(x_{\text{obs}}, z_s)}{q(z_s \mid x_{\text{obs}})}, \quad z_s \sim q

    Draws are taken at latents drawn again with these weights.

    Oracle: the conditional distribution of a linear-Gaussian pair.

    Arguments:
        model: The model, a :class:`~pyro_aevb.GenerativeModel` made with ``missing=True``.
        guide: Its guide.
        x: Data, ``(B, D)``, NaN where a value is missing, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of importance samples for each datum.
        draws: Number of draws of the missing values of each datum.
        seed: Seed of the draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.

    Raises:
        InputError: If the model was not made with ``missing=True``; if a count is out of range; if the pair cannot be
            run on the data.

    References:
        | MIWAE: deep generative modelling and imputation of incomplete data (Mattei & Frellsen, 2019)
        | https://arxiv.org/abs/1812.02633
    """
    whole("num_samples", num_samples)
    whole("draws", draws, least=0)
    own = _own(model, "impute")
    if not own.missing:
        raise InputError("impute needs a model that knows what NaN means: make model and guide with missing=True")
    of_block = partial(_imputed, model, own, traces.Particles(model, guide), num_samples, draws)
    mean, drawn, effective = map_blocks(of_block, model, guide, x, seed, progress)
    return Imputed(mean, drawn.transpose(0, 1), effective)


def _imputed(
    model: Pair,
    own: GenerativeModel,
    pair: traces.Particles,
    num_samples: int,
    draws: int,
    args: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Impute a block of data: the mean, ``(B, D)``, draws, ``(B, draws, D)``, effective number of samples, ``(B,)``."""
    given = _given(model, own, args)
    chunks = list(weighted_draws(pair, args, num_samples))
    z = torch.cat([latents["z"] for latents, _ in chunks])  # (S, B, K)
    log_weight = not_nan(torch.cat([weight for _, weight in chunks]), "an importance weight")
    log_weight = log_weight - log_weight.logsumexp(0)  # (S, B)
    x = given["x"].flatten(1).to(z)
    missing = x.isnan()
    drawn = x.expand(draws, *x.shape)
    if draws:
        chosen = torch.distributions.Categorical(logits=log_weight.T).sample((draws,))  # (draws, B)
        at = z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))  # (draws, B, K)
        drawn = torch.where(missing, _at(own, given, at).sample().view(draws, *x.shape).to(x), x)
    mean = torch.where(missing, _weighted(own, given, z, log_weight), x)
    return mean, drawn.transpose(0, 1), (-(2 * log_weight).logsumexp(0)).exp()


def _weighted(own: GenerativeModel, given: dict[str, Any], z: Tensor, log_weight: Tensor) -> Tensor:
    """The weighted mean over particles of the likelihood's means, ``(B, D)``, so many particles at once as fit."""
    at_once = max(1, AT_ONCE // (z.shape[1] * own.likelihood.data_dim))
    total: Any = 0
    for rows in torch.arange(len(z)).split(at_once):
        each = _each(_at(own, given, z[rows]))
        found = each.expectations() if isinstance(each, ByColumn) else each.mean  # (s B, F)
        weight = log_weight[rows].exp().unsqueeze(-1)  # (s, B, 1)
        total = total + (weight * found.unflatten(0, weight.shape[:2])).sum(0)
    return each.centre(total) if isinstance(each, ByColumn) else total


def _each(made: Any) -> Any:
    """The distribution of single numbers."""
    product = made.product if isinstance(made, PartlyObserved) else made
    return product.base_dist


@torch.no_grad()
def sample(
    model: GenerativeModel,
    count: int,
    *,
    condition: Tensor | None = None,
    exposure: Tensor | None = None,
    mean: bool = False,
    seed: int = 0,
) -> Tensor:
    """Draws of data, ``(count, D)``: z from the model's own prior, then x from p(x|z,c).

    Arguments:
        model: The model.
        count: Number of draws.
        condition: The condition of each draw, ``(count,)`` whole numbers or ``(count, C)``.
        exposure: The exposure of each draw, ``(count,)``.
        mean: Whether to give the mean of p(x|z,c), as the paper's pictures show, in place of a draw x.
        seed: Seed of the draws; the caller's random state is left alone.

    Raises:
        InputError: If the model is no :class:`~pyro_aevb.GenerativeModel`, or the condition does not suit it.
    """
    own = _own(model, "sample")
    whole("count", count)
    flag("mean", mean)
    weights = next((p for p in own.parameters() if p.is_floating_point()), torch.zeros(()))
    place = weights.new_zeros(count, 1)
    given = {"condition": condition, "exposure": exposure}
    condition, exposure = (
        None if part is None else instance(name, part, Tensor).to(place.device) for name, part in given.items()
    )
    own.check_data(place, condition, exposure)
    with seeded(derive(seed, "evaluation"), place.device), evaluating([own]):
        prior = own.prior_at(condition, place)
        z = (prior if prior.batch_shape else prior.expand((count,))).sample()  # (count, K)
        made = own.likelihood_at(z, condition, exposure)
        return made.mean if mean else made.sample()


def _own(model: Pair, what: str) -> GenerativeModel:
    """The model, if it knows its likelihood by itself."""
    found: Any = own_module(model) or model
    return instance("model", found, GenerativeModel, f"{what} needs to know its likelihood p(x|z)")


def _given(model: Pair, own: GenerativeModel, args: tuple[Tensor, ...]) -> dict[str, Any]:
    """The model's arguments by name, ``x``, ``condition``, ``exposure``, for the tensors of a block."""
    positional, keywords = model.form.arguments(args) if isinstance(model, Called) else (args, {})
    return inspect.signature(own.forward).bind(*positional, **keywords).arguments


def _at(own: GenerativeModel, given: dict[str, Any], z: Tensor) -> Any:
    """p(x|z,c) at latents ``(S, B, K)``, batch shape ``(S B,)``: layers may read dimension 1 of what they are given."""
    beside = (given.get(name) for name in ("condition", "exposure"))
    repeated = (None if part is None else part.repeat(len(z), *(1 for _ in part.shape[1:])) for part in beside)
    return own.likelihood_at(z.flatten(0, 1), *repeated)
