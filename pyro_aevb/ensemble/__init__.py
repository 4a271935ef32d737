"""Several trainings at once, as one batched program."""

from pyro_aevb.ensemble.training import Ensemble

__all__ = ["Ensemble"]
