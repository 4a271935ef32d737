"""Data sets: rows of float32, and binary pixels drawn from grey ones."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.data.mapped import Mapped, OnDemand, is_mapped, spans
from pyro_aevb.data.schema import ALONE, Beside, Rows, Schema
from pyro_aevb.errors import InputError, choice, instance
from pyro_aevb.seeds import derive, hashed_uniform
from pyro_aevb.views import html_table

__all__ = [
    "Binarize",
    "DataSet",
    "Digest",
    "DynamicBinarization",
    "binarized",
    "earlier_fingerprint",
    "fingerprint",
    "plain",
]

Binarize = Literal["none", "static", "dynamic"]

PLAIN = Schema()


@dataclass(frozen=True)
class DynamicBinarization:
    """Grey images as pixel probabilities, binarised anew at each visit; ``Trainer`` takes it in place of a tensor.

    The mean of many draws is the grey image.

    Arguments:
        probabilities: Grey values in [0, 1], ``(N, D)``; they are checked once, here. A tensor; or, where they are not
            in memory, a :class:`~pyro_aevb.data.Mapped`, an array over a mapped file, or a ``Streamed``.

    Raises:
        InputError: If they are no tensor of floating-point numbers in [0, 1], or there are none.
    """

    probabilities: Tensor | OnDemand
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)  # of values that are not in memory

    def __post_init__(self) -> None:
        given: Any = self.probabilities
        if isinstance(given, np.ndarray) and is_mapped(given):
            given = Mapped(given)
        given = getattr(given, "column", given)  # of a Streamed
        object.__setattr__(self, "probabilities", given)
        if not isinstance(given, OnDemand):
            plain(instance("probabilities", given, Tensor, "give torch.as_tensor(data)"))
        if not given.dtype.is_floating_point:
            raise InputError(f"probabilities of {given.dtype} cannot be binarised: give data.float(), in [0, 1]")
        if given.shape.numel() == 0:
            raise InputError(f"the data set is empty, its shape is {tuple(given.shape)}: there is nothing to binarise")
        low, high = self._ends()
        if not 0 <= low <= high <= 1:  # NaN is in no order
            found = f"in [{low:g}, {high:g}]" if low <= high else "that are NaN"
            raise InputError(f"probabilities {found} cannot be binarised: scale them into [0, 1]")

    def _ends(self) -> tuple[float, float]:
        """The least and the largest value; what is not in memory is hashed by the way, since all of it is read."""
        digest = Digest()
        ends: list[Tensor] = []
        for span in spans(self.probabilities):
            values = self.probabilities[span].detach()
            ends.extend(values.aminmax())
            if isinstance(self.probabilities, OnDemand):
                digest.update(values)
        if isinstance(self.probabilities, OnDemand):
            object.__setattr__(self, "_digest", digest.told())
        low, high = torch.stack(ends).aminmax()
        return low.item(), high.item()

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def shape(self) -> torch.Size:
        """``(N, D)``."""
        return self.probabilities.shape

    def draw(self, rows: Tensor, key: int | Tensor) -> Tensor:
        """Binary images of these rows, ``(B, D)``: a function of (key, row), whatever other rows are drawn with it."""
        grey = self.probabilities
        return binarized(grey.fetch(rows) if isinstance(grey, OnDemand) else grey.index_select(0, rows), rows, key)

    def fixed(self, seed: int = 0) -> Tensor:
        """One binary image of every row, always the same for a seed: what evaluation uses.

        Of grey values that are not in memory all are put there: of a part, ``Mapped.chosen``, it takes less.
        """
        key = derive(seed, "binarize")
        grey = self.probabilities
        rows = torch.arange(len(self), device=grey.device if isinstance(grey, Tensor) else None)
        return torch.cat([self.draw(some, key) for some in rows.split(1000)])  # the hash takes 8 bytes a pixel


def plain(given: Tensor) -> Tensor:
    """Data, if they are an ordinary tensor of numbers with one row a datum.

    Raises:
        InputError: If they are sparse, nested, complex, a single number, or on a device that holds no values.
    """
    if given.layout != torch.strided or given.is_nested:
        raise InputError("the data are a sparse or nested tensor, which networks do not take: give one x.to_dense()")
    if given.is_meta:
        raise InputError("the data are on the device meta, which holds shapes and no values: load them onto the cpu")
    if given.is_complex():
        raise InputError("the data are complex numbers: give real ones, torch.view_as_real(x).flatten(1) for one")
    if given.dim() == 0:
        raise InputError("the data are a single number: give a tensor with one row a datum")
    return given


def binarized(grey: Tensor, rows: Tensor, key: int | Tensor) -> Tensor:
    """Binary pixels, 1 with probability ``grey``, ``(B, D)``; ``rows`` tells which data they are."""
    uniform = hashed_uniform(key, rows, math.prod(grey.shape[1:]))  # (B, D)
    return (uniform.view_as(grey) < grey).to(grey.dtype)


@dataclass(frozen=True)
class DataSet:
    """A data set: training and test data, float32 in memory or rows of a file, and how they were read.

    Arguments:
        name: Name or path that it was loaded by.
        train: Training rows, ``(N, D)``; a :class:`DynamicBinarization` where each visit draws anew; a
            :class:`~pyro_aevb.data.Mapped` where they stay in their file.
        test: Test rows, ``(N', D)``, fixed.
        shape: Shape of one row as it was, for pictures.
        binarize: How grey values became binary, ``none``, ``static`` or ``dynamic``; it belongs beside every number.
        labels_train: Label of each training row, a whole number, ``(N,)``; ``None`` where there are none.
        labels_test: Label of each test row, ``(N',)``; ``None`` where there are none.
        split_seed: Seed of splits and fixed binarisations.
        schema: How rows of its source become tensors; by which :func:`~pyro_aevb.data.read_rows` reads new data.
        label_names: Name of each label, counted from 0; empty where labels are numbers.
        beside_train: What belongs to each training row besides its values.
        beside_test: What belongs to each test row besides its values.
        held_out: What was set aside of the training rows, fixed, as :meth:`arguments` gives it; ``None`` for nothing.
    """

    name: str
    train: Tensor | Mapped | DynamicBinarization
    test: Tensor | Mapped
    shape: tuple[int, ...]
    binarize: Binarize
    labels_train: Tensor | None = None
    labels_test: Tensor | None = None
    split_seed: int = 0
    schema: Schema = PLAIN
    label_names: tuple[str, ...] = ()
    beside_train: Beside = ALONE
    beside_test: Beside = ALONE
    held_out: Any = None

    def _repr_html_(self) -> str:
        """As a notebook shows it: what it is called, sizes, and the columns of a table."""
        facts = {
            "training data": f"{len(self.train):,}",
            "test data": f"{len(self.test):,}",
            "shape of a datum": " x ".join(map(str, self.shape)),
            "binarize": self.binarize,
            "labels": ", ".join(self.label_names[:10]) + ", ..." * (len(self.label_names) > 10),
            "NaN": "a missing value" if self.schema.missing else "refused",
        }
        columns = [(column.name, column.kind, ", ".join(column.categories)) for column in self.schema.columns]
        table = html_table(columns, ("column", "kind", "categories")) if columns else ""
        return html_table(((name, value) for name, value in facts.items() if value), title=self.name) + table

    @property
    def dim(self) -> int:
        """Number of observed dimensions D."""
        return self.test.shape[1]

    def evaluation(self, split: Literal["train", "test"]) -> Tensor | Mapped:
        """Fixed rows to evaluate on: a dynamically binarised training set in one fixed draw.

        Raises:
            InputError: If there are none, since the run that they belong to was opened without its data.
        """
        self._check_there()
        if choice("split", split, ("train", "test")) == "test":
            return self.test
        return self.train.fixed(self.split_seed) if isinstance(self.train, DynamicBinarization) else self.train

    @property
    def training(self) -> Any:
        """What a :class:`~pyro_aevb.Trainer` is given: the training rows, with condition and exposure if there are any.

        The rows alone where there is nothing beside them, else a dictionary of a pair's arguments.

        Raises:
            InputError: As :meth:`evaluation`.
        """
        self._check_there()
        return self.beside_train.arguments(self.train)

    def arguments(self, split: Literal["train", "test"]) -> Any:
        """What an evaluation is given: fixed rows of a split, with condition and exposure if there are any.

        Arguments:
            split: ``train`` or ``test``.
        """
        return self.rows(split).arguments

    def rows(self, split: Literal["train", "test"]) -> Rows:
        """Fixed rows of a split with all that belongs to them.

        Arguments:
            split: ``train`` or ``test``.
        """
        x = self.evaluation(split)
        beside = self.beside_test if split == "test" else self.beside_train
        labels = self.labels_test if split == "test" else self.labels_train
        names = None if labels is None else tuple(self._label(number) for number in labels.tolist())
        return Rows(x, names, beside)

    def _check_there(self) -> None:
        if not len(self.train):
            raise InputError(f"{self.name} is not there: put the data back, or give new ones, --data")

    def _label(self, number: int) -> str:
        return self.label_names[number] if 0 <= number < len(self.label_names) else "" if number < 0 else str(number)


def fingerprint(data: Tensor | OnDemand | DynamicBinarization) -> str:
    """SHA-256 of the values and how they are used, so that a run is not resumed with other data.

    It is the same for values in memory and in a file, which is read through once.

    Arguments:
        data: Values, ``(N, ...)``, in memory, in a file, or binarised at each visit.
    """
    if isinstance(data, DynamicBinarization):
        return f"dynamic {data._digest or _digest(data.probabilities)}"
    return _digest(data)


def earlier_fingerprint(data: Tensor | OnDemand | DynamicBinarization) -> str:
    """The fingerprint in the first format of saved states, where grey values and their binarisation had the same."""
    return fingerprint(data).removeprefix("dynamic ")


class Digest:
    """SHA-256 of rows that come some at a time; the same for equal bytes, however they are cut."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, values: Tensor) -> None:
        """Add values after those that came before."""
        plain = values.detach().cpu().contiguous()
        # NumPy has no bfloat16: its bytes, as those of an integer of the same size.
        array = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain
        self._hash.update(array.numpy().data)

    def told(self) -> str:
        """The digest of all that has come, in hexadecimal digits."""
        return self._hash.hexdigest()


def _digest(values: Tensor | OnDemand) -> str:
    if isinstance(values, Mapped) and values.digest:
        return values.digest
    digest = Digest()
    rows = values.reshape(1) if isinstance(values, Tensor) and values.dim() == 0 else values
    for span in spans(rows):
        digest.update(rows[span])
    if isinstance(values, Mapped):
        values.digest = digest.told()
    return digest.told()
