"""The cells of a table: as they stand, and as numbers."""

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Cells", "Table", "words_of"]

GAPS = ("", "NA", "N/A", "NaN", "nan")
"""What stands in a file's cell where a value is missing; all else is a value."""


class Cells:
    """A column of a table.

    Arguments:
        given: The cells: numbers, whole or not, in an array; or words, and ``None`` where one is empty.
    """

    def __init__(self, given: Iterable[Any]) -> None:
        self.given = given if isinstance(given, np.ndarray) else _objects(given)

    def __len__(self) -> int:
        return len(self.given)

    @property
    def is_empty(self) -> np.ndarray[Any, Any]:
        """Which cells are empty, ``(N,)``."""
        if self.given.dtype.kind == "O":
            return np.array([each is None for each in self.given], dtype=bool)
        return np.isnan(self.given) if self.given.dtype.kind == "f" else np.zeros(len(self.given), bool)

    @cached_property
    def numbers(self) -> np.ndarray[Any, Any] | None:
        """The cells as float64, NaN where one is empty; ``None`` if some are no numbers, or are codes such as 007."""
        if self.given.dtype.kind != "O":
            return self.given.astype(np.float64)
        found = [math.nan if each is None else _number(each) for each in self.given]
        return None if None in found else np.array(found, dtype=np.float64)

    @property
    def no_number(self) -> str | None:
        """The first cell that is no number; ``None`` where all are."""
        return next((each for each in self.given if each is not None and _number(each) is None), None)

    def words(self) -> list[str | None]:
        """The cells in words, as they stand: whole numbers without a point."""
        if self.given.dtype.kind == "O":
            return list(self.given)
        return [None if each != each else _word(each) for each in self.given.tolist()]

    def values(self) -> list[Any]:
        """The cells as Python's own: whole numbers, other numbers, words, ``None``."""
        if self.numbers is None:
            return list(self.given)
        return [None if word is None else _plain(word) for word in self.words()]

    def at(self, rows: Tensor) -> "Cells":
        """The cells of these rows."""
        return Cells(self.given[rows.numpy()])


class Table(dict[str, Cells]):
    """Columns by name, in their order.

    Arguments:
        columns: The columns.
        index: Name of the column that a frame has as its index, so that it is of no other use; ``None`` for none.
    """

    def __init__(self, columns: dict[str, Cells], index: str | None = None) -> None:
        super().__init__(columns)
        self.index = index

    def at(self, rows: Tensor) -> "Table":
        """These of the rows."""
        return Table({name: cells.at(rows) for name, cells in self.items()}, self.index)


def words_of(array: Iterable[Any]) -> tuple[str, ...]:
    """An array's values in words, whole numbers without a point; empty where there is none."""
    values = array.tolist() if isinstance(array, np.ndarray) else list(array)
    return tuple("" if each is None or each != each else _word(each) for each in values)


def _objects(given: Iterable[Any]) -> np.ndarray[Any, Any]:
    values = [None if each is None else str(each) for each in given]
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def _number(word: str) -> float | None:
    """A word as a number; ``None`` if it is none, or a code whose zeros in front mean something."""
    digits = word.lstrip("+-")
    if digits[:1] == "0" and digits[1:2].isdigit():
        return None
    try:
        return None if "_" in word else float(word)
    except ValueError:
        return None


def _plain(word: str) -> int | float:
    return int(word) if word.lstrip("+-").isdecimal() else float(word)
