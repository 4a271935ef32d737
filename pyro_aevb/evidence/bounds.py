"""The evidence lower bound in its parts, and what the guide makes of its latents."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.errors import InputError, function, real, whole
from pyro_aevb.evaluation import Data, map_blocks, not_nan
from pyro_aevb.pairs import Pair
from pyro_aevb.views import NATS, html_table, mean_row

__all__ = ["BoundParts", "active_units", "activity", "bound", "posterior_means"]


class BoundParts(NamedTuple):
    """The two terms of the bound, ``(B,)`` each, in nats."""

    log_likelihood: Tensor
    """Mean of log p(x|z) over z from q(z|x), the expected log-likelihood: the paper's negative reconstruction error"""
    kl: Tensor
    """KL(q(z|x) || p(z))"""

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound of each datum, ``log_likelihood`` - ``kl``, ``(B,)``, in nats."""
        return self.log_likelihood - self.kl

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data."""
        parts = {"bound": self.bound, "log p(x|z)": self.log_likelihood, "KL(q(z|x) || p(z))": self.kl}
        rows = [mean_row(name, values) for name, values in parts.items()]
        return html_table(rows, NATS, f"Bound of {len(self.kl):,} data")


@takes_any_data
@torch.no_grad()
def bound(model: Pair, guide: Pair, x: Data, num_samples: int = 1, *, seed: int = 0) -> BoundParts:
    r"""The evidence lower bound of each datum, in its parts.

    .. math:: \mathcal L(x) = \mathbb E_{q(z|x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \tag{3}

    The first term is averaged over ``num_samples`` draws. The second is exact where a closed form is registered, and
    averaged over the same draws where not.

    Oracle: the exact log p(x) of a linear-Gaussian pair, less the KL of its guide from the exact posterior.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws from the guide per datum.
        seed: Seed of the draws; the caller's random state is left alone.

    Returns:
        The two parts, ``(B,)`` each, in nats; ``.bound`` is their difference. Where a latent belongs to no datum they
        are of all data together, ``(1,)``.

    Raises:
        InputError: If ``num_samples`` is no whole number of at least 1, or the pair has no log-weights.
    """
    whole("num_samples", num_samples)
    pair = traces.Particles(model, guide)
    return BoundParts(*map_blocks(partial(_bound_of_block, pair, num_samples), model, guide, x, seed))


def _bound_of_block(pair: traces.Particles, num_samples: int, args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    densities = pair.log_densities(args, num_samples)
    not_nan(densities.log_weight, "log p(x, z) - log q(z|x)")
    kl = None if pair.is_joint(args) else traces.per_datum_kl(pair.model, pair.guide, args)
    if kl is None:
        kl = (densities.log_guide - densities.log_prior).mean(0)
    return densities.log_likelihood.mean(0), kl


@takes_any_data
@torch.no_grad()
def posterior_means(guide: Pair, x: Data, *, seed: int = 0) -> Tensor:
    """Mean of q(z|x), ``(B, K)``, all latent sites side by side.

    An average of draws stands for it where no mean is known, or where it depends on the draw of another latent.

    Arguments:
        guide: The guide, any Pyro function.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        seed: Seed of such draws; the caller's random state is left alone.

    Raises:
        InputError: If a mean is NaN.
    """
    return _means(guide, x, seed)[0]


def _means(guide: Pair, x: Data, seed: int) -> list[Tensor]:
    function("guide", guide)
    return map_blocks(partial(_means_of_block, guide), guide, guide, x, seed)


def _means_of_block(guide: Pair, args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    means, noise = traces.guide_means(guide, args)
    not_nan(means.T, "the mean of q(z|x)")
    return means, noise


@takes_any_data
@torch.no_grad()
def activity(guide: Pair, x: Data, *, seed: int = 0) -> Tensor:
    r"""Variance over data of each latent's posterior mean, ``(K,)``: :math:`\mathrm{Var}_x(\mathbb E_q[z_k])`.

    Where no mean is known, so that an average of draws stands for it, the variance of that average is taken off.

    Arguments:
        guide: The guide, any Pyro function.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        seed: Seed of such draws; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, or a mean is NaN.
    """
    means, noise = _means(guide, x, seed)
    if len(means) < 2:
        raise InputError("activity compares data with one another: give at least 2")
    return means.var(0) - noise.mean(0)


def active_units(guide: Pair, x: Data, threshold: float = 0.01) -> int:
    r"""Number of latent dimensions whose posterior mean varies over the data: whose :func:`activity` is above 0.01.

    Arguments:
        guide: The guide, any Pyro function.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        threshold: The variance above which a dimension counts as active, at least 0.

    Raises:
        InputError: If there are fewer than 2 data, a mean is NaN, or ``threshold`` is negative.

    References:
        | Importance Weighted Autoencoders, section 5.1 (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
    """
    return int((activity(guide, x) > real("threshold", threshold, least=0)).sum())
