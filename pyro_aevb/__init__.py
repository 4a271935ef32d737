"""Auto-Encoding Variational Bayes on Pyro and PyTorch: model and guide as Pyro functions, every number checked."""

from pyro_aevb import (
    bayesian,
    data,
    diagnostics,
    estimators,
    evidence,
    guides,
    hmc,
    likelihoods,
    nn,
    optimizers,
    priors,
    sgvb,
    traces,
)
from pyro_aevb.ensemble import Ensemble
from pyro_aevb.errors import InputError, NonFiniteLossError
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.monte_carlo_em import MonteCarloEM
from pyro_aevb.progress import Progress
from pyro_aevb.seeds import seeded
from pyro_aevb.training import Trainer

__all__ = [
    "Ensemble",
    "GenerativeModel",
    "InputError",
    "MonteCarloEM",
    "NonFiniteLossError",
    "Progress",
    "RecognitionModel",
    "Trainer",
    "bayesian",
    "data",
    "diagnostics",
    "estimators",
    "evidence",
    "guides",
    "hmc",
    "likelihoods",
    "nn",
    "optimizers",
    "priors",
    "seeded",
    "sgvb",
    "traces",
]
