"""Log densities of a (model, guide) pair, read from its traces: the only folder that touches ``pyro.poutine``.

A density is written once, in its distribution; what follows only runs the two Pyro functions and adds up.
Shapes: ``S`` particles at ``dim=-2``, ``B`` data at ``dim=-1``.
"""

from pyro_aevb.traces.densities import (
    LogDensities,
    PathDensities,
    guide_means,
    log_densities,
    log_joint,
    path_densities,
    per_datum_kl,
    sample_guide,
)
from pyro_aevb.traces.dreams import Dream, dream, dream_log_guide
from pyro_aevb.traces.first import FirstRun, check_guide, first_run, met_parameters
from pyro_aevb.traces.latents import LatentSpace, distributions, latent_space
from pyro_aevb.traces.lifted import given_weights
from pyro_aevb.traces.sites import (
    analytic_kl,
    check_reparameterised,
    latent_sites,
    log_likelihood_sum,
    observed_sites,
    pair_trace,
    reparameterised,
    score_function_sum,
    without_gradient,
)

__all__ = [
    "Dream",
    "FirstRun",
    "LatentSpace",
    "LogDensities",
    "PathDensities",
    "analytic_kl",
    "check_guide",
    "check_reparameterised",
    "distributions",
    "dream",
    "dream_log_guide",
    "first_run",
    "given_weights",
    "guide_means",
    "latent_sites",
    "latent_space",
    "log_densities",
    "log_joint",
    "log_likelihood_sum",
    "met_parameters",
    "observed_sites",
    "pair_trace",
    "path_densities",
    "per_datum_kl",
    "reparameterised",
    "sample_guide",
    "score_function_sum",
    "without_gradient",
]
