"""Data sets as tensors in memory: loading, checks, splits, binarisation.

A data set is rows of float32, ``(N, D)``; ``DataSet.shape`` remembers what one row was (28 x 28, say). Splits and fixed
binarisations are drawn from ``split_seed`` alone, never from the training seed: two runs on "the same data" have the
same data.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from pyro_aevb.data.arguments import taken_apart
from pyro_aevb.data.given import as_tensors, in_precision
from pyro_aevb.data.held_out import set_aside
from pyro_aevb.data.loaders import LOADERS, Raw, load_raw
from pyro_aevb.data.sets import Binarize, DataSet, DynamicBinarization, fingerprint
from pyro_aevb.errors import InputError, choice, flag, path, whole

__all__ = [
    "LOADERS",
    "DataSet",
    "DynamicBinarization",
    "as_tensors",
    "find_root",
    "fingerprint",
    "in_precision",
    "load",
    "set_aside",
    "taken_apart",
]


def load(
    name: str = "digits",
    *,
    binarize: Binarize = "none",
    data_root: str | Path | None = None,
    split_seed: int = 0,
    counts: bool = False,
) -> DataSet:
    """Load a data set by name, or from a ``.npy`` or ``.npz`` file.

    Arguments:
        name: One of ``mnist``, ``fashion_mnist``, ``frey_face``, ``digits``, or a path. A ``.npy`` array is split
            9 : 1 at random; a ``.npz`` file holds ``train`` and ``test`` (and ``labels_train``, ``labels_test``), or
            one array alone. Arrays have any trailing shape; ``uint8`` is divided by 255 unless they are ``counts``, all
            else taken as it is.
        binarize: ``none`` keeps grey values, ``static`` draws binary pixels once, ``dynamic`` at each visit in training
            (the test set then is drawn once).
        data_root: Folder of data sets; ``None`` for ``$PYRO_AEVB_DATA``, and where that is not set the user's cache
            folder.
        split_seed: Seed of random splits and of fixed binarisations.
        counts: Whether a file's ``uint8`` values are counts, taken as they are; else they are grey values.

    Raises:
        InputError: If a file is missing, truncated, or not what it should be; if values are not finite, or not in
            [0, 1] where they are to be binarised; if a split is empty.

    >>> load("digits").train.shape
    torch.Size([1500, 64])
    """
    choice("binarize", binarize, ("none", "static", "dynamic"))
    path("name", name)
    whole("split_seed", split_seed, least=0)
    flag("counts", counts)
    raw = _check(load_raw(name, find_root(data_root), split_seed, counts), name)
    train: Tensor | DynamicBinarization = raw.train.flatten(1)
    test = raw.test.flatten(1)
    if binarize != "none":
        grey, grey_test = (_grey(x, name) for x in (raw.train.flatten(1), test))
        train = grey if binarize == "dynamic" else grey.fixed(split_seed)
        test = grey_test.fixed(split_seed)
    shape = tuple(raw.train.shape[1:])
    return DataSet(name, train, test, shape, binarize, raw.labels_train, raw.labels_test, split_seed)


def find_root(data_root: str | Path | None = None) -> Path:
    """The data root: the argument, else ``$PYRO_AEVB_DATA``, else ``pyro_aevb`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_aevb"
    given = os.environ.get("PYRO_AEVB_DATA") if data_root in (None, "") else data_root
    return path("data_root", given or cache).expanduser()


def _check(raw: Raw, name: str) -> Raw:
    if raw.train.shape[1:] != raw.test.shape[1:]:
        raise InputError(
            f"{name}: train and test rows differ, {tuple(raw.train.shape[1:])} and {tuple(raw.test.shape[1:])}"
        )
    for split, values in (("train", raw.train), ("test", raw.test)):
        if values.numel() == 0:
            raise InputError(f"{name}: the {split} set is empty, its shape is {tuple(values.shape)}")
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values.flatten(1))).any(1).nonzero()[0])
            raise InputError(f"{name}: {split} row {row} has a NaN or infinite value: clean the data first")
    return raw


def _grey(values: Tensor, name: str) -> DynamicBinarization:
    try:
        return DynamicBinarization(values)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
