r"""log p(x) and its lower bound, per datum, in nats, unscaled, larger is better.

A result is a function of the data, in their order, and the seed. Latents are drawn for ``DATA_BLOCK`` data at a time,
each block with a seed of its own, and ``chunk_size`` only says for how many of them the model is run at once. Modules
are put in ``eval()`` and back; the caller's random state and parameter store are left as they were.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro.params import module_from_param_with_module_name
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, evaluating, modules_of
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

Data = Tensor | tuple[Tensor, ...]
Result = TypeVar("Result")


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
        InputError: If ``num_samples`` is not positive, or the pair has sites outside the data plate.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be at least 1, not {num_samples}")
    blocks = _map_blocks(partial(_bound_of_block, model, guide, num_samples), model, guide, x, seed)
    return BoundParts(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _bound_of_block(model: Pair, guide: Pair, num_samples: int, args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
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

    def sums_of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        weights = torch.cat(list(_log_weights(model, guide, args, num_samples, chunk_size)))  # (S, B)
        return weights.logsumexp(0), (2 * weights).logsumexp(0)

    sums = _map_blocks(sums_of_block, model, guide, x, seed, progress)
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


def _map_blocks(
    function: Callable[..., Result],
    model: Pair,
    guide: Pair,
    x: Data,
    seed: int,
    progress: Callable[[int], Any] | None = None,
) -> list[Result]:
    """Apply a function to blocks of data on the pair's device, each with noise of its own, in evaluation mode."""
    data = x if isinstance(x, tuple) else (x,)
    if len(data[0]) == 0:
        raise InputError("there are no data to evaluate: the data set is empty")
    parameters = (p for module in modules_of(model, guide).values() for p in module.parameters())
    device = next((p.device for p in parameters), data[0].device)
    results = []
    with _params_as_they_are(model, guide), evaluating(model, guide):
        for i, block in enumerate(zip(*(d.split(DATA_BLOCK) for d in data), strict=True)):
            with seeded(derive(seed, "evaluation", i), device):
                results.append(function(tuple(d.to(device) for d in block)))
            if progress:
                progress(len(block[0]))
    return results


@contextmanager
def _params_as_they_are(model: Pair, guide: Pair) -> Iterator[None]:
    """Use the current parameter store, add nothing to it, and warn where a ``pyro.param`` had no value there."""
    store = pyro.get_param_store()
    state: Any = store.get_state()
    before = set(state["params"])
    with store.scope(state):
        yield
    own = {id(p) for module in modules_of(model, guide).values() for p in module.parameters()}
    new = [name for name, p in state["params"].items() if name not in before and id(p) not in own]
    # What pyro.module registers is read from its module, whatever the store has.
    if new := [name for name in new if module_from_param_with_module_name(name) == name]:
        warnings.warn(
            f"evaluated at initial values: the parameter store does not have {new[0]!r}, nor {len(new) - 1} more that "
            "pyro.param made; evaluate a trained pair inside 'with trainer.param_store()'",
            stacklevel=4,
        )


@torch.no_grad()
def posterior_means(guide: Pair, x: Data, *, seed: int = 0) -> Tensor:
    """Mean of q(z|x) for each datum, ``(B, K)``, all latent sites side by side; one draw where no mean is known."""
    return torch.cat(_map_blocks(partial(_mean_of_block, guide), guide, guide, x, seed))


def _mean_of_block(guide: Pair, args: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([mean.flatten(1) for mean in traces.guide_means(guide, args)], dim=-1)


def active_units(guide: Pair, x: Data, threshold: float = 0.01) -> int:
    r"""Number of latent dimensions whose posterior mean varies over the data: :math:`\mathrm{Var}_x(E_q[z_k]) > 0.01`.

    References:
        | Importance Weighted Autoencoders, section 5.1 (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """
    return int((posterior_means(guide, x).var(0) > threshold).sum())
