"""Tables: reading them from files, pandas and polars, and finding which column is what."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.data.cells import GAPS, Cells, Table
from pyro_aevb.data.schema import KINDS, OWN_TOTAL, TOTAL, Column, Schema
from pyro_aevb.errors import InputError, in_one_line, told
from pyro_aevb.files import regular_file

__all__ = ["ENDINGS", "Roles", "by_value", "find_schema", "is_table", "read_table"]

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
MOST_CATEGORIES = 1000
INDEX_OF_PANDAS = "Unnamed: 0"  # the name of the first column in a file that to_csv wrote with its index
LIKE_NUMBERS = re.compile(r"[\d.,%$€£:/\s+-]*\d[\d.,%$€£:/\s+-]*")


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
    index = roles.index or table.index or _unnamed(table)
    exposure = None if roles.exposure == TOTAL and TOTAL not in table else roles.exposure
    named = [each for each in (roles.labels, index, exposure) if each is not None]
    for name in (*named, *roles.condition, *(roles.columns or ()), *roles.kinds):
        if name not in table:
            raise InputError(f"{where} has no column {name!r}: it has {', '.join(list(table)[:20])}")
    taken = {*named, *roles.condition, table.index, _unnamed(table)}
    if twice := [name for name in roles.columns or () if name in taken]:
        raise InputError(f"column {twice[0]!r} cannot be of the data and have another role: leave it out of one")
    wanted = [name for name in table if name not in taken] if roles.columns is None else list(roles.columns)
    if repeated := [name for i, name in enumerate(wanted) if name in wanted[:i]]:
        raise InputError(f"column {repeated[0]!r} is named twice: name it once")
    _check_that_they_say_something(table, wanted, where)
    _check_that_they_say_something(table, list(roles.condition) or wanted, where)
    for name in wanted:
        _check_precision(name, table[name], where)
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
        exposure=OWN_TOTAL if roles.exposure and exposure is None else exposure,
    )


def _unnamed(table: Table) -> str | None:
    """The first column, if it has no name: the index that ``to_csv`` writes."""
    return INDEX_OF_PANDAS if next(iter(table), None) == INDEX_OF_PANDAS else None


def _check_that_they_say_something(table: Table, wanted: Sequence[str], where: str) -> None:
    """Refuse columns of one value, or none: all of them at once, with the words that leave them out."""
    if not wanted:
        raise InputError(f"{where} has no column left to model")
    distinct = {name: {each for each in table[name].words() if each is not None} for name in wanted}
    nothing = [name for name in wanted if len(distinct[name]) < 2]
    if not nothing:
        return
    first = next(iter(distinct[nothing[0]]), None)
    found = "no value in any row" if first is None else f"one value, {first}, in all rows"
    more = f", nor {', '.join(map(repr, nothing[1:]))}" if len(nothing) > 1 else ""
    others = ",".join(name for name in wanted if name not in nothing)
    advice = f"leave it out, --columns {others}" if others else "there is no other"
    raise InputError(f"{where}: column {nothing[0]!r} has {found}: it says nothing{more}: {advice}")


def _check_precision(name: str, cells: Cells, where: str) -> None:
    """Refuse numbers so much larger than what they differ by that float32 cannot tell them apart."""
    if cells.numbers is None:
        return
    numbers = cells.numbers[~np.isnan(cells.numbers)]
    lost = np.abs(numbers - numbers.astype(np.float32)).max(initial=0)
    if lost > 1e-3 * numbers.std():
        raise InputError(
            f"{where}: column {name!r} has numbers near {numbers.mean():.6g} that differ by less than float32 tells: "
            "take a constant off, or leave it out with --columns"
        )


def _find_column(name: str, cells: Cells, kind: str | None, where: str) -> Column:
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown kind {kind!r} of column {name!r}: give one of {', '.join(KINDS)}")
    words = sorted({each for each in cells.words() if each is not None}, key=by_value)
    if cells.numbers is None or kind == "category":
        return _category(name, words, int((~cells.is_empty).sum()), kind, where)
    found = _kind_of(np.unique(cells.numbers[~cells.is_empty]))
    suits = {"real": True, "count": found in ("count", "binary"), "binary": found == "binary"}
    if kind is not None and not suits[kind]:
        raise InputError(f"{where}: column {name!r} is not {kind}: it has {told(words[0])} and {told(words[-1])}")
    return Column(name, kind or found)


def _kind_of(distinct: np.ndarray[Any, Any]) -> str:
    if distinct.tolist() == [0.0, 1.0]:
        return "binary"
    return "count" if distinct[0] >= 0 and bool((distinct == distinct.round()).all()) else "real"


def _category(name: str, words: Sequence[str], count: int, kind: str | None, where: str) -> Column:
    if kind in ("real", "count"):
        raise InputError(f"{where}: column {name!r} holds text such as {words[0]!r}, which is no {kind}")
    if kind == "binary" and len(words) != 2:
        raise InputError(f"{where}: column {name!r} has {len(words)} different texts, and binary is of two")
    if kind is None:
        _check_no_numbers(name, words, where)
    if len(words) > MOST_CATEGORIES or (len(words) > 20 and len(words) > count / 2):
        raise InputError(
            f"{where}: column {name!r} has {len(words)} different texts in {count} rows: if it names the rows, give "
            f"--index {name}; else leave it out with --columns"
        )
    return Column(name, "binary" if len(words) == 2 and kind != "category" else "category", tuple(words))


def _check_no_numbers(name: str, words: Sequence[str], where: str) -> None:
    """Refuse numbers that are written otherwise, or have a word or two among them: they would become categories."""
    others = [word for word in words if Cells([word]).numbers is None]
    codes = all(word.lstrip("+-").isdecimal() for word in others)  # 007, which is no number seven
    if len(others) < len(words) / 2 and not codes:
        raise InputError(
            f"{where}: column {name!r} has {others[0]!r} among numbers: empty the cell if it is not known, or give "
            f"--kinds {name}=category"
        )
    if not codes and all(LIKE_NUMBERS.fullmatch(word) for word in words):
        raise InputError(
            f"{where}: column {name!r} has {words[0]!r}, which looks like a number or a date and is none: write "
            f"1234.5, or give --kinds {name}=category, or leave it out with --columns"
        )


def by_value(word: str) -> tuple[float, str]:
    """Sorts numbers by their value, before text in alphabetical order."""
    found = Cells([word]).numbers
    return (float("inf"), word) if found is None else (float(found[0]), word)


def _standardised(column: Column, cells: Cells) -> Column:
    """A covariate with its mean and standard deviation."""
    if column.categories or cells.numbers is None:
        return column
    return Column(column.name, column.kind, (), float(np.nanmean(cells.numbers)), float(np.nanstd(cells.numbers)))


# ---------------------------------------------------------------- reading


def is_table(source: Any) -> bool:
    """Whether it is a table of pandas, polars or Arrow, or the path of one."""
    if isinstance(source, str | Path):
        return Path(source).suffix.lower() in ENDINGS
    import narwhals

    return bool(narwhals.dependencies.is_into_dataframe(source))


def read_table(source: Any) -> Table:
    """The columns of a table by name, from a ``.csv``, ``.tsv`` or ``.parquet`` file, pandas, polars or Arrow.

    A file's cell is empty where it holds nothing, NA, N/A or NaN; all else is a value. Spaces around it do not count.

    Raises:
        InputError: If it cannot be read, is empty, or a column holds neither numbers nor text.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    return _of_frame(source, "the table")


