"""Guides q(z|x), approximations of the posterior p(z|x) that a network makes of each datum.

A new one is one class: subclass :class:`~pyro_aevb.guides.base.Guide` and return a Pyro distribution.
"""

from pyro_aevb.guides.base import Guide as Guide
from pyro_aevb.guides.family import Family
from pyro_aevb.guides.flow import Flow
from pyro_aevb.guides.mixture import Mixture
from pyro_aevb.guides.normal import DiagonalNormal, FullCovarianceNormal, LowRankNormal

__all__ = ["DiagonalNormal", "Family", "Flow", "FullCovarianceNormal", "LowRankNormal", "Mixture"]
