"""Log densities of a (model, guide) pair, read from its traces: the only folder that touches ``pyro.poutine``.

A density is written once, in its distribution; what follows only runs the two Pyro functions and adds up.
Shapes: ``S`` particles at ``dim=-2``, ``B`` data at ``dim=-1``.
"""

from pyro_aevb.traces.agreement import check_agreement, check_factors, check_no_factors, check_no_point_masses
from pyro_aevb.traces.densities import (
    LogDensities,
    Particles,
    PathDensities,
    draw,
    guide_means,
    guide_scales,
    log_densities,
    log_guide_at,
    log_joint_of,
    per_datum_kl,
)
from pyro_aevb.traces.dreams import Dream, dream, dream_log_guide
from pyro_aevb.traces.first import FirstRun, check_guide, first_run, met_parameters
from pyro_aevb.traces.latents import LatentSpace, distributions, latent_space
from pyro_aevb.traces.lifted import given_weights
from pyro_aevb.traces.observed import Observed, check_observed, check_values, observed
from pyro_aevb.traces.parts import modules_of, moved_parts, refused_in_one_line
from pyro_aevb.traces.plates import without_looking
from pyro_aevb.traces.scores import Score, Term, Tracked, analytic_terms, has_baseline, sampled_terms, scores, untracked
from pyro_aevb.traces.sites import (
    UnknownDensityError,
    Unvalidated,
    drawn_after_their_parents,
    has_own_density,
    kl_with_free_bits,
    latent_sites,
    log_likelihood_sum,
    log_weight_sum,
    observed_sites,
    pair_trace,
    reparameterised,
    site_kl,
    without_gradient,
)
from pyro_aevb.traces.ways import Choices

__all__ = [
    "Choices",
    "Dream",
    "FirstRun",
    "LatentSpace",
    "LogDensities",
    "Observed",
    "Particles",
    "PathDensities",
    "Score",
    "Term",
    "Tracked",
    "UnknownDensityError",
    "Unvalidated",
    "analytic_terms",
    "check_agreement",
    "check_factors",
    "check_guide",
    "check_no_factors",
    "check_no_point_masses",
    "check_observed",
    "check_values",
    "distributions",
    "draw",
    "drawn_after_their_parents",
    "dream",
    "dream_log_guide",
    "first_run",
    "given_weights",
    "guide_means",
    "guide_scales",
    "has_baseline",
    "has_own_density",
    "kl_with_free_bits",
    "latent_sites",
    "latent_space",
    "log_densities",
    "log_guide_at",
    "log_joint_of",
    "log_likelihood_sum",
    "log_weight_sum",
    "met_parameters",
    "modules_of",
    "moved_parts",
    "observed",
    "observed_sites",
    "pair_trace",
    "per_datum_kl",
    "refused_in_one_line",
    "reparameterised",
    "sampled_terms",
    "scores",
    "site_kl",
    "untracked",
    "without_gradient",
    "without_looking",
]
