"""Guides q(z|x). A new one: subclass :class:`Guide`, return a Pyro distribution, done."""

from pyro_aevb.guides.base import Guide as Guide
from pyro_aevb.guides.family import Family
from pyro_aevb.guides.flow import Flow
from pyro_aevb.guides.mixture import Mixture
from pyro_aevb.guides.normal import DiagonalNormal, FullCovarianceNormal, LowRankNormal

__all__ = ["DiagonalNormal", "Family", "Flow", "FullCovarianceNormal", "LowRankNormal", "Mixture"]