def _read_text(path: Path) -> Table:
    import pandas  # a second to import, so only where it is used

    try:
        separator, header = _dialect(_there(path))
        frame = pandas.read_csv(
            path,
            sep=separator,
            header=header,
            index_col=False,
            encoding="utf-8-sig",
            dtype=str,
            na_values=[*GAPS],
            keep_default_na=False,
            skipinitialspace=True,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    except pandas.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: there is nothing in it") from error
    except pandas.errors.ParserError as error:
        raise InputError(f"{path} cannot be read as a table: {_uneven(error)}") from error
    _check_size(len(frame), len(frame.columns), str(path))
    columns = {str(name): frame[name] for name in frame.columns}
    return Table({name.strip(): Cells(_stripped(column)) for name, column in columns.items()})


def _stripped(column: Any) -> list[str | None]:
    """Words without spaces around them, and ``None`` for a gap."""
    found = (each.strip() if isinstance(each, str) else None for each in column)
    return [None if each in GAPS else each for each in found]


def _uneven(error: Exception) -> str:
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if match is None:
        return in_one_line(error)
    wanted, line, seen = match.groups()
    return (
        f"line {line} has {seen} cells, the lines before it {wanted}: put quotes around a cell that holds the separator"
    )


def _there(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"no file {path}: check the path")
    return regular_file(path)


def _dialect(path: Path) -> tuple[str, int | None]:
    """What separates the columns, and whether the first line names them: it does unless it is numbers alone."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline().strip()
        counts = {mark: first.count(mark) for mark in ",;\t|"}
        separator = max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","
        file.seek(0)
        lines = csv.reader(file, delimiter=separator, skipinitialspace=True)
        names, second = ([cell.strip() for cell in next(lines, [])] for _ in range(2))
    if second and len(second) != len(names):
        raise InputError(f"{path}: line 2 has {len(second)} cells, and the first line {len(names)}: name each column")
    if names and Cells(names).numbers is not None:
        return separator, None
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{path} has two columns {twice[0]!r}: name them differently")
    return separator, 0


def _read_parquet(path: Path) -> Table:
    import pandas

    try:
        return _of_frame(pandas.read_parquet(_there(path)), str(path))
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs pyarrow: pip install 'pyro_aevb[parquet]'") from error
    except InputError:
        raise
    except Exception as error:  # pyarrow raises whatever the damage leads to
        raise InputError(f"{path} cannot be read as a table: {in_one_line(error)}") from error


def _of_frame(native: Any, where: str) -> Table:
    """The columns of a frame, a pandas frame's index first where it is more than the numbers of rows."""
    import narwhals

    names = [str(name) for name in native.columns]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{where} has two columns {twice[0]!r}: name them differently")
    if any(isinstance(name, tuple) for name in native.columns):
        raise InputError(f"{where} has names of columns in several levels: give it one name a column")
    index = _index_of(native)
    if not all(isinstance(name, str) for name in native.columns):  # numbers, in pandas
        native = native.rename(columns=str)
    frame = narwhals.from_native(native, eager_only=True)
    _check_size(len(frame), len(frame.columns), where)
    columns = {name: _cells(frame[name], name, where) for name in names}
    if index is None:
        return Table(columns)
    own = INDEX_OF_PANDAS if index.name is None else str(index.name)
    if own in columns:
        raise InputError(f"{where} has an index and a column that are both called {own!r}: name them differently")
    return Table({own: Cells(map(str, index.tolist())), **columns}, own)


def _index_of(native: Any) -> Any:
    """A pandas frame's index, if it is more than the numbers of its rows."""
    index = getattr(native, "index", None)
    if index is None or callable(index) or not hasattr(index, "tolist"):
        return None
    plain = index.name is None and index.tolist() == list(range(len(index)))
    return None if plain else index


def _check_size(rows: int, columns: int, where: str) -> None:
    if not rows or not columns:
        raise InputError(f"{where} has {rows} rows and {columns} columns: there is nothing in it")


def _cells(series: Any, name: str, where: str) -> Cells:
    import narwhals

    kind = series.dtype
    if kind.is_integer() and not series.is_null().any():
        return Cells(np.array(series.to_numpy()))
    if kind.is_float() or (kind.is_numeric() and not kind.is_integer()):
        return Cells(np.array(series.cast(narwhals.Float64).to_numpy(), dtype=np.float64))
    if kind.is_temporal():
        raise InputError(f"{where}: column {name!r} holds dates or times: make it --index, or leave it out (--columns)")
    values = [None if _is_missing(each) else each for each in series.to_list()]
    there = [each for each in values if each is not None]
    plain = (str, bool, int, float, np.number, np.bool_)
    if not all(isinstance(each, plain) for each in there):
        other = next(each for each in there if not isinstance(each, plain))
        raise InputError(f"{where}: column {name!r} holds a {type(other).__name__}, neither numbers nor text")
    return Cells(each if each is None or isinstance(each, str) else str(each) for each in values)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)
