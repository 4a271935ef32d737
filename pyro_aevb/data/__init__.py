"""Data sets as tensors in memory: loading from wherever people have them, checks, splits, binarisation.

A data set is rows of float32, ``(N, D)``; ``DataSet.shape`` remembers what one row was (28 x 28, say), and
``DataSet.schema`` which column was what. Splits and fixed binarisations are drawn from ``split_seed`` alone, never from
the training seed: two runs on "the same data" have the same data.
"""

from pyro_aevb.data.arguments import taken_apart
from pyro_aevb.data.given import as_tensors, in_precision
from pyro_aevb.data.held_out import set_aside
from pyro_aevb.data.loaders import LOADERS
from pyro_aevb.data.loading import load, read_rows
from pyro_aevb.data.mapped import Mapped, map_file
from pyro_aevb.data.roots import find_root
from pyro_aevb.data.schema import Column, Rows, Schema
from pyro_aevb.data.sets import DataSet, DynamicBinarization, fingerprint
from pyro_aevb.data.streamed import Streamed

__all__ = [
    "LOADERS",
    "Column",
    "DataSet",
    "DynamicBinarization",
    "Mapped",
    "Rows",
    "Schema",
    "Streamed",
    "as_tensors",
    "find_root",
    "fingerprint",
    "in_precision",
    "load",
    "map_file",
    "read_rows",
    "set_aside",
    "taken_apart",
]
