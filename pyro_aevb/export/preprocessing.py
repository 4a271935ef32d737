"""``preprocessing.json``: how a raw datum becomes what a graph takes, exactly, for a program in any language."""

from pathlib import PurePath
from typing import Any

from pyro_aevb.data import Column, DataSet, Schema
from pyro_aevb.data.schema import OWN_TOTAL

__all__ = ["name_of_data", "of_category", "preprocessing"]

FORMAT = "pyro_aevb preprocessing 1"

NAMED = {"mnist": 255.0, "fashion_mnist": 255.0, "frey_face": 256.0}
"""What the bytes of data sets that have a name are divided by."""

DIGITS = 16.0  # what the levels of grey of digits, which are no bytes, are divided by

BINARIZED = {
    "none": None,
    "static": "each grey value in [0, 1] is the probability of a 1: it was replaced by one draw of 0 or 1",
    "dynamic": "each grey value in [0, 1] is the probability of a 1: it was replaced by a new draw at each visit",
}


def of_category(schema: Schema) -> bool:
    """Whether the condition is one category, a whole number for each datum."""
    return len(schema.condition) == 1 and schema.condition[0].kind == "category"


def name_of_data(data: DataSet) -> str:
    """What the data are called: of a file its name alone, without the folder that it lay in."""
    return PurePath(data.name).name


def preprocessing(data: DataSet) -> dict[str, Any]:
    """How raw data become ``x``, ``condition`` and ``exposure``, in plain values and in words.

    Arguments:
        data: The run's data, of which only how they were read is looked at.
    """
    schema = data.schema
    found: dict[str, Any] = {"format": FORMAT, "data": name_of_data(data), "x": _of_x(data)}
    if schema.condition:
        found["condition"] = _of_condition(schema)
    if schema.exposure is not None:
        found["exposure"] = _of_exposure(schema)
    return found


def _of_x(data: DataSet) -> dict[str, Any]:
    schema = data.schema
    missing = "NaN where a value is missing" if schema.missing else "no value may be missing"
    if schema.columns:
        how = "one number a column, in this order, as it stands in the table; of a category its place in the list"
        return {
            "how": f"{how}, from 0 on; {missing}",
            "columns": [_column(column) for column in schema.columns],
            "missing": schema.missing,
        }
    divided = "bytes are divided by divide_bytes_by, where that is a number; all values by divide_by"
    return {
        "how": f"rows of this shape, flattened in the order of C; {divided}; {missing}",
        "shape": list(schema.shape or data.shape),
        **_divisors(data),
        "binarize": data.binarize,
        "binarized": BINARIZED[data.binarize],
        "missing": schema.missing,
    }


def _divisors(data: DataSet) -> dict[str, float | None]:
    """What values are divided by, and bytes besides; ``None`` where the training data were no bytes."""
    scale = data.schema.scale
    if data.name == "digits":
        return {"divide_by": DIGITS, "divide_bytes_by": None}
    if data.name in NAMED:
        return {"divide_by": 1.0, "divide_bytes_by": NAMED[data.name]}
    if not isinstance(scale, str):
        return {"divide_by": float(scale), "divide_bytes_by": None}
    return {"divide_by": 1.0, "divide_bytes_by": data.schema.bytes_by}


def _column(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"name": column.name, "kind": column.kind}
    return {**found, "categories": list(column.categories)} if column.categories else found


def _of_condition(schema: Schema) -> dict[str, Any]:
    if of_category(schema):
        how = "one whole number a datum: the category's place in the list, from 0 on"
        return {"how": how, "type": "int64", "columns": [_column(schema.condition[0])]}
    how = (
        "numbers side by side, in this order: of a number (value - loc) / scale, of a category 1 at its place in the "
        "list and 0 elsewhere"
    )
    columns = [
        {**_column(column), **({} if column.kind == "category" else {"loc": column.loc, "scale": column.scale})}
        for column in schema.condition
    ]
    return {"how": how, "type": "float32", "columns": columns}


def _of_exposure(schema: Schema) -> dict[str, Any]:
    if schema.exposure != OWN_TOTAL:
        return {"how": "a positive number a datum, as it stands in this column", "column": schema.exposure}
    counts = [column.name for column in schema.columns if column.kind == "count"]
    return {"how": "the total of a datum's counts", "total_of": counts or "all values of x"}
