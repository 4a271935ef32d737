"""Auto-Encoding Variational Bayes on Pyro and PyTorch: model and guide as Pyro functions, every number checked.

::

    import pyro_aevb as aevb

    data = aevb.data.load("digits", binarize="dynamic")
    model = aevb.GenerativeModel(
        prior=aevb.priors.StandardNormal(5),
        likelihood=aevb.likelihoods.Bernoulli(5, 64, hidden=[200], activation="tanh"),
        size=len(data.train),
    )
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 5, hidden=[200]), size=len(data.train))
    trainer = aevb.Trainer(model, guide, data.train, estimator=aevb.estimators.SGVB(), batch_size=100, seed=0)
    for progress in trainer.run(samples=100_000):
        print(progress.samples_seen, progress.bound)
    log_px = aevb.evidence.importance_sampling(model, guide, data.test, num_samples=1000)  # (B,), nats

The rooms of the package, in an order to read them in:

=====================================================  =================================================================
``errors``, ``seeds``, ``process``, ``hardware``,      the ground: refusals, streams of noise, the processor, files and
``files``, ``states``, ``pairs``                       saved states, what a pair is made of
``nn``, ``distributions``, ``priors``,                 the parts that a model and a guide are made of, each of which
``likelihoods``, ``guides``, ``conditions``,           returns a Pyro distribution
``models``
``traces``                                             log densities of a pair, per datum and particle
``estimators``, ``sgvb``, ``optimizers``               the objectives; the paper's by hand, without Pyro; what steps
``data``                                               loading, checks, splits, binarisation, minibatches
``engines``                                            how a step is taken: through Pyro, or from a recording
``training``                                           Algorithm 1, Monte Carlo EM, several trainings at once
``hmc``                                                Hamiltonian Monte Carlo and draws from a posterior
``evaluation``, ``evidence``, ``diagnostics``,         what a trained pair is worth
``bayesian``, ``predictions``                          and what it makes of data
``plots``, ``runs``, ``cli``                           pictures, runs on disk, the command line
``testing``                                            the contracts of parts, as functions that check yours
=====================================================  =================================================================
"""

from pyro_aevb import started  # noqa: F401  # before all others

# isort: split

from typing import TYPE_CHECKING, Any

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
    predictions,
    priors,
    sgvb,
    traces,
)
from pyro_aevb.errors import InputError, NonFiniteLossError
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.seeds import seeded
from pyro_aevb.training.early_stopping import EarlyStopping
from pyro_aevb.training.ensemble import Ensemble
from pyro_aevb.training.monte_carlo_em import MonteCarloEM
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer

if TYPE_CHECKING:
    from pyro_aevb.runs import load_run

__all__ = [
    "EarlyStopping",
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
    "load_run",
    "nn",
    "optimizers",
    "predictions",
    "priors",
    "seeded",
    "sgvb",
    "traces",
]


def __getattr__(name: str) -> Any:
    """The parser that reads a run's options takes two seconds to import: only where a run is opened."""
    if name != "load_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pyro_aevb.runs import load_run

    return load_run


def __dir__() -> list[str]:
    """What there is, that which is imported late too."""
    return sorted({*globals(), *__all__})
