"""From wherever people have data to a :class:`~pyro_aevb.data.DataSet`, and new data by its schema."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.data.arrays import categories_of, find_arrays, found_schema, read_arrays, rows_of_arrays, scale_of
from pyro_aevb.data.loaders import LOADERS, Raw
from pyro_aevb.data.mapped import map_file
from pyro_aevb.data.roots import find_root
from pyro_aevb.data.schema import OWN_TOTAL, Beside, Column, Rows, Schema
from pyro_aevb.data.sets import Binarize, DataSet, DynamicBinarization
from pyro_aevb.data.tables import ENDINGS, Roles, by_value, find_schema, is_table, read_table
from pyro_aevb.errors import InputError, choice, did_you_mean, flag, instance, positive, told, whole
from pyro_aevb.seeds import generator

__all__ = ["load", "read_rows"]

logger = logging.getLogger(__name__)

Names = str | Sequence[str] | None

MAPPED_FROM = 2**30  # bytes of a .npy file from which its rows stay in it


def load(
    name: Any = "digits",
    *,
    binarize: Binarize = "none",
    data_root: str | Path | None = None,
    split_seed: int = 0,
    counts: bool = False,
    scale: float | str = "auto",
    missing: bool = False,
    columns: Names = None,
    labels: str | None = None,
    index: str | None = None,
    condition: Names = None,
    exposure: str | None = None,
    kinds: Mapping[str, str] | None = None,
) -> DataSet:
    """Load a data set: by name, from a file, from a table of pandas or polars, or from arrays.

    What is not split into training and test data already is split 9 : 1 at random.

    Arguments:
        name: One of ``mnist``, ``fashion_mnist``, ``frey_face``, ``digits``; the path of a ``.csv``, ``.tsv``,
            ``.parquet``, ``.npy`` or ``.npz`` file; a table of pandas or polars; an array or tensor, ``(N, ...)``, a
            tuple ``(x, labels)``, a dictionary of arrays, a ``Dataset`` of torch or torchvision. An ``.npz`` holds
            ``train`` and ``test``, ``x_train`` and ``x_test`` or ``X``, and ``labels_train``, ``y_train`` or ``y``.
            The rows of an ``.npy`` file of more than a gigabyte stay in it.
        binarize: ``none`` keeps grey values, ``static`` draws binary pixels once, ``dynamic`` at each visit in training
            (the test set then is drawn once).
        data_root: Folder of data sets; ``None`` for ``$PYRO_AEVB_DATA``, and where that is not set the user's cache
            folder.
        split_seed: Seed of random splits and of fixed binarisations.
        counts: Whether bytes are counts, taken as they are.
        scale: What values are divided by. ``auto`` divides bytes (uint8) by 255 where they are images, ``(N, H, W)`` or
            ``(N, C, H, W)``, and nothing else; ``bytes`` divides all bytes by 255, as earlier versions did.
        missing: Whether NaN, and an empty cell of a table, mean that a value is missing; else they are refused.
        columns: Columns of a table that are modelled, names or one text with commas; by default all without another
            role.
        labels: Column, or array, of labels, numbers or text.
        index: Column, or array, that names the rows.
        condition: Columns, or an array, that a model is conditioned on: numbers, or categories; ``labels`` for the
            labels.
        exposure: Column, or array, of each row's exposure, positive; ``total`` for each row's total of counts, where
            nothing else is called so.
        kinds: Kind of a table's columns by name, ``real``, ``count``, ``binary`` or ``category``, where it is not the
            one that their values suggest: text is a category, 0 and 1 binary, whole numbers from 0 on counts.

    Raises:
        InputError: If a file is missing, truncated, or not what it should be; if values are not finite, or not in
            [0, 1] where they are to be binarised; if a split is empty; if a column is not there, or says nothing.

    >>> load("digits").train.shape
    torch.Size([1500, 64])
    """
    choice("binarize", binarize, ("none", "static", "dynamic"))
    for what, called in (("labels", labels), ("index", index), ("exposure", exposure)):
        if called is not None:
            instance(what, called, str, "give the name of a column")
    if kinds is not None:
        instance("kinds", kinds, Mapping, "give a kind for each name of a column")
    whole("split_seed", split_seed, least=0)
    known = Schema(scale=_scale(scale), counts=flag("counts", counts), missing=flag("missing", missing))
    roles = Roles(
        _names("columns", columns), labels, index, _names("condition", condition) or (), exposure, dict(kinds or {})
    )
    where, schema, splits, names = _read(name, known, roles, find_root(data_root), split_seed)
    for split, rows in zip(("train", "test"), splits, strict=True):
        if 0 in rows.x.shape:
            raise InputError(f"{where}: the {split} set is empty, its shape is {tuple(rows.x.shape)}")
        _check_not_empty(rows, where)
    return _data_set(where, schema, splits, names, binarize, split_seed)


def read_rows(data: DataSet, source: Any, data_root: str | Path | None = None) -> Rows:
    """New data, read as a data set was: the same columns, categories, scale and binarisation.

    Arguments:
        data: The data set that a model was trained on.
        source: The new data, from wherever :func:`load` takes them. Of what is split the test rows are taken.
        data_root: Folder of data sets.

    Raises:
        InputError: If they do not have the data set's columns or shape, or hold what it does not.
    """
    schema = data.schema
    root = find_root(data_root)
    if schema.columns:
        if not is_table(source):
            kinds = f"a {', '.join(ENDINGS)} file, or a table of pandas or polars"
            raise InputError(f"the model is of a table, and {_called(source)} is none: give {kinds}")
        rows = schema.rows(read_table(source), _called(source))
    else:
        rows = _new_arrays(source, schema, root)
    if data.binarize == "none":
        return rows
    return replace(rows, x=_grey(rows.x, _called(source)).fixed(data.split_seed))


def _new_arrays(source: Any, schema: Schema, root: Path) -> Rows:
    if isinstance(source, str) and source in LOADERS:
        raw = LOADERS[source](root, 0)
        return _rows_of_named(raw, schema, source)[1]
    if is_table(source):
        table = read_table(source)
        kept = [name for name in table if name != table.index]
        values = np.stack([Column(name).numbers(table, _called(source)) for name in kept], axis=1)
        return rows_of_arrays({"x": values}, schema, _called(source))
    arrays, where = read_arrays(source, root)
    condition = (
        ()
        if not schema.condition
        else ("labels",)
        if _is_of_labels(schema)
        else (schema.condition[0].name.partition("[")[0],)
    )
    exposure = None if schema.exposure == OWN_TOTAL else schema.exposure
    roles = Roles(None, None, schema.index, condition, exposure)
    return rows_of_arrays(find_arrays(arrays, roles, where)[-1], schema, where)


def _is_of_labels(schema: Schema) -> bool:
    return len(schema.condition) == 1 and schema.condition[0].name == (schema.labels or "labels")


def _called(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the table" if is_table(source) else "the data"


def _names(what: str, given: Names) -> list[str] | None:
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what} must be names, or one text with commas, not {told(given)}")
    return [name.strip() for name in names if name.strip()]


def _scale(scale: float | str) -> float | str:
    return choice("scale", scale, ("auto", "bytes")) if isinstance(scale, str) else positive("scale", scale)


def _read(
    source: Any, known: Schema, roles: Roles, root: Path, split_seed: int
) -> tuple[str, Schema, list[Rows], tuple[str, ...]]:
    """What to call it, its schema, training and test rows, and the names of its labels."""
    if isinstance(source, Path):
        source = str(source)
    if isinstance(source, str) and source in LOADERS:
        raw = LOADERS[source](root, split_seed)
        schema = _schema_of_named(raw, known, roles, source)
        return source, schema, _rows_of_named(raw, schema, source), _label_names(raw)
    if isinstance(source, str) and Path(source).suffix.lower() not in (*ENDINGS, ".npy", ".npz"):
        near = did_you_mean(source, LOADERS) or ":"
        files = "a .csv, .tsv, .parquet, .npy or .npz file"
        raise InputError(f"unknown data {source!r}{near} give one of {', '.join(LOADERS)}, or {files}")
    if is_table(source):
        return _read_table(source, known, roles, root, split_seed)
    if isinstance(source, str) and _is_large(file := _found(source, root)):
        return _read_mapped(file, known, roles, split_seed)
    arrays, where = read_arrays(source, root)
    parts = find_arrays(arrays, roles, where)
    schema = found_schema(parts, roles, known, where)
    if len(parts) == 2 and parts[0]["x"].shape[1:] != parts[1]["x"].shape[1:]:
        shapes = f"{parts[0]['x'].shape[1:]} and {parts[1]['x'].shape[1:]}"
        raise InputError(f"{where}: train and test rows differ, {shapes}")
    rows = [rows_of_arrays(part, schema, where) for part in parts]
    named = categories_of(*(part["labels"] for part in parts)) if schema.labels else ()
    called = source if isinstance(source, str) else where
    return called, schema, rows if len(rows) == 2 else _split(rows[0], split_seed), named


def _found(source: str, root: Path) -> Path:
    """A file as it is named, else in the data root; as it is named where it is in neither."""
    path = Path(source).expanduser()
    in_root = root / path.name
    return in_root if in_root.exists() and not path.exists() else path


def _is_large(file: Path) -> bool:
    return file.suffix == ".npy" and file.is_file() and file.stat().st_size > MAPPED_FROM


def _read_mapped(
    file: Path, known: Schema, roles: Roles, split_seed: int
) -> tuple[str, Schema, list[Rows], tuple[str, ...]]:
    """The rows of a large ``.npy`` file, which stay there and are read as they are needed, to the same bits."""
    if roles != Roles():
        raise InputError(f"{file} is one array, without columns to name: leave out columns, labels, index, condition")
    array = map_file(file).array
    if array.ndim < 2:
        raise InputError(f"{file} has shape {array.shape}: give it one row a datum, (N, ...)")
    schema = replace(known, shape=tuple(map(int, array.shape[1:])))
    whole = map_file(file, dtype=torch.float32, divisor=scale_of(array, schema, str(file))).flatten(1)
    logger.info("%s has %.1f GB and stays on the disk, from where rows are read", file, file.stat().st_size / 1e9)
    return str(file), schema, _split(Rows(whole), split_seed), ()


def _read_table(
    source: Any, known: Schema, roles: Roles, root: Path, split_seed: int
) -> tuple[str, Schema, list[Rows], tuple[str, ...]]:
    if isinstance(source, str):
        source = str(_found(source, root))
    where = _called(source)
    if known.scale not in ("auto", "bytes"):
        raise InputError(f"scale={known.scale:g} is for arrays, and {where} is a table, whose numbers stay as they are")
    table = read_table(source)
    if tuple(roles.condition) == ("labels",):
        if roles.labels is None:
            raise InputError("condition='labels' needs the labels' column: give labels=..., --labels COLUMN")
        kinds = {**roles.kinds, roles.labels: "category"}
        roles = replace(roles, condition=(roles.labels,), kinds=kinds)
    schema = find_schema(table, roles, known.missing, where)
    rows = schema.rows(table, where)
    names = () if rows.labels is None else tuple(sorted(set(rows.labels) - {""}, key=by_value))
    return where, schema, _split(rows, split_seed), names


def _split(rows: Rows, seed: int) -> list[Rows]:
    if rows.beside.index is None:  # so that a row can be found again where it came from
        numbers = tuple(map(str, range(len(rows.x))))
        rows = replace(rows, beside=replace(rows.beside, index=numbers))
    order = torch.randperm(len(rows.x), generator=generator(seed, "split"))
    train = len(order) * 9 // 10
    return [rows.at(order[:train]), rows.at(order[train:])]


# ---------------------------------------------------------------- those with a name


def _label_names(raw: Raw) -> tuple[str, ...]:
    return () if raw.labels_train is None else tuple(str(i) for i in range(int(raw.labels_train.max()) + 1))


def _schema_of_named(raw: Raw, known: Schema, roles: Roles, name: str) -> Schema:
    labels = None if raw.labels_train is None else "labels"
    named = roles.columns or roles.exposure or roles.index or roles.kinds
    if named or roles.labels not in (None, labels):
        raise InputError(f"{name} has no columns to name: leave out columns, kinds, index, exposure and labels")
    if roles.condition and (tuple(roles.condition) != ("labels",) or labels is None):
        raise InputError(f"{name} can be conditioned on its labels alone{', and has none' if labels is None else ''}")
    condition = (Column("labels", "category", _label_names(raw)),) if roles.condition else ()
    return replace(known, shape=tuple(raw.train.shape[1:]), labels=labels, condition=condition)


def _rows_of_named(raw: Raw, schema: Schema, name: str) -> list[Rows]:
    parts = ((raw.train, raw.labels_train), (raw.test, raw.labels_test))
    if int(np.prod(raw.train.shape[1:])) != int(np.prod(schema.shape)):
        raise InputError(f"{name} has rows of shape {tuple(raw.train.shape[1:])}, and the model is of {schema.shape}")
    if schema.condition and raw.labels_train is None:
        raise InputError(f"{name} has no labels, which the model is conditioned on")
    return [
        Rows(
            x.flatten(1),
            None if labels is None else tuple(map(str, labels.tolist())),
            Beside(condition=labels if schema.condition else None),
        )
        for x, labels in parts
    ]


# ---------------------------------------------------------------- a data set


def _data_set(
    name: str, schema: Schema, splits: list[Rows], names: tuple[str, ...], binarize: Binarize, split_seed: int
) -> DataSet:
    train: Tensor | DynamicBinarization = splits[0].x
    test = splits[1].x
    if binarize != "none":
        grey, grey_test = (_grey(rows.x, name) for rows in splits)
        train = grey if binarize == "dynamic" else grey.fixed(split_seed)
        test = grey_test.fixed(split_seed)
    return DataSet(
        name,
        train,
        test,
        schema.shape,
        binarize,
        _numbers(splits[0].labels, names),
        _numbers(splits[1].labels, names),
        split_seed,
        schema,
        names,
        splits[0].beside,
        splits[1].beside,
    )


def _numbers(labels: tuple[str, ...] | None, names: tuple[str, ...]) -> Tensor | None:
    """Labels as numbers of classes; -1 where there is none."""
    if labels is None:
        return None
    known = {name: i for i, name in enumerate(names)}
    return torch.tensor([known.get(label, -1) for label in labels])


def _check_not_empty(rows: Rows, where: str) -> None:
    """Refuse rows of which nothing was observed: they say nothing of the model."""
    if not isinstance(rows.x, Tensor):
        return  # of a file, which is read through once where it is trained on
    empty = rows.x.isnan().all(1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise InputError(
            f"{where}: nothing is known of {int(empty.sum())} rows, {rows.names()[row]} for one: leave them out"
        )


def _grey(values: Any, name: str) -> DynamicBinarization:
    try:
        return DynamicBinarization(values)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
