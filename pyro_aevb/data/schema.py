"""How rows of a table or an array become tensors, and values words again.

A :class:`Schema` is found once, in the data that a model is trained on; new data are read by it, and what a model says
of them is written by it, with names of columns, categories and index.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.data.cells import Cells, Table
from pyro_aevb.errors import InputError, in_one_line

__all__ = [
    "ALONE",
    "KINDS",
    "OWN_TOTAL",
    "TOTAL",
    "Beside",
    "Column",
    "Rows",
    "Schema",
    "check_values",
    "plain_schema",
    "schema_from",
    "total_of",
]

TOTAL = "total"
"""What the exposure is called that is each row's total of counts, a library's size, where no column is called so."""

OWN_TOTAL = "= total of counts"
"""What a schema has for it, which no column is called."""

MOST_NUMBERS = 2**31  # of a row

KINDS = ("real", "count", "binary", "category")


@dataclass(frozen=True, eq=False)
class Beside:
    """What belongs to each datum besides its values.

    Arguments:
        index: Name of each row.
        condition: What the model is conditioned on: whole numbers, ``(N,)``, or covariates, ``(N, C)``.
        exposure: Exposure of each row, ``(N,)``.
        table: The table that they were read from, cell by cell; ``None`` where they are of arrays.
    """

    index: tuple[str, ...] | None = None
    condition: Tensor | None = None
    exposure: Tensor | None = None
    table: Table | None = None

    def arguments(self, x: Any) -> Any:
        """What a pair takes the values and these as: the values alone, or a dictionary with condition and exposure."""
        given = self.tensors()
        return {"x": x, **given} if given else x

    def tensors(self) -> dict[str, Tensor]:
        """Condition and exposure by name, those that there are."""
        beside = {"condition": self.condition, "exposure": self.exposure}
        return {name: part for name, part in beside.items() if part is not None}

    def at(self, rows: Tensor) -> "Beside":
        """What belongs to these rows."""
        index = None if self.index is None else tuple(self.index[i] for i in rows.tolist())
        condition = None if self.condition is None else self.condition[rows]
        exposure = None if self.exposure is None else self.exposure[rows]
        return Beside(index, condition, exposure, None if self.table is None else self.table.at(rows))


ALONE = Beside()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of data with what belongs to each: a label, an index, a condition, an exposure.

    Arguments:
        x: The values, ``(N, D)``, NaN where one is missing; rows of a file where they stay there.
        labels: Label of each row, in words; ``None`` where there are none.
        beside: Index, condition and exposure of each row, and the table that they came from.
    """

    x: Any
    labels: tuple[str, ...] | None = None
    beside: Beside = ALONE

    @property
    def arguments(self) -> Any:
        """The rows as arguments of a pair: the values alone, or a dictionary with condition and exposure."""
        return self.beside.arguments(self.x)

    def at(self, rows: Tensor) -> "Rows":
        """These of the rows."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in rows.tolist())
        chosen = self.x[rows] if isinstance(self.x, Tensor) else self.x.chosen(rows)
        return Rows(chosen, labels, self.beside.at(rows))

    def first(self, count: int | None) -> "Rows":
        """The first so many rows; ``None`` for all."""
        if count is None or count >= len(self.x):
            return self
        labels = None if self.labels is None else self.labels[:count]
        return Rows(self.x[:count], labels, self.beside.at(torch.arange(count)))

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        moved: dict[str, Any] = {name: part.to(device) for name, part in self.beside.tensors().items()}
        return Rows(self.x.to(device), self.labels, replace(self.beside, **moved))

    def names(self) -> list[str]:
        """Name of each row: its index, or its number from 0 on."""
        index = self.beside.index
        return list(index) if index is not None else [str(i) for i in range(len(self.x))]


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, and how its cells become numbers.

    Arguments:
        name: Name of the column.
        kind: What its values are: ``real`` numbers, ``count`` (whole numbers from 0 on), ``binary`` (0 or 1), or
            ``category``.
        categories: Name of each category, counted from 0, where the column is of text; empty where it is of numbers.
        loc: Number that is subtracted from a covariate, the mean of the training data; 0 by default.
        scale: Number that it is divided by then, their standard deviation; 1 by default.
    """

    name: str
    kind: str = "real"
    categories: tuple[str, ...] = ()
    loc: float = 0.0
    scale: float = 1.0

    @property
    def kind_of_likelihood(self) -> str:
        """As :class:`~pyro_aevb.likelihoods.Columns` is told it."""
        return f"category:{len(self.categories)}" if self.kind == "category" else self.kind

    def numbers(self, table: Table, where: str, names: Sequence[str] = ()) -> np.ndarray[Any, Any]:
        """The column's values as numbers, ``(N,)``, NaN where one is missing.

        Arguments:
            table: The table.
            where: Its name, for messages.
            names: Names of its rows, for messages; by default their numbers from 0 on.

        Raises:
            InputError: If the table lacks the column, or it holds what it did not when the schema was found.
        """
        if self.name not in table:
            near = f", it has {', '.join(list(table)[:8])}" if table else ""
            raise InputError(f"{where} lacks the column {self.name!r}{near}")
        cells = table[self.name]
        if self.categories:
            return self._codes(cells, where, names)
        if cells.numbers is None:
            word = cells.no_number
            row = cells.words().index(word)
            raise InputError(f"{_place(where, row, names)}, column {self.name!r}, is {word!r}, no number")
        self._check(cells.numbers, where, names)
        return cells.numbers

    def _codes(self, cells: Cells, where: str, names: Sequence[str]) -> np.ndarray[Any, Any]:
        """The numbers of categories."""
        known = {category: float(i) for i, category in enumerate(self.categories)}
        for row, each in enumerate(words := cells.words()):
            if each is not None and each not in known:
                raise InputError(
                    f"{_place(where, row, names)}, column {self.name!r}, is {each!r}, a category that the training "
                    f"data do not have: they have {', '.join(self.categories[:8])}{' ...' * (len(self.categories) > 8)}"
                )
        return np.array([math.nan if each is None else known[each] for each in words])

    def _check(self, numbers: np.ndarray[Any, Any], where: str, names: Sequence[str]) -> None:
        """Refuse what is no number of the column's kind."""
        there = np.nan_to_num(numbers, nan=0.0)
        right = {
            "count": (there >= 0) & (there == there.round()),
            "binary": (there == 0) | (there == 1),
        }.get(self.kind, np.ones(len(there), bool))
        if not right.all():
            row = int(np.flatnonzero(~right)[0])
            what = {"count": "a count: whole numbers from 0 on", "binary": "0 or 1"}[self.kind]
            raise InputError(
                f"{_place(where, row, names)}, column {self.name!r}, is {numbers[row]:g}, and must be {what}"
            )

    def shown(self, values: Tensor) -> list[Any]:
        """Values as a table shows them, numbers or categories; of yes or no the more probable one."""
        if self.categories:
            return [self._category(value) for value in values.double().tolist()]
        return [float(str(value)) for value in values.float().cpu().numpy()]  # 70.89, not 70.8899994

    def _category(self, value: float) -> str | None:
        if math.isnan(value):
            return None
        return self.categories[min(max(round(value), 0), len(self.categories) - 1)]


