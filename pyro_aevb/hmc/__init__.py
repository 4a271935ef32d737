"""Hamiltonian Monte Carlo, batched: the algorithm, and draws from a model's posterior by it."""

from pyro_aevb.hmc.kernel import Info, State, adapted, init, jittered, leapfrog, step, with_gradient
from pyro_aevb.hmc.posterior import Samples, sample_posterior

__all__ = [
    "Info",
    "Samples",
    "State",
    "adapted",
    "init",
    "jittered",
    "leapfrog",
    "sample_posterior",
    "step",
    "with_gradient",
]
