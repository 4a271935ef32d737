r"""Full variational Bayes, Appendix F: a posterior over the model's weights, besides the one over each datum's latents.

.. math:: f(x, z, \theta) = N \big(\log p(x \mid z, \theta) + \log p(z) - \log q(z \mid x)\big)
          + \log p(\theta) - \log q(\theta) \tag{21}

:func:`bayesian` turns any pair into one whose weights are global latents. :class:`~pyro_aevb.estimators.SGVB` on it is
(22), :class:`~pyro_aevb.estimators.SGVBAnalyticKL` is (24), and ``Trainer`` trains it. Give ``Trainer`` an optimizer
without ``weight_decay``: the default one's is the prior of a plain training, and would now be a second prior.

The pair's plate must know the number of data N (``size=N``), since the weights' terms count once for all the data.
"""

from pyro_aevb.bayesian.evaluation import (
    MarginalLikelihoodBound,
    draw_model,
    marginal_likelihood_bound,
    posterior_predictive,
    predictive_log_likelihood,
)
from pyro_aevb.bayesian.pair import BayesianGuide, BayesianModel, bayesian

__all__ = [
    "BayesianGuide",
    "BayesianModel",
    "MarginalLikelihoodBound",
    "bayesian",
    "draw_model",
    "marginal_likelihood_bound",
    "posterior_predictive",
    "predictive_log_likelihood",
]
