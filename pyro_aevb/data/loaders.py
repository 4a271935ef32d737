"""Where data come from. A new data set is one function here, in ``LOADERS``: data root and split seed to ``Raw``."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.errors import InputError, did_you_mean, in_one_line
from pyro_aevb.files import check_archive, regular_file
from pyro_aevb.seeds import generator

__all__ = ["LOADERS", "Raw", "is_there", "load_raw"]

FREY_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"
FREY_MIRRORS = ("https://cs.nyu.edu/~roweis/data/", "https://www.cs.nyu.edu/~roweis/data/")
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Raw(NamedTuple):
    """What a loader returns: arrays of any trailing shape, and labels where there are any."""

    train: Tensor
    test: Tensor
    labels_train: Tensor | None = None
    labels_test: Tensor | None = None


def load_mnist(root: Path, split_seed: int) -> Raw:
    """Handwritten digits, 28 x 28 grey / 255; the original split, 60,000 and 10,000."""
    raw = _load_torchvision("MNIST", root)
    for name, expected in MNIST_SHA256.items():
        path = root / "MNIST" / "raw" / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise InputError(f"{path} has a wrong checksum: delete it, and put the original MNIST file there")
    return raw


def load_fashion_mnist(root: Path, split_seed: int) -> Raw:
    """Articles of clothing, 28 x 28 grey / 255; the original split, 60,000 and 10,000."""
    return _load_torchvision("FashionMNIST", root)


def _load_torchvision(name: str, root: Path) -> Raw:
    from torchvision import datasets  # a second to import, so only where it is used

    folder = root / name / "raw"
    if (old := root / name / "processed").exists():
        raise InputError(f"{old} is of an earlier version of torchvision, which it would prefer to the data: remove it")
    for file in MNIST_SHA256:
        if os.path.lexists(folder / file):
            regular_file(folder / file)
    try:
        train, test = (getattr(datasets, name)(root, train=train, download=True) for train in (True, False))
    except Exception as error:  # torchvision raises whatever the damage, or the network, leads to
        if all((folder / file).exists() for file in MNIST_SHA256):
            raise InputError(f"a file in {folder} is truncated or damaged: delete it, and load again") from error
        raise InputError(
            f"no {name} in {root} and it cannot be downloaded ({' '.join(str(error).split())[:100]}...): put "
            f"{', '.join(MNIST_SHA256)} into {folder}, or name another folder with --data_root or PYRO_AEVB_DATA"
        ) from error
    if (len(train.data), len(test.data)) != (60_000, 10_000):
        raise InputError(f"{folder} holds {len(train.data)} + {len(test.data)} images, not 60000 + 10000")
    return Raw(train.data / 255, test.data / 255, train.targets, test.targets)


def load_frey_face(root: Path, split_seed: int) -> Raw:
    """1965 frames of one face, 28 x 20 grey / 256 as in the paper; 1600 drawn at random to train, 365 to test."""
    path = root / "frey_face" / "frey_rawface.mat"
    if not path.exists():
        _download(path, FREY_MIRRORS, check=_read_frey_face)
    regular_file(path, "put the original frey_rawface.mat there")
    return _split(torch.from_numpy(_read_frey_face(path)).view(-1, 28, 20) / 256, None, 1600, split_seed)


def _read_frey_face(path: Path) -> np.ndarray[Any, Any]:
    import scipy.io  # half a second to import, so only where it is used

    try:
        faces = np.ascontiguousarray(scipy.io.loadmat(path, appendmat=False)["ff"].T)
    except Exception as error:  # SciPy raises whatever the damage leads to; all of it means the same to the user
        raise InputError(f"{path} is truncated or no MATLAB file: delete it, and load again") from error
    if hashlib.sha256(faces.tobytes()).hexdigest() != FREY_SHA256:
        raise InputError(f"{path} has a wrong checksum: delete it, and put the original frey_rawface.mat there")
    return faces


def _download(path: Path, mirrors: tuple[str, ...], check: Callable[[Path], Any]) -> None:
    """Fetch a file from the first mirror that has it whole; it gets its name only when ``check`` has passed."""
    from torchvision.datasets.utils import download_url

    partial = path.with_suffix(".part")
    for mirror in mirrors:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url(mirror + path.name, path.parent, partial.name)
            check(partial)
        except (OSError, RuntimeError, InputError) as error:
            reason = str(error)
            partial.unlink(missing_ok=True)
            continue
        partial.rename(path)
        return
    raise InputError(
        f"{path} is missing and cannot be downloaded ({reason}): put {path.name} there, "
        "or name another folder with --data_root or PYRO_AEVB_DATA"
    )


def load_digits(root: Path, split_seed: int) -> Raw:
    """Handwritten digits, 8 x 8 grey / 16, bundled with scikit-learn; 1500 drawn at random to train, 297 to test."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    return _split(torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target), 1500, split_seed)


