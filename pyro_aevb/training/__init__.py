"""What a training is: Algorithm 1, its baseline without a guide, and several at once, over one loop."""

from pyro_aevb.training.early_stopping import EarlyStopping
from pyro_aevb.training.ensemble import Ensemble
from pyro_aevb.training.monte_carlo_em import MonteCarloEM
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer

__all__ = ["EarlyStopping", "Ensemble", "MonteCarloEM", "Progress", "Trainer"]
