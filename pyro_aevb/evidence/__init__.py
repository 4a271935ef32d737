r"""log p(x) and its lower bound, per datum, in nats, unscaled, larger is better.

A result is a function of the data, in their order, and the seed. Latents are drawn for ``DATA_BLOCK`` data at a time,
each block with a seed of its own, and ``chunk_size`` only says for how many of them the model is run at once. Modules
are put in ``eval()`` and back; the caller's random state and parameter store are left as they were.
"""

from pyro_aevb.evaluation import DATA_BLOCK
from pyro_aevb.evidence.annealed import AnnealedWeights, Bracket, annealed_importance_sampling, bidirectional
from pyro_aevb.evidence.bounds import BoundParts, active_units, activity, bound, posterior_means
from pyro_aevb.evidence.exact import linear_gaussian
from pyro_aevb.evidence.importance import FEWEST_FOR_A_TAIL, WeightSums, importance_sampling, importance_weights
from pyro_aevb.evidence.posterior_density import PosteriorDensity, appendix_d

__all__ = [
    "DATA_BLOCK",
    "FEWEST_FOR_A_TAIL",
    "AnnealedWeights",
    "BoundParts",
    "Bracket",
    "PosteriorDensity",
    "WeightSums",
    "active_units",
    "activity",
    "annealed_importance_sampling",
    "appendix_d",
    "bidirectional",
    "bound",
    "importance_sampling",
    "importance_weights",
    "linear_gaussian",
    "posterior_means",
]
