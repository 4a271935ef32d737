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

* the ground: refusals, streams of noise, the processor, files and saved states, what a pair is made of: ``errors``,
  ``seeds``, ``process``, ``hardware``, ``files``, ``states``, ``pairs``;
* the parts that a model and a guide are made of, each of which returns a Pyro distribution: ``nn``, ``distributions``,
  ``priors``, ``likelihoods``, ``guides``, ``conditions``, ``models``;
* log densities of a pair, per datum and particle: ``traces``;
* the objectives; the paper's by hand, without Pyro; what steps the weights: ``estimators``, ``sgvb``, ``optimizers``;
* loading, checks, splits, binarisation, minibatches: ``data``;
* how a step is taken, through Pyro or from a recording: ``engines``;
* Algorithm 1, Monte Carlo EM, several trainings at once: ``training``;
* Hamiltonian Monte Carlo and draws from a posterior: ``hmc``;
* what a trained pair is worth, and what it makes of data: ``evaluation``, ``evidence``, ``diagnostics``, ``bayesian``,
  ``predictions``;
* pictures, runs on disk, several side by side, a page to explore them: ``plots``, ``runs``, ``reports``, ``explorer``;
* the tools that people have already: ``sklearn``, ``arviz``, ``trackers``, ``export``, and in a notebook ``views``;
* the command line: ``cli``;
* the contracts of parts, as functions that check yours: ``testing``.
"""

from pyro_aevb import started  # noqa: F401  # before all others

# isort: split

import importlib
import importlib.util
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_aevb import (
        arviz,
        bayesian,
        data,
        diagnostics,
        estimators,
        evidence,
        explorer,
        export,
        guides,
        hmc,
        likelihoods,
        nn,
        optimizers,
        plots,
        predictions,
        priors,
        reports,
        sgvb,
        sklearn,
        traces,
        trackers,
        views,
    )
    from pyro_aevb.errors import InputError, NonFiniteLossError
    from pyro_aevb.models import GenerativeModel, RecognitionModel
    from pyro_aevb.reports import compare_runs
    from pyro_aevb.runs import load_run, train
    from pyro_aevb.seeds import seeded
    from pyro_aevb.training.early_stopping import EarlyStopping
    from pyro_aevb.training.ensemble import Ensemble
    from pyro_aevb.training.monte_carlo_em import MonteCarloEM
    from pyro_aevb.training.progress import Progress
    from pyro_aevb.training.trainer import Trainer

    __version__: str

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
    "arviz",
    "bayesian",
    "compare_runs",
    "data",
    "diagnostics",
    "estimators",
    "evidence",
    "explorer",
    "export",
    "guides",
    "hmc",
    "likelihoods",
    "load_run",
    "nn",
    "optimizers",
    "plots",
    "predictions",
    "priors",
    "reports",
    "seeded",
    "sgvb",
    "sklearn",
    "traces",
    "trackers",
    "train",
    "views",
]

_ROOMS_OF_NAMES = ("errors", "seeds", "models", "training", "runs", "reports")
"""Rooms whose public names may be the package's own too, in the order of what they take to import."""

_ONE_AT_A_TIME = threading.RLock()
"""Held by the thread that imports: Pyro cannot be imported from two ends at once, as two threads would."""

_LONGEST_WAIT = 60
"""Seconds to wait for that thread: it may itself wait for a module that this one is importing by its full name."""

if not TYPE_CHECKING:  # to which every name would then be one of the package's

    def __getattr__(name: str) -> Any:
        """Import a room, or the one that a name is in, where it is first asked for: torch and Pyro take two seconds.

        Raises:
            AttributeError: If the package has no such name.
        """
        if name == "__version__":
            return _version()
        alone = _ONE_AT_A_TIME.acquire(timeout=_LONGEST_WAIT)
        try:
            return _imported(name)
        finally:
            if alone:
                _ONE_AT_A_TIME.release()


def __dir__() -> list[str]:
    """What there is, that which is not imported yet too."""
    return sorted({*globals(), *__all__, "__version__"})


def _imported(name: str) -> Any:
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    for room in _ROOMS_OF_NAMES if name in __all__ else ():
        module = importlib.import_module(f"{__name__}.{room}")
        if name in module.__all__:
            return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib import metadata  # as slow to import as all else of this file, so only where it is asked for

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError as error:
        raise AttributeError(f"{__name__} has no __version__: it is a copy of the sources, not installed") from error
