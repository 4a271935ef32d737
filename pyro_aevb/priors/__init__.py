"""Priors p(z), how latents are distributed before any datum is seen.

A new one is one class: subclass :class:`~pyro_aevb.priors.base.Prior` and return a Pyro distribution.
"""

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
