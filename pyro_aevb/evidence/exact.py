"""log p(x) exactly, where prior and likelihood are Gaussian and the mean is linear: probabilistic PCA."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.distributions import PartlyObserved
from pyro_aevb.errors import InputError
from pyro_aevb.evaluation import Data, map_blocks, not_nan
from pyro_aevb.pairs import Pair

__all__ = ["linear_gaussian"]

PROBES = 3
NORMALS = (torch.distributions.Normal, dist.Normal)
MULTIVARIATE_NORMALS = (MultivariateNormal, dist.MultivariateNormal)


@takes_any_data
def linear_gaussian(model: Pair, x: Data) -> Tensor:
    r"""The exact log p(x) of each datum, ``(B,)``, in nats, of a linear-Gaussian model.

    .. math:: z \sim N(m, S), \quad x \sim N(Wz + b, \Psi) \quad\Rightarrow\quad
              x \sim N(Wm + b, W S W^\top + \Psi)

    That the model is linear and Gaussian is checked at random latents, not proved.

    Oracle: the formula by hand, of pairs with known W.

    Arguments:
        model: The model, one latent vector and one observed vector for each datum.
        x: Data, ``(B, D)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.

    Raises:
        InputError: If the model is not linear and Gaussian: names what is not.

    References:
        | Probabilistic principal component analysis (Tipping & Bishop, 1999)
        | https://doi.org/10.1111/1467-9868.00196
    """
    return map_blocks(lambda args: (_of_block(model, args),), model, model, x, seed=0)[0]


@torch.no_grad()
def _of_block(model: Pair, args: tuple[Tensor, ...]) -> Tensor:
    priors, likelihoods = traces.distributions(model, args)
    if len(priors) != 1 or len(likelihoods) != 1:
        raise InputError(
            f"the model has {len(priors)} latent and {len(likelihoods)} observed sites, not one of each: no closed "
            "form of log p(x) is known"
        )
    ((name, prior),) = priors.items()
    ((seen, (_, x)),) = likelihoods.items()
    mean, covariance = _moments(prior, "prior")  # (B, K), (B, K, K)
    dim = mean.shape[-1]
    probes = torch.cat([mean.new_zeros(1, dim), torch.eye(dim).to(mean), torch.randn(PROBES, dim).to(mean)])  # (P, K)
    # One probe at a time, so that networks see what they always do.
    at_probes = [traces.distributions(model, args, {name: p.expand(len(x), -1)})[1][seen][0] for p in probes]
    moments = [_moments(distribution, "likelihood") for distribution in at_probes]
    means, noise = (torch.stack(part) for part in zip(*moments, strict=True))  # (P, B, D), (P, B, D, D)
    not_nan(means.flatten(2).sum(-1), "the likelihood's mean")
    offset = means[0]  # (B, D)
    weight = (means[1 : 1 + dim] - offset).permute(1, 2, 0)  # (B, D, K)
    _check_linear(means, torch.einsum("bdk,pk->pbd", weight, probes) + offset, noise)
    location = (weight @ mean.unsqueeze(-1)).squeeze(-1) + offset  # (B, D)
    total = weight @ covariance @ weight.transpose(1, 2) + noise[0]  # (B, D, D)
    return _of_observed(location, total, x)


def _of_observed(location: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    """The density of the numbers that are not NaN, ``(B,)``: in place of the others stand others at their means."""
    missing = x.isnan()
    beside = missing.unsqueeze(-1) | missing.unsqueeze(-2)  # (B, D, D)
    alone = torch.where(beside, torch.eye(x.shape[-1]).to(covariance).expand_as(covariance), covariance)
    given = torch.where(missing, location, x)
    whole = MultivariateNormal(location, alone, validate_args=False).log_prob(given)
    return whole + missing.sum(-1).to(whole) * math.log(2 * math.pi) / 2


def _check_linear(means: Tensor, linear: Tensor, noise: Tensor) -> None:
    if not torch.allclose(linear, means, rtol=1e-4, atol=1e-4 * float(means.abs().max())):
        raise InputError("the likelihood's mean is not linear in the latent: no closed form of log p(x) is known")
    if not torch.allclose(noise, noise[:1].expand_as(noise), rtol=1e-4):
        raise InputError("the likelihood's scale depends on the latent: no closed form of log p(x) is known")


def _moments(distribution: Any, what: str) -> tuple[Tensor, Tensor]:
    """Mean, ``(..., D)``, and covariance, ``(..., D, D)``, of a Gaussian."""
    base = distribution
    while isinstance(base, torch.distributions.Independent | PartlyObserved):
        base = base.product if isinstance(base, PartlyObserved) else base.base_dist
    # A subclass may have a density of its own: no distribution is taken for the one that it extends.
    if type(base) not in (*NORMALS, *MULTIVARIATE_NORMALS) or len(distribution.event_shape) != 1:
        raise InputError(f"the {what} is no Gaussian over vectors: no closed form of log p(x) is known")
    if type(base) in MULTIVARIATE_NORMALS:
        return base.mean, base.covariance_matrix
    return base.mean, torch.diag_embed(base.variance)
