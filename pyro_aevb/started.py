"""``python -m pyro_aevb`` puts the current folder first, where a file could stand for a library: it is taken away."""

import os
import sys

__all__: list[str] = []

if sys.argv[:1] == ["-m"] and "pyro_aevb" in sys.orig_argv and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]
