"""Tables: reading them from files, pandas and polars, and finding which column is what."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.data.schema import KINDS, TOTAL, Column, Schema, Table, is_missing, is_number, objects, text_of
from pyro_aevb.errors import InputError, in_one_line, told
from pyro_aevb.files import regular_file

__all__ = ["ENDINGS", "Roles", "find_schema", "is_table", "read_table"]

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
MOST_CATEGORIES = 1000
INDEX_OF_PANDAS = "Unnamed: 0"  # the name of the first column in a file that to_csv wrote with its index


@dataclass(frozen=True)
class Roles:
    """Which columns are what, as the user names them.

    Arguments:
        columns: Columns of x; ``None`` for all that have no other role.
        labels: Column of labels.
        index: Column that names the rows.
        condition: Columns that the model is conditioned on.
        exposure: Column of exposures.
        kinds: Kind of columns, by name, where it is not the one that their values suggest.
    """

    columns: Sequence[str] | None = None
    labels: str | None = None
    index: str | None = None
    condition: Sequence[str] = ()
    exposure: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)


def find_schema(table: Table, roles: Roles, missing: bool, where: str) -> Schema:
    """The schema of a table.

    Arguments:
        table: The table.
        roles: Which columns are what.
        missing: Whether empty cells are missing values.
        where: The table's name, for messages.

    Raises:
        InputError: If a column is not there, is of no kind, or says nothing; if two roles want the same one.
    """
    index = roles.index
    if index is None and next(iter(table), None) == INDEX_OF_PANDAS:
        index = INDEX_OF_PANDAS
        logger.info("%s: the first column has no name and is taken for the index", where)
    exposure = None if roles.exposure == TOTAL and TOTAL not in table else roles.exposure
    named = [each for each in (roles.labels, index, exposure) if each is not None]
    for name in (*named, *roles.condition, *(roles.columns or ()), *roles.kinds):
        if name not in table:
            raise InputError(f"{where} has no column {name!r}: it has {', '.join(list(table)[:20])}")
    taken = {*named, *roles.condition}
    if twice := [name for name in roles.columns or () if name in taken]:
        raise InputError(f"column {twice[0]!r} cannot be of the data and have another role: leave it out of one")
    wanted = [name for name in table if name not in taken] if roles.columns is None else list(roles.columns)
    if not wanted:
        raise InputError(f"{where} has no column left to model")
    columns = tuple(_find_column(name, table[name], roles.kinds.get(name), where) for name in wanted)
    condition = tuple(
        _standardised(_find_column(name, table[name], roles.kinds.get(name), where), table[name])
        for name in roles.condition
    )
    return Schema(
        columns,
        (len(columns),),
        missing=missing,
        labels=roles.labels,
        index=index,
        condition=condition,
        exposure=roles.exposure,
    )


def _find_column(name: str, values: np.ndarray[Any, Any], kind: str | None, where: str) -> Column:
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown kind {kind!r} of column {name!r}: give one of {', '.join(KINDS)}")
    text = values.dtype.kind == "O"
    there = [each for each in values.tolist() if not is_missing(each)]
    distinct: list[Any] = sorted({text_of(each) for each in there} if text or kind == "category" else set(there))
    if len(distinct) < 2:
        found = f"one value, {distinct[0]}, in all rows" if distinct else "no value in any row"
        raise InputError(f"{where}: column {name!r} has {found}: it says nothing, leave it out with --columns")
    if text or kind == "category":
        return _category(name, distinct, len(there), kind, where)
    found = _kind_of(distinct)
    suits = {"real": True, "count": found in ("count", "binary"), "binary": found == "binary"}
    if kind is not None and not suits[kind]:
        raise InputError(f"{where}: column {name!r} is not {kind}: its values are {told(distinct[0])}, ... ")
    return Column(name, kind or found)


def _kind_of(distinct: Sequence[float]) -> str:
    if set(distinct) == {0.0, 1.0}:
        return "binary"
    return "count" if distinct[0] >= 0 and all(value == int(value) for value in distinct) else "real"


def _category(name: str, distinct: Sequence[str], count: int, kind: str | None, where: str) -> Column:
    if kind not in (None, "category", "binary"):
        raise InputError(f"{where}: column {name!r} holds text such as {distinct[0]!r}, which is no {kind}")
    if len(distinct) > MOST_CATEGORIES or (len(distinct) > 20 and len(distinct) > count / 2):
        raise InputError(
            f"{where}: column {name!r} has {len(distinct)} different texts in {count} rows: if it names the rows, give "
            f"--index {name}; else leave it out with --columns"
        )
    return Column(name, "binary" if len(distinct) == 2 and kind != "category" else "category", tuple(distinct))


def _standardised(column: Column, values: np.ndarray[Any, Any]) -> Column:
    """A covariate with its mean and standard deviation."""
    if column.kind == "category" or column.categories:
        return column
    return Column(column.name, column.kind, (), float(np.nanmean(values)), float(np.nanstd(values)))


# ---------------------------------------------------------------- reading


def is_table(source: Any) -> bool:
    """Whether it is a table of pandas, polars or Arrow, or the path of one."""
    if isinstance(source, str | Path):
        return Path(source).suffix.lower() in ENDINGS
    import narwhals

    return isinstance(narwhals.from_native(source, eager_only=True, pass_through=True), narwhals.DataFrame)


def read_table(source: Any) -> Table:
    """The columns of a table by name, from a ``.csv``, ``.tsv`` or ``.parquet`` file, pandas, polars or Arrow.

    Raises:
        InputError: If it cannot be read, is empty, or a column holds neither numbers nor text.
    """
    import narwhals  # with pandas a second to import, so only where it is used

    where = str(source) if isinstance(source, str | Path) else "the table"
    native = _read(Path(source)) if isinstance(source, str | Path) else source
    if not all(isinstance(name, str) for name in native.columns):  # numbers, in pandas
        native = native.rename(columns=str)
    frame = narwhals.from_native(native, eager_only=True)
    if not len(frame) or not frame.columns:
        raise InputError(f"{where} has {len(frame)} rows and {len(frame.columns)} columns: there is nothing in it")
    names = frame.columns
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{where} has two columns {twice[0]!r}: name them differently")
    return {name: _column_values(frame[name], name, where) for name in names}


def _read(path: Path) -> Any:
    import pandas

    if not path.exists():
        raise InputError(f"no file {path}: check the path")
    regular_file(path)
    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        separator, header = _dialect(path)
        return pandas.read_csv(path, sep=separator, header=header, encoding="utf-8-sig", skipinitialspace=True)
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs pyarrow: pip install 'pyro_aevb[parquet]'") from error
    except Exception as error:  # pandas raises whatever the damage leads to
        raise InputError(f"{path} cannot be read as a table: {in_one_line(error)}") from error


def _dialect(path: Path) -> tuple[str, int | None]:
    """What separates the columns, and whether the first line names them: it does unless it is numbers alone."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline().strip()
    counts = {mark: first.count(mark) for mark in ",;\t|"}
    separator = max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","
    cells = next(csv.reader([first], delimiter=separator), [])
    return separator, None if cells and all(is_number(cell) for cell in cells) else 0


def _column_values(series: Any, name: str, where: str) -> np.ndarray[Any, Any]:
    import narwhals

    kind = series.dtype
    if kind.is_numeric() or kind == narwhals.Boolean:
        return np.array(series.cast(narwhals.Float64).to_numpy(), dtype=np.float64)  # a copy, which may be written
    if kind.is_temporal():
        raise InputError(f"{where}: column {name!r} holds dates or times: make it --index, or leave it out (--columns)")
    values = [None if is_missing(each) else each for each in series.to_list()]
    there = [each for each in values if each is not None]
    if all(isinstance(each, str) for each in there):
        return objects(values)
    if all(isinstance(each, bool | int | float | np.number | np.bool_) for each in there):
        return np.array([math.nan if each is None else float(each) for each in values])
    if all(isinstance(each, str | bool | int | float | np.number | np.bool_) for each in there):
        return objects([None if each is None else text_of(each) for each in values])
    other = next(each for each in there if not isinstance(each, str | int | float))
    raise InputError(f"{where}: column {name!r} holds a {type(other).__name__}, neither numbers nor text")
