"""Data in memory: rows of float32, and binary pixels drawn from grey ones."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_aevb.seeds import generator

__all__ = ["Binarize", "DataSet", "DynamicBinarization", "fingerprint"]

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

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Binary images of these rows, ``(B, D)``."""
        return torch.bernoulli(self.probabilities[rows], generator=generator)

    def fixed(self, seed: int = 0) -> Tensor:
        """One binary image of every row, always the same for a seed: what evaluation uses."""
        return torch.bernoulli(self.probabilities, generator=generator(seed, "binarize"))


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
    """SHA-256 of the values, so that a run is not resumed with other data."""
    values = data.probabilities if isinstance(data, DynamicBinarization) else data
    return hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
