"""Runs on disk: :func:`pyro_aevb.train` makes one, as the command line does; :func:`pyro_aevb.load_run` opens it."""

import importlib
from typing import TYPE_CHECKING, Any

from pyro_aevb.runs.origin import VersionsWarning

if TYPE_CHECKING:
    from pyro_aevb.runs.entry import train
    from pyro_aevb.runs.run import Run, load_run

__all__ = ["Run", "VersionsWarning", "load_run", "train"]

_HOMES = {"Run": "run", "load_run": "run", "train": "entry"}
"""Module of each name that is imported where it is asked for."""


if not TYPE_CHECKING:  # to which every name would then be one of the module's

    def __getattr__(name: str) -> Any:
        """Import what opens a run where it is asked for: ``pyro-aevb list`` opens none, and need not wait for it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What there is, that which is not imported yet too."""
    return sorted({*globals(), *__all__})
