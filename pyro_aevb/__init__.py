"""Auto-Encoding Variational Bayes on Pyro and PyTorch: model and guide as Pyro functions, every number checked."""

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
    priors,
    sgvb,
    traces,
)
from pyro_aevb.errors import InputError, NonFiniteLossError
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.seeds import seeded
from pyro_aevb.training.ensemble import Ensemble
from pyro_aevb.training.monte_carlo_em import MonteCarloEM
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer

if TYPE_CHECKING:
    from pyro_aevb.runs import load_run

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
    "load_run",
    "nn",
    "optimizers",
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
