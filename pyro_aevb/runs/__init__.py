"""Runs on disk: :func:`load_run` opens one; the command line begins them, and goes on with them."""

from pyro_aevb.runs.run import Run, load_run

__all__ = ["Run", "load_run"]
