"""Priors p(z). A new one: subclass :class:`Prior`, return a Pyro distribution, done."""

from pyro_aevb.priors.base import Prior as Prior
from pyro_aevb.priors.conditional import ConditionalNormal
from pyro_aevb.priors.family import Family
from pyro_aevb.priors.flow import Flow
from pyro_aevb.priors.independent import Laplace, LearnedNormal, StandardNormal, StudentT
from pyro_aevb.priors.mixtures import GaussianMixture, VampPrior

__all__ = [
    "ConditionalNormal",
    "Family",
    "Flow",
    "GaussianMixture",
    "Laplace",
    "LearnedNormal",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]
