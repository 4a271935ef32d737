"""Rows that lie in a file: it is mapped, never copied as a whole and never written, and a minibatch reads its rows."""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.errors import InputError, in_one_line, instance, path, positive, tensors

__all__ = ["Mapped", "OnDemand", "in_memory", "is_mapped", "map_file", "spans"]

SPAN_BYTES = 2**22


class OnDemand(ABC):
    """Rows that are fetched when they are needed, as tensors of the CPU's: less is in memory than there is.

    Arguments:
        shape: Shape of all of them, ``(N, ...)``.
        dtype: Precision of the fetched numbers.
        is_array: Whether the precision was nobody's choice, as that of a NumPy array.
    """

    is_array: bool

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype

    @abstractmethod
    def fetch(self, rows: Tensor) -> Tensor:
        """Some of the rows, ``(B, ...)``, in memory of their own; ``rows`` are their numbers, integers, ``(B,)``."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice) -> Tensor:
        """Rows that follow one another, in memory of their own."""
        return self.fetch(torch.arange(*chosen.indices(len(self))))


def spans(values: Tensor | OnDemand) -> Iterator[slice]:
    """Slices of rows, one after another, of 4 MB or one row each, so that what is made of one stays small."""
    size = values.shape.numel() * values.dtype.itemsize
    count = max(1, SPAN_BYTES * len(values) // max(1, size))
    return (slice(start, start + count) for start in range(0, len(values), count))


def in_memory(values: Any) -> Any:
    """All rows as a tensor, of what is one or is fetched on demand; all else as it is."""
    return values[:] if isinstance(values, OnDemand) else values


class Mapped(OnDemand):
    """Rows of a mapped file, ``(N, ...)``; ``Trainer`` and the evaluations take it in place of a tensor.

    Training reads a minibatch's rows straight from the file, in every engine, and gives the bits that it gives with the
    same numbers in memory. Nothing is copied as a whole, not even for another precision: each minibatch is brought to
    that of the pair's weights. What else takes data reads a block at a time. On a GPU minibatches come by workers, see
    :class:`~pyro_aevb.data.streamed.Streamed`: data that its memory holds are faster there, as a tensor.

    The file must stay as it is while it is mapped: the system ends a process that reads where one was cut short.

    Arguments:
        array: NumPy array over a mapped file: ``np.load("x.npy", mmap_mode="r")``, ``np.memmap(...)``, or a part of
            one. Its numbers may have any byte order; real numbers, integers or booleans.
        rows: Which rows of it, integers, ``(N,)``; by default all, in their order.
        dtype: Precision that fetched numbers are brought to; by default that of the file.
        divisor: Number that fetched numbers are divided by after that, 255 say; by default they are not divided.

    Raises:
        InputError: If it is no such array, or one that can only be read through a copy of all; if a row is not there.
    """

    is_array = True
    digest: str | None = None
    """SHA-256 of all its numbers, once they have been read: what is mapped must stay as it is."""

    def __init__(
        self,
        array: np.ndarray[Any, Any],
        rows: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
        divisor: float = 1,
    ) -> None:
        _check(instance("array", array, np.ndarray, 'give np.load("x.npy", mmap_mode="r")'))
        self.array = array
        self.values = _over(array)
        self.rows = None if rows is None else _indices(rows, len(array))
        self.divisor = positive("divisor", divisor)
        self.swapped = not array.dtype.isnative
        self._own = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
        found = self._own if dtype is None else instance("dtype", dtype, torch.dtype)
        if divisor != 1 and not found.is_floating_point:
            raise InputError(f"divisor={divisor} of {found}: give dtype=torch.float32 too")
        super().__init__((len(array) if rows is None else len(rows), *array.shape[1:]), found)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What :meth:`fetch` reads, by tensor operations alone: a recording's inputs."""
        return (self.values,) if self.rows is None else (self.values, self.rows)

    def fetch(self, rows: Tensor) -> Tensor:
        """Some of the rows, ``(B, ...)``, in memory of their own."""
        found = self.values.index_select(0, rows if self.rows is None else self.rows.index_select(0, rows))
        if self.swapped:  # the file's bytes, (B, ..., bytes), the other way round
            found = found.flip(-1).view(self._own).squeeze(-1)
        found = found.to(self.dtype)
        return found if self.divisor == 1 else found / self.divisor

    def chosen(self, rows: Tensor) -> "Mapped":
        """Some of the rows, still on the file: a split is one of these for each part.

        Arguments:
            rows: Indices of the rows, from 0, integers, ``(M,)``.

        Raises:
            InputError: If one is not there.
        """
        known = _indices(rows, len(self))
        of_file = known if self.rows is None else self.rows[known]
        return Mapped(self.array, of_file, dtype=self.dtype, divisor=self.divisor)

    def flatten(self, start_dim: int = 1) -> "Mapped":
        """The same rows as vectors, ``(N, D)``.

        Raises:
            InputError: If ``start_dim`` is another than 1; if numbers of a row do not lie beside one another.
        """
        if start_dim != 1:
            raise InputError(f"rows of a file are flattened from dimension 1, not {start_dim}")
        flat = self.array.reshape(len(self.array), -1)
        if not np.may_share_memory(flat, self.array) and flat.size:
            raise InputError("the numbers of a row do not lie beside one another in the file: write it in C order")
        return Mapped(flat, self.rows, dtype=self.dtype, divisor=self.divisor)


