"""Data in memory: rows of float32, and binary pixels drawn from grey ones."""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_aevb.seeds import derive, hashed_uniform

__all__ = ["Binarize", "DataSet", "DynamicBinarization", "binarized", "earlier_fingerprint", "fingerprint"]

Binarize = Literal["none", "static", "dynamic"]


@dataclass(frozen=True)
class DynamicBinarization:
    """Grey images as pixel probabilities, binarised anew at each visit; ``Trainer`` takes it in place of a tensor.

    The mean of many draws is the grey image.

    Arguments:
        probabilities: Grey values in [0, 1], ``(N, D)``.
    """

    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def shape(self) -> torch.Size:
        """``(N, D)``."""
        return self.probabilities.shape

    def draw(self, rows: Tensor, key: int | Tensor) -> Tensor:
        """Binary images of these rows, ``(B, D)``: a function of (key, row), whatever other rows are drawn with it."""
        return binarized(self.probabilities.index_select(0, rows), rows, key)

    def fixed(self, seed: int = 0) -> Tensor:
        """One binary image of every row, always the same for a seed: what evaluation uses."""
        key, rows = derive(seed, "binarize"), torch.arange(len(self), device=self.probabilities.device)
        return torch.cat([self.draw(some, key) for some in rows.split(1000)])  # the hash takes 8 bytes a pixel


def binarized(grey: Tensor, rows: Tensor, key: int | Tensor) -> Tensor:
    """Binary pixels, 1 with probability ``grey``, ``(B, D)``; ``rows`` tells which data they are."""
    uniform = hashed_uniform(key, rows, math.prod(grey.shape[1:]))  # (B, D)
    return (uniform.view_as(grey) < grey).to(grey.dtype)


@dataclass(frozen=True)
class DataSet:
    """Data in memory, float32.

    Arguments:
        name: Name or path that it was loaded by.
        train: Training rows, ``(N, D)``; a :class:`DynamicBinarization` where each visit draws anew.
        test: Test rows, ``(N', D)``, fixed.
        shape: Shape of one row as it was, for pictures.
        binarize: How grey values became binary; belongs beside every number.
        labels_train: Class of each training row, or ``None``.
        labels_test: Class of each test row, or ``None``.
        split_seed: Seed of splits and fixed binarisations.
    """

    name: str
    train: Tensor | DynamicBinarization
    test: Tensor
    shape: tuple[int, ...]
    binarize: Binarize
    labels_train: Tensor | None = None
    labels_test: Tensor | None = None
    split_seed: int = 0

    @property
    def dim(self) -> int:
        """Number of observed dimensions D."""
        return self.test.shape[1]

    def evaluation(self, split: Literal["train", "test"]) -> Tensor:
        """Fixed rows to evaluate on: a dynamically binarised training set in one fixed draw."""
        if split == "test":
            return self.test
        return self.train.fixed(self.split_seed) if isinstance(self.train, DynamicBinarization) else self.train


def fingerprint(data: Tensor | DynamicBinarization) -> str:
    """SHA-256 of the values and how they are used, so that a run is not resumed with other data."""
    return f"dynamic {_digest(data.probabilities)}" if isinstance(data, DynamicBinarization) else _digest(data)


def earlier_fingerprint(data: Tensor | DynamicBinarization) -> str:
    """As the first format of states told them apart: grey values and their binarisation were one."""
    return fingerprint(data).removeprefix("dynamic ")


def _digest(values: Tensor) -> str:
    plain = values.detach().cpu().contiguous()
    # NumPy has no bfloat16: its bytes, as those of an integer of the same size.
    array = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain
    return hashlib.sha256(array.numpy().tobytes()).hexdigest()
