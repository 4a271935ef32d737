"""What a run says of data as tables: an index, labels, and names of columns go through.

Each function takes the source of the data: ``"test"`` or ``"train"`` for the run's own, :class:`~pyro_aevb.data.Rows`,
or new data from wherever :func:`pyro_aevb.data.load` takes them.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb import evidence, predictions
from pyro_aevb.data import DataSet, Rows, Schema, read_rows
from pyro_aevb.data.cells import Cells, Table
from pyro_aevb.data.schema import Beside
from pyro_aevb.errors import InputError, positive, told, whole

if TYPE_CHECKING:
    import pandas

    from pyro_aevb.runs.run import Run

__all__ = [
    "codes_frame",
    "condition_of",
    "decoded_frame",
    "evaluated_frame",
    "imputed_frame",
    "rows_of",
    "sampled",
    "table_of",
    "values_frame",
]

Estimates = dict[str, Any]
"""By a method's name, its estimate of log p(x): ``log_likelihood`` and ``standard_error``, ``(B,)`` each, in nats."""


def rows_of(data: DataSet, source: Any, data_root: str | None = None) -> Rows:
    """The rows of a split, or of new data.

    Arguments:
        data: The run's data set.
        source: ``"test"``, ``"train"``, rows, or new data.
        data_root: Folder of data sets.

    Raises:
        InputError: If new data cannot be read as the run's own were.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, str) and source in ("test", "train"):
        return data.rows("test" if source == "test" else "train")
    return read_rows(data, source, data_root)


def table_of(rows: Rows, schema: Schema, columns: dict[str, Any]) -> "pandas.DataFrame":
    """A table with the rows' index, their labels where there are some, and columns of numbers or text.

    Arguments:
        rows: The rows that the columns are of.
        schema: The schema that they were read by.
        columns: The columns, N numbers or words each, by name.
    """
    import pandas  # a second to import, so only where it is used

    name = "row" if rows.beside.index is None or schema.index is None else schema.index
    index = pandas.Index(rows.names(), name=_free(name, columns))
    of_condition = schema.condition[0].name if schema.condition else "label"
    labels = [] if rows.labels is None else [(schema.labels or of_condition, list(rows.labels))]
    beside = {_free(called, columns): words for called, words in (*labels, *_given(rows, schema))}
    return pandas.DataFrame({**beside, **columns}, index=index)


def _given(rows: Rows, schema: Schema) -> list[tuple[str, list[Any]]]:
    """What rows were conditioned on, and their exposure, as it stands in their table."""
    if rows.beside.table is None:
        return []
    names = [column.name for column in schema.condition if column.name != schema.labels]
    names += [schema.exposure] if schema.exposure is not None and schema.exposure in rows.beside.table else []
    return [(name, rows.beside.table[name].values()) for name in names]


def _free(name: str, taken: Iterable[str]) -> str:
    """A name that no column has."""
    others = (f"{name}_{count}" for count in itertools.count(1))
    return next(free for free in itertools.chain([name], others) if free not in taken)


def values_frame(run: "Run", x: Tensor, rows: Rows | None = None, keep: bool = False) -> "pandas.DataFrame":
    """Values of the data, ``(N, D)``, as a table with the names of their columns, categories in words.

    Arguments:
        run: The run.
        x: The values.
        rows: The rows that they belong to; by default they are numbered.
        keep: Whether cells of the rows' table that are not empty stay as they are.
    """
    schema = run.data.schema
    own = Rows(x) if rows is None else rows
    if not schema.columns:
        numbers = x.flatten(1).cpu().numpy()
        return table_of(own, schema, {f"x{i}": numbers[:, i] for i in range(numbers.shape[1])})
    columns = {column.name: column.shown(x[:, i]) for i, column in enumerate(schema.columns)}
    if keep and own.beside.table is not None:
        for name, values in columns.items():
            there = own.beside.table[name].values()
            columns[name] = [new if old is None else old for old, new in zip(there, values, strict=True)]
    return table_of(own, schema, columns)


def codes_frame(run: "Run", rows: Rows, draws: int = 0, seed: int = 0) -> "pandas.DataFrame":
    """Mean, standard deviation, draws of q(z|x): columns ``z0``, ``z0_sd``, ``z0_draw0`` of dimension ``z[0]``, ...

    Arguments:
        run: The run.
        rows: The data.
        draws: Number of draws for each row.
        seed: Seed of the draws.
    """
    found = predictions.encode(run.guide, rows.arguments, draws, seed=seed)
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for k in range(found.mean.shape[1]):
        columns[f"z{k}"] = found.mean[:, k].cpu().numpy()
        columns[f"z{k}_sd"] = found.scale[:, k].cpu().numpy()
    for s, drawn in enumerate(found.draws):
        columns |= {f"z{k}_draw{s}": drawn[:, k].cpu().numpy() for k in range(drawn.shape[1])}
    return table_of(rows, run.data.schema, columns)


def evaluated_frame(run: "Run", rows: Rows, bound: evidence.BoundParts, estimates: Estimates) -> "pandas.DataFrame":
    """A row for each datum: the bound, log p(x) by each method with its standard error, k-hat, anomaly rank.

    The columns are ``bound`` and its two parts, bound = ``log_px_given_z`` - ``kl``; ``log_px`` by importance sampling,
    ``log_px_appendix_d`` and ``log_px_ais``, each with a standard error, ``log_px_se`` for one; and ``khat``. All but
    k-hat are in nats. The anomaly rank is 1 for the least probable datum by the first method, by the bound where there
    is none. Where values are missing it compares densities of what was observed, and so of different numbers of values,
    which the column ``observed`` counts.

    Arguments:
        run: The run.
        rows: The data.
        bound: The bound of each, in its parts.
        estimates: Estimate of log p(x) by each method, by the method's name: ``importance``, ``appendix_d`` or ``ais``.
    """
    columns: dict[str, Any] = {"bound": bound.bound, "log_px_given_z": bound.log_likelihood, "kl": bound.kl}
    for method, found in estimates.items():
        name = "log_px" if method == "importance" else f"log_px_{method}"  # as in evaluate's JSON
        columns[name] = found.log_likelihood
        columns[f"{name}_se"] = found.standard_error
        columns |= {"khat": found.khat} if hasattr(found, "khat") else {}
    score = next((found.log_likelihood for found in estimates.values()), bound.bound)
    if len(score) != len(rows.x):
        raise InputError("this pair has one number for all data, not one for each: there is no table of them")
    columns["anomaly_rank"] = score.argsort().argsort() + 1
    if run.model.missing:
        columns["observed"] = (~rows.x.isnan()).sum(1)
    return table_of(rows, run.data.schema, {name: values.cpu().numpy() for name, values in columns.items()})


def imputed_frame(run: "Run", rows: Rows, found: predictions.Imputed) -> "pandas.DataFrame":
    """The table with its gaps filled; of draws one table after another, numbered in the column ``draw``.

    Arguments:
        run: The run.
        rows: The data.
        found: Imputed values, as :func:`pyro_aevb.predictions.impute` gives them.
    """
    import pandas

    if not len(found.draws):
        return values_frame(run, found.mean, rows, keep=True)
    tables = [values_frame(run, drawn, rows, keep=True) for drawn in found.draws]
    for i, table in enumerate(tables):
        table.insert(0, _free("draw", [*table.columns, table.index.name]), i)
    return pandas.concat(tables)


def sampled(
    run: "Run", count: int, condition: Any, exposure: float | None, mean: bool, seed: int
) -> tuple[Tensor, Rows]:
    """Data drawn from a run's model, ``(count, D)``, and the rows that they are, with the condition of each.

    Arguments:
        run: The run.
        count: Number of rows.
        condition: What to condition on, see :func:`condition_of`.
        exposure: Exposure of each row, where the model has one; ``None`` for 1.
        mean: Whether to give the mean of p(x|z,c) in place of a draw x.
        seed: Seed of the draws.

    Raises:
        InputError: If an exposure is given and the model has none.
    """
    given = condition_of(run.data.schema, condition, whole("count", count))
    if exposure is not None and not run.model.exposure:
        raise InputError("the model was trained without an exposure: leave --exposure out")
    each = (
        torch.full((count,), positive("exposure", 1.0 if exposure is None else exposure))
        if run.model.exposure
        else None
    )
    x = predictions.sample(run.model, count, condition=given, exposure=each, mean=mean, seed=seed).cpu()
    return x, _rows_of_condition(x, run.data.schema, given)


def _rows_of_condition(x: Tensor, schema: Schema, given: Tensor | None) -> Rows:
    """Samples with the category of each beside them, where the condition is one."""
    if given is None or given.is_floating_point():
        return Rows(x)
    column = schema.condition[0]
    words = tuple(column.categories[number] for number in given.tolist())
    if schema.labels in (None, column.name):
        return Rows(x, words)
    return Rows(x, beside=Beside(table=Table({column.name: Cells(words)})))


def decoded_frame(run: "Run", rows: Rows, condition: Any, seed: int) -> tuple[Tensor, "pandas.DataFrame"]:
    """What the model makes of each row, ``(N, D)``, and the same as a table, with what it was decoded as beside it.

    Arguments:
        run: The run.
        rows: The data.
        condition: What to decode all rows as, see :func:`condition_of`; ``None`` for each as its own.
        seed: Seed of draws, where a guide tells no mean.
    """
    other = None if condition is None else condition_of(run.data.schema, condition, 1)
    x = predictions.reconstruct(run.model, run.guide, rows.arguments, condition=other, seed=seed)
    table = values_frame(run, x, rows)
    if condition is not None:
        table.insert(0, _free("decoded_as", [*table.columns, table.index.name]), str(condition))
    return x, table


def condition_of(schema: Schema, given: Any, count: int) -> Tensor | None:
    """The condition of ``count`` samples, from words.

    Arguments:
        schema: The schema of the data that the model is conditioned on.
        given: The value of each column of the condition, a category in words or a number; several in a list, or in one
            text with commas. ``None`` for each category in turn.
        count: Number of samples.

    Raises:
        InputError: If there are not as many values as columns, or one is no value of its column.
    """
    columns = schema.condition
    if not columns:
        if given is not None:
            raise InputError("the model was trained without a condition: leave --condition out")
        return None
    if given is None:
        if len(columns) > 1 or columns[0].kind != "category":
            names = ", ".join(column.name for column in columns)
            raise InputError(f"the model is conditioned on {names}: say at what values, --condition VALUE,VALUE")
        return torch.arange(count) % len(columns[0].categories)
    values = [each.strip() for each in given.split(",")] if isinstance(given, str) else _listed(given)
    if len(values) != len(columns):
        names = ", ".join(column.name for column in columns)
        raise InputError(f"--condition has {len(values)} values, and the model is conditioned on {names}")
    table = Table({column.name: Cells([str(value)]) for column, value in zip(columns, values, strict=True)})
    row = schema.condition_rows(table, "--condition")
    return None if row is None else row.expand(count, *row.shape[1:])


def _listed(given: Any) -> Sequence[Any]:
    if isinstance(given, int | float):
        return [given]
    if not isinstance(given, Sequence):
        raise InputError(f"condition must be a value, or one for each column of the condition, not {told(given)}")
    return given
