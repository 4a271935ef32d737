"""Runs on disk: :func:`pyro_aevb.load_run` opens one; the command line begins them, and goes on with them."""

from pyro_aevb.runs.origin import VersionsWarning
from pyro_aevb.runs.run import Run, load_run

__all__ = ["Run", "VersionsWarning", "load_run"]