def _place(where: str, row: int, names: Sequence[str]) -> str:
    """Where a row stands, for messages."""
    return f"{where}: row {row}" + (f" ({names[row]})" if names else "")


@dataclass(frozen=True)
class Schema:
    """How rows of a table, or of an array, become tensors.

    Arguments:
        columns: The columns of x; none where it is an array.
        shape: Shape of one row of x.
        scale: What values are divided by: a number, or ``auto`` or ``bytes``, see :func:`~pyro_aevb.data.load`.
        bytes_by: Number that the training data were divided by where they were bytes, so that new bytes are divided by
            it too; ``None`` where they were no bytes.
        counts: Whether the likelihood is one of counts, so that bytes are counts.
        missing: Whether NaN means that a value is missing.
        labels: Name of the column of labels; ``None`` for none.
        index: Name of the column that names the rows; ``None`` for none.
        condition: The columns that the model is conditioned on; empty for none.
        exposure: Name of the column of exposures; :data:`~pyro_aevb.data.schema.OWN_TOTAL` for each row's total of
            counts; ``None`` for none.
    """

    columns: tuple[Column, ...] = ()
    shape: tuple[int, ...] = ()
    scale: float | str = "auto"
    bytes_by: float | None = None
    counts: bool = False
    missing: bool = False
    labels: str | None = None
    index: str | None = None
    condition: tuple[Column, ...] = ()
    exposure: str | None = None

    @property
    def condition_dim(self) -> int:
        """Number of columns C of the condition, categories one-hot."""
        return sum(len(column.categories) if column.kind == "category" else 1 for column in self.condition)

    def rows(self, table: Table, where: str) -> Rows:
        """The rows of a table.

        Arguments:
            table: The table.
            where: Its name, for messages.

        Raises:
            InputError: If a column is missing, or holds what it must not: names column and row.
        """
        index = self._index(table)
        names = index or ()
        values = np.stack([column.numbers(table, where, names) for column in self.columns], axis=1)  # (N, D)
        x = torch.from_numpy(values.astype(np.float32))
        check_values(x, where, self.missing, [column.name for column in self.columns], names)
        labels = None if self.labels is None or self.labels not in table else _filled(table[self.labels].words())
        beside = Beside(index, self.condition_rows(table, where), self._exposure(table, x, where), table)
        return Rows(x, labels, beside)

    def _index(self, table: Table) -> tuple[str, ...] | None:
        """Names of a table's rows: of the column that names them, else of a frame's own index."""
        known = (name for name in (self.index, table.index) if name is not None and name in table)
        name = next(known, None)
        return None if name is None else _filled(table[name].words())

    def condition_rows(self, table: Table, where: str) -> Tensor | None:
        """The condition of a table's rows; ``None`` where there is none.

        Raises:
            InputError: As :meth:`rows`.
        """
        if not self.condition:
            return None
        parts = [torch.from_numpy(column.numbers(table, where)) for column in self.condition]
        for column, values in zip(self.condition, parts, strict=True):
            if values.isnan().any():
                row = int(values.isnan().nonzero()[0])
                raise InputError(f"{where}: row {row}, column {column.name!r}, is empty: a condition must be known")
        if len(parts) == 1 and self.condition[0].kind == "category":
            return parts[0].long()
        return torch.cat([_covariates(*each) for each in zip(self.condition, parts, strict=True)], dim=1).float()

    def _exposure(self, table: Table, x: Tensor, where: str) -> Tensor | None:
        if self.exposure is None:
            return None
        if self.exposure == OWN_TOTAL:
            counts = [i for i, column in enumerate(self.columns) if column.kind == "count"]
            return total_of(x[:, counts], where)
        values = torch.from_numpy(Column(self.exposure).numbers(table, where)).float()
        if not bool((values > 0).all()):
            row = int((~(values > 0)).nonzero()[0])
            raise InputError(f"{where}: row {row}, the exposure {self.exposure!r}, is {values[row]:g}, not positive")
        return values