LOADERS: dict[str, Callable[[Path, int], Raw]] = {
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "frey_face": load_frey_face,
    "digits": load_digits,
}


def is_there(name: str, root: Path) -> bool:
    """Whether a data set can be loaded without a download; true of paths too, for they are never downloaded."""
    folders = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
    if name in folders:
        return all((root / folders[name] / "raw" / file).is_file() for file in MNIST_SHA256)
    return name != "frey_face" or (root / "frey_face" / "frey_rawface.mat").is_file()


def load_raw(name: str, root: Path, split_seed: int, counts: bool = False) -> Raw:
    """A data set by its name, or a person's own from a ``.npy`` or ``.npz`` file."""
    if name in LOADERS:
        return LOADERS[name](root, split_seed)
    if Path(name).suffix in (".npy", ".npz"):
        path = Path(name).expanduser()
        return _load_arrays(path if path.exists() else root / path.name, split_seed, 1 if counts else 255)
    near = did_you_mean(name, LOADERS)
    raise InputError(f"unknown data {name!r}{near or ':'} give one of {', '.join(LOADERS)}, or a .npy or .npz file")


def _load_arrays(path: Path, split_seed: int, largest_byte: int) -> Raw:
    arrays = _read_arrays(path)
    if {"train", "test"} <= arrays.keys():
        values = (_to_float(arrays[key], f"{path}[{key}]", largest_byte) for key in ("train", "test"))
        labels = (_read_labels(arrays, key, path) for key in ("labels_train", "labels_test"))
        return Raw(*values, *labels)
    if len(arrays) != 1:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}: give it arrays named train and test, or one alone"
        )
    values_alone = _to_float(next(iter(arrays.values())), str(path), largest_byte)
    return _split(values_alone, None, len(values_alone) * 9 // 10, split_seed)


def _read_labels(arrays: dict[str, np.ndarray[Any, Any]], key: str, path: Path) -> Tensor | None:
    if key not in arrays:
        return None
    labels = arrays[key]
    rows = len(arrays[key.removeprefix("labels_")])
    if labels.dtype.kind not in "bui" or labels.shape != (rows,):
        raise InputError(f"{path}[{key}] has dtype {labels.dtype}, shape {labels.shape}: give {rows} whole numbers")
    return torch.from_numpy(labels.astype(np.int64))


def _read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if not path.exists():
        raise InputError(f"no file {path.name}, neither as given nor in the data root {path.parent}: check the path")
    regular_file(path)
    try:
        if zipfile.is_zipfile(path):
            check_archive(path, compressed=True)
        content = np.load(path, allow_pickle=False)
        arrays = {"array": content} if isinstance(content, np.ndarray) else dict(content)
        if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]} is no array")
        return arrays
    except Exception as error:  # NumPy raises whatever the damage leads to: ValueError, EOFError, BadZipFile, ...
        raise InputError(
            f"{path} is truncated, or holds something else than plain arrays ({in_one_line(error)})"
        ) from error


def _to_float(array: np.ndarray[Any, Any], where: str, largest_byte: int) -> Tensor:
    if array.dtype.kind not in "buif":
        raise InputError(f"{where} has dtype {array.dtype}: give it real numbers")
    if array.ndim > 1 and 0 in array.shape:
        raise InputError(f"{where} has shape {array.shape}, so there is not one value in it")
    if array.ndim < 2:
        raise InputError(f"{where} has shape {array.shape}: give it one row a datum, (N, ...)")
    scale = largest_byte if array.dtype == np.uint8 else 1
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused by name
        return torch.from_numpy(array.astype(np.float32)) / scale


def _split(values: Tensor, labels: Tensor | None, train_size: int, seed: int) -> Raw:
    order = torch.randperm(len(values), generator=generator(seed, "split"))
    rows = order[:train_size], order[train_size:]
    return Raw(*(values[r] for r in rows), *((None, None) if labels is None else (labels[r] for r in rows)))
