"""Distributions that torch and Pyro lack: the rest of the paper's section 2.4, and some of pixels."""

from pyro_aevb.distributions import kl as _kl  # noqa: F401  registers closed forms
from pyro_aevb.distributions.columns import ByColumn
from pyro_aevb.distributions.missing import PartlyObserved
from pyro_aevb.distributions.mixtures import NormalMixture
from pyro_aevb.distributions.normals import PreciseLowRankMultivariateNormal, PreciseMultivariateNormal
from pyro_aevb.distributions.pixels import ContinuousBernoulli, DiscretizedLogistic, GridCategorical
from pyro_aevb.distributions.section_2_4 import (
    EllipticalLaplace,
    Erlang,
    Gompertz,
    InverseCDF,
    Rayleigh,
    Reciprocal,
    Triangular,
)

__all__ = [
    "ByColumn",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "EllipticalLaplace",
    "Erlang",
    "Gompertz",
    "GridCategorical",
    "InverseCDF",
    "NormalMixture",
    "PartlyObserved",
    "PreciseLowRankMultivariateNormal",
    "PreciseMultivariateNormal",
    "Rayleigh",
    "Reciprocal",
    "Triangular",
]
