"""Likelihoods p(x|z), what the data are like given the latents.

A new one is one class: subclass :class:`~pyro_aevb.likelihoods.base.Likelihood` and return a Pyro distribution.
"""

from pyro_aevb.likelihoods.base import Likelihood as Likelihood
from pyro_aevb.likelihoods.binary import Bernoulli, ContinuousBernoulli
from pyro_aevb.likelihoods.columns import Columns
from pyro_aevb.likelihoods.discrete import Categorical, DiscretizedLogistic, NegativeBinomial, Poisson
from pyro_aevb.likelihoods.family import Family
from pyro_aevb.likelihoods.real import Beta, Gaussian, Laplace

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Family",
    "Gaussian",
    "Laplace",
    "NegativeBinomial",
    "Poisson",
]
