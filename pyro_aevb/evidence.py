r"""log p(x) and its lower bound, per datum, in nats, unscaled, larger is better.

Nothing here depends on how the work is cut. Latents are drawn in blocks of ``DATA_BLOCK`` data, each with its own seed,
and ``chunk_size`` only says for how many of them the model is run at once. Modules are put in ``eval()`` and back.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.errors import InputError
from pyro_aevb.seeds import derive, seeded

__all__ = [
    "BoundParts",
    "WeightSums",
    "active_units",
    "bound",
    "importance_sampling",
    "importance_weights",
    "posterior_means",
]

DATA_BLOCK = 100
SAMPLE_BLOCK = 1000

Pair = Callable[..., Any]
Data = Tensor | tuple[Tensor, ...]


class BoundParts(NamedTuple):
    """The two terms of the bound, ``(B,)`` each, in nats."""

    log_likelihood: Tensor
    """E_q[log p(x|z)]"""
    kl: Tensor
    """KL(q(z|x) || p(z))"""

    @property
    def bound(self) -> Tensor:
        """E_q[log p(x|z)] - KL(q(z|x) || p(z)), ``(B,)``."""
        return self.log_likelihood - self.kl


class WeightSums(NamedTuple):
    """What importance sampling keeps of the weights w = p(x, z) / q(z|x): two logarithms of sums, ``(B,)`` each."""

    log_sum: Tensor
    """log sum_s w_s"""
    log_sum_squares: Tensor
    """log sum_s w_s^2"""
    num_samples: int

    @property
    def log_likelihood(self) -> Tensor:
        r"""Estimate of log p(x), ``(B,)``: :math:`\log \frac1S \sum_s w_s`, in expectation a lower bound."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def standard_error(self) -> Tensor:
        r"""Its Monte Carlo standard error, ``(B,)``, to first order: :math:`\sqrt{\sum w^2 / (\sum w)^2 - 1/S}`."""
        return ((self.log_sum_squares - 2 * self.log_sum).exp() - 1 / self.num_samples).clamp(min=0).sqrt()


@torch.no_grad()
def bound(model: Pair, guide: Pair, x: Data, num_samples: int = 1, *, seed: int = 0) -> BoundParts:
    r"""The evidence lower bound of each datum, in its parts.

    .. math:: \mathcal L(x) = \mathbb E_{q(z|x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \tag{3}

    The first term is averaged over ``num_samples`` draws. The second is exact where a closed form is registered, and
    averaged over the same draws where not.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        x: Data, ``(B, ...)``, or a tuple of what model and guide take.
        num_samples: Draws per datum.
        seed: Seed of the draws; the caller's random state is left alone.

    Returns:
        The two parts, ``(B,)`` each, in nats; ``.bound`` is their difference.

    Raises:
        InputError: If the pair has sites outside the data plate.
    """
    blocks = [_bound_of_block(model, guide, args, num_samples) for args in _blocks(model, guide, x, seed)]
    return BoundParts(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _bound_of_block(model: Pair, guide: Pair, args: tuple[Tensor, ...], num_samples: int) -> tuple[Tensor, Tensor]:
    densities = traces.log_densities(model, guide, args, num_samples)
    kl = traces.per_datum_kl(model, guide, args)
    if kl is None:
        kl = (densities.log_guide - densities.log_prior).mean(0)
    return densities.log_likelihood.mean(0), kl


def importance_sampling(
    model: Pair, guide: Pair, x: Data, num_samples: int = 5000, *, chunk_size: int = 50, seed: int = 0
) -> Tensor:
    r"""log p(x) of each datum by importance sampling with the guide, ``(B,)``, in nats.

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S \frac{p(x, z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    Arguments, errors: as for :func:`importance_weights`, which also tells the standard error.
    """
    return importance_weights(model, guide, x, num_samples, chunk_size=chunk_size, seed=seed).log_likelihood


@torch.no_grad()
def importance_weights(
    model: Pair,
    guide: Pair,
    x: Data,
    num_samples: int = 5000,
    *,
    chunk_size: int = 50,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> WeightSums:
    """Sums of the importance weights of each datum: exactly ``num_samples`` draws for each.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        x: Data, ``(B, ...)``, or a tuple of what model and guide take.
        num_samples: Draws S per datum.
        chunk_size: Draws for which the model is run at once, for each of 100 data; changes memory, not numbers.
        seed: Seed of the draws; the caller's random state is left alone.
        progress: Called with the number of data finished after each block of data.

    Raises:
        InputError: If a count is not positive, or the pair has sites outside the data plate.
    """
    if min(num_samples, chunk_size) < 1:
        raise InputError(f"num_samples and chunk_size must be at least 1, not {num_samples} and {chunk_size}")
    sums = []
    for args in _blocks(model, guide, x, seed):
        weights = torch.cat(list(_log_weights(model, guide, args, num_samples, chunk_size)))  # (S, B)
        sums.append((weights.logsumexp(0), (2 * weights).logsumexp(0)))
        if progress:
            progress(len(args[0]))
    log_sum, log_sum_squares = (torch.cat(parts) for parts in zip(*sums, strict=True))
    return WeightSums(log_sum, log_sum_squares, num_samples)


def _log_weights(
    model: Pair, guide: Pair, args: tuple[Tensor, ...], num_samples: int, chunk_size: int
) -> Iterator[Tensor]:
    for start in range(0, num_samples, SAMPLE_BLOCK):
        count = min(SAMPLE_BLOCK, num_samples - start)
        latents, log_guide = traces.sample_guide(guide, args, count)
        for rows in torch.arange(count).split(chunk_size):
            chosen = {name: value[rows] for name, value in latents.items()}
            log_likelihood, log_prior = traces.log_joint(model, args, chosen, len(rows))
            yield log_likelihood + log_prior - log_guide[rows]  # (chunk, B)


def _blocks(model: Pair, guide: Pair, x: Data, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of data on the pair's device, each with its own noise, the pair in evaluation mode."""
    data = x if isinstance(x, tuple) else (x,)
    if len(data[0]) == 0:
        raise InputError("there are no data to evaluate: the data set is empty")
    device = next((p.device for m in (model, guide) for p in _parameters(m)), data[0].device)
    with _evaluating(model, guide):
        for i, block in enumerate(zip(*(d.split(DATA_BLOCK) for d in data), strict=True)):
            with seeded(derive(seed, "evaluation", i), device):
                yield tuple(d.to(device) for d in block)


def _parameters(function: Pair) -> Iterator[Tensor]:
    return function.parameters() if isinstance(function, nn.Module) else iter(())


@contextmanager
def _evaluating(*functions: Pair) -> Iterator[None]:
    parts = [part for f in functions if isinstance(f, nn.Module) for part in f.modules()]
    training = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, was in zip(parts, training, strict=True):
            part.training = was


@torch.no_grad()
def posterior_means(guide: Pair, x: Data, *, seed: int = 0) -> Tensor:
    """Mean of q(z|x) for each datum, ``(B, K)``, all latent sites side by side; one draw where no mean is known."""
    return torch.cat([_mean_of_block(guide, args) for args in _blocks(guide, guide, x, seed)])


def _mean_of_block(guide: Pair, args: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([mean.flatten(1) for mean in traces.guide_means(guide, args)], dim=-1)


def active_units(guide: Pair, x: Data, threshold: float = 0.01) -> int:
    r"""Number of latent dimensions whose posterior mean varies over the data: :math:`\mathrm{Var}_x(E_q[z_k]) > 0.01`.

    References:
        | Importance Weighted Autoencoders, section 5.1 (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """
    return int((posterior_means(guide, x).var(0) > threshold).sum())
