"""The folder that data sets are in."""

import os
from pathlib import Path

from pyro_aevb.errors import path

__all__ = ["find_root"]


def find_root(data_root: str | Path | None = None) -> Path:
    """The data root: the argument, else ``$PYRO_AEVB_DATA``, else ``pyro_aevb`` in the user's cache folder.

    Arguments:
        data_root: Folder of data sets; ``None``, the default, to look further.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_aevb"
    given = os.environ.get("PYRO_AEVB_DATA") if data_root in (None, "") else data_root
    return path("data_root", given or cache).expanduser()