def map_file(file: str | Path, *, dtype: torch.dtype | None = None, divisor: float = 1) -> Mapped:
    """The rows of a ``.npy`` file, which stays where it is.

    Arguments:
        file: Path of the file.
        dtype: Precision that fetched numbers are brought to; by default what they are in the file.
        divisor: Number that fetched numbers are divided by after that, 255 say.

    Raises:
        InputError: If there is no such file, it is truncated, or it holds something else than one array of numbers.
    """
    where = path("file", file)
    try:
        array = np.load(where, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"no file {where}: check the path") from error
    except Exception as error:  # NumPy raises whatever the damage leads to: ValueError, EOFError, BadZipFile, ...
        raise InputError(f"{where} is truncated, or no .npy file of numbers ({in_one_line(error)})") from error
    if not isinstance(array, np.memmap):
        raise InputError(f"{where} is an archive, whose arrays cannot be mapped: write each by np.save")
    return Mapped(array, dtype=dtype, divisor=divisor)


def is_mapped(array: np.ndarray[Any, Any]) -> bool:
    """Does an array lie in a mapped file, itself or as part of one that does?"""
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.obj if isinstance(base, memoryview) else base.base
    return isinstance(base, mmap.mmap)


class _Memory:
    """Where an array lies, as NumPy's protocol tells it, without the mark that it must not be written.

    Of an array with that mark torch warns that writing to it is undefined. Nothing here writes to it: what is given to
    a pair are rows in memory of their own.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array  # as long as anybody reads there
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _over(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over an array's memory, ``(N, ...)``; of another byte order over its bytes, ``(N, ..., bytes)``."""
    plain = np.asarray(_Memory(array))
    if not array.dtype.isnative:
        plain = plain[..., np.newaxis].view(np.uint8)
    return torch.from_numpy(plain)


def _check(array: np.ndarray[Any, Any]) -> None:
    """Refuse an array that a tensor cannot lie over."""
    what = f"the mapped array of {array.dtype}, shape {array.shape},"
    if not is_mapped(array):
        raise InputError(f"{what} does not lie in a mapped file but in memory: give it as it is")
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8 or array.ndim == 0:
        raise InputError(f"{what} cannot be read row by row: give numbers of at most 8 bytes, one row a datum")
    if any(stride < 0 for stride in array.strides) or not array.flags.aligned:
        raise InputError(f"{what} lies backwards or between the words of memory: write it anew by np.save")
    if any(stride % array.dtype.itemsize for stride in array.strides):
        raise InputError(f"{what} is a field of records: write it by itself, by np.save")


def _indices(rows: Tensor, size: int) -> Tensor:
    """Numbers of rows, if all are there."""
    tensors(rows=rows)
    if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"rows must be integers, one a datum, not of {rows.dtype}, shape {tuple(rows.shape)}")
    found = rows.detach().cpu().long()
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < size:
        raise InputError(f"rows must lie between 0 and {size - 1}: one is {int(found.min())} or {int(found.max())}")
    return found