def schema_from(values: Any) -> Schema:
    """A schema from plain values, as ``dataclasses.asdict`` gives them and a file keeps them.

    Raises:
        InputError: If they are no schema.
    """
    try:
        given = dict(values)
        given |= {name: tuple(_column(each) for each in given[name]) for name in ("columns", "condition")}
        given["shape"] = tuple(_whole(size) for size in given["shape"])
        made = Schema(**given)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"it is no schema ({in_one_line(error)})") from error
    names = (made.labels, made.index, made.exposure)
    named = all(name is None or isinstance(name, str) for name in names)
    scaled = made.scale in ("auto", "bytes") or (isinstance(made.scale, float | int) and made.scale > 0)
    _check_sizes(made)
    scaled = scaled and (made.bytes_by is None or (isinstance(made.bytes_by, float | int) and made.bytes_by > 0))
    if not named or not scaled or not all(isinstance(each, bool) for each in (made.missing, made.counts)):
        raise InputError("it is no schema: labels, index and exposure are names, missing and counts true or false")
    return made


def _check_sizes(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    fits = not names or schema.shape == (len(names),)
    if not fits or len(set(names)) != len(names) or math.prod(schema.shape) > MOST_NUMBERS:
        raise InputError("it is no schema: its columns and its shape do not fit each other")


def _column(values: Any) -> Column:
    made = Column(**{**values, "categories": tuple(values["categories"])})
    text = isinstance(made.name, str) and all(isinstance(each, str) for each in made.categories)
    numbers = isinstance(made.loc, float | int) and isinstance(made.scale, float | int) and made.scale != 0
    numbers = numbers and math.isfinite(float(made.loc)) and math.isfinite(float(made.scale))
    named = made.kind != "category" or len(made.categories) > 1
    if not text or not numbers or not named or made.kind not in KINDS:
        raise ValueError(f"of a column {str(made.name)[:30]!r}")
    return made


def _whole(size: Any) -> int:
    if type(size) is not int or size < 1:
        raise ValueError("of a shape")
    return size


def _covariates(column: Column, values: Tensor) -> Tensor:
    """A covariate's columns of the condition, ``(N, 1)``, a category's one-hot, ``(N, C)``."""
    if column.kind == "category":
        return (values.unsqueeze(-1) == torch.arange(len(column.categories))).double()
    return ((values - column.loc) / column.scale).unsqueeze(-1)


def plain_schema(schema: Schema) -> dict[str, Any]:
    """A schema in plain values, for a file: :func:`schema_from` takes them."""
    return dict(_listed(asdict(schema)))


def _listed(value: Any) -> Any:
    """Plain values with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


def check_values(x: Tensor, where: str, missing: bool, columns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    """Refuse infinite values, and where NaN does not mean that one is missing, NaN.

    Arguments:
        x: The values, ``(N, ...)``.
        where: Where they are from, for the message.
        missing: Whether NaN means that a value is missing.
        columns: Names of the columns, where there are some.
        names: Names of the rows, where there are some.

    Raises:
        InputError: Names the first row.
    """
    flat = x.flatten(1)
    wrong = flat.isinf() if missing else ~flat.isfinite()
    if not wrong.any():
        return
    row, column = wrong.nonzero()[0].tolist()
    place = _place(where, row, names) + (f", column {columns[column]!r}," if columns else "")
    if flat[row, column].isnan() and columns:
        raise InputError(f"{place} is empty: fill it, or train with --missing, missing=True, if it is not known")
    hint = ", or train with --missing, missing=True, if NaN means missing" if flat[row, column].isnan() else ""
    raise InputError(f"{place} has a NaN or infinite value: clean the data first{hint}")


def _filled(words: Sequence[str | None]) -> tuple[str, ...]:
    """Words, empty where there is none."""
    return tuple(word or "" for word in words)


def total_of(counts: Tensor, where: str) -> Tensor:
    """Total of each row's counts, ``(N,)``.

    Arguments:
        counts: The counts, ``(N, ...)``.
        where: Where they are from, for the message.

    Raises:
        InputError: If there are none, one is missing, or all of a row are zero: names the first row.
    """
    total = counts.flatten(1).sum(1)
    if not counts.numel() or not bool((total > 0).all()):
        row = int((~(total > 0)).nonzero()[0]) if counts.numel() else 0
        raise InputError(
            f"{where}: row {row} has no total of counts above 0: exposure='total' needs all counts of a row"
        )
    return total
