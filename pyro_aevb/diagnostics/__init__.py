r"""What a trained pair makes of its latents, and what its bound misses: numbers per datum in nats, and words.

.. math:: \log p(x) - \mathcal L(x) = \text{approximation gap} + \text{amortisation gap}, \quad
          \mathbb E[\mathrm{KL}(q(z|x) \,\|\, p(z))] = I_q(x; z) + \mathrm{KL}(q(z) \,\|\, p(z))

For a pair with one latent site, a vector for each datum. As in :mod:`pyro_aevb.evidence`, a result is a function of the
data, in their order, and the seed; modules are put in ``eval()`` and back.
"""

from pyro_aevb.diagnostics.aggregate import AggregatePosterior, aggregate_posterior
from pyro_aevb.diagnostics.diagnosis import Diagnostics, decoder_use, diagnose
from pyro_aevb.diagnostics.gaps import Gaps, inference_gaps
from pyro_aevb.diagnostics.latents import LatentKL, latent_kl
from pyro_aevb.evaluation import Mean, mean_of

__all__ = [
    "AggregatePosterior",
    "Diagnostics",
    "Gaps",
    "LatentKL",
    "Mean",
    "aggregate_posterior",
    "decoder_use",
    "diagnose",
    "inference_gaps",
    "latent_kl",
    "mean_of",
]
