"""Closed forms of KL(q || p) that torch and Pyro lack, told to torch's own registry."""

import math
from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, kl

from pyro_aevb.distributions.normals import PreciseLowRankMultivariateNormal, PreciseMultivariateNormal

__all__: list[str] = []


def _kl_of_correlated_against_independent_normals(q: Any, p: Any) -> Tensor:
    r"""A correlated Gaussian against independent ones.

    .. math:: \mathrm{KL}\big(N(\mu, \Sigma) \,\|\, N(m, \mathrm{diag}\, s^2)\big) =
              \sum_k \tfrac12 \frac{\Sigma_{kk} + (\mu_k - m_k)^2}{s_k^2} + \log s_k + \tfrac12 \log 2\pi - H(q)

    Oracle: torch's closed form against a multivariate Gaussian with a diagonal covariance.
    """
    base = p.base_dist
    if not isinstance(base, (Normal, dist.Normal)) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    squares = (q.variance + (q.mean - base.loc) ** 2) / base.scale**2  # (..., K)
    cross_entropy = (squares / 2 + base.scale.log() + math.log(2 * math.pi) / 2).sum(-1)
    return cross_entropy - q.entropy()


# By their own names too: a class with a density of its own is not taken for the one that it extends.
for _q in (
    MultivariateNormal,
    LowRankMultivariateNormal,
    PreciseMultivariateNormal,
    PreciseLowRankMultivariateNormal,
):
    kl.register_kl(_q, Independent)(_kl_of_correlated_against_independent_normals)
