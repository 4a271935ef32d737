"""Arrays: which of several is what, by the names that people give them, and bytes that are images."""

import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.data.cells import Cells, Table, words_of
from pyro_aevb.data.collated import collated
from pyro_aevb.data.schema import OWN_TOTAL, TOTAL, Beside, Column, Rows, Schema, check_values, total_of
from pyro_aevb.data.sets import plain
from pyro_aevb.data.tables import Roles
from pyro_aevb.errors import InputError, in_one_line, told
from pyro_aevb.files import DamagedArchiveError, check_archive, regular_file

__all__ = ["Arrays", "find_arrays", "found_schema", "read_arrays", "rows_of_arrays", "scale_of"]

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray[Any, Any]]

DATA = ("X", "x", "data", "images", "array", "values")
LABELS = ("labels", "label", "y", "Y", "targets", "target")
BYTES = 255.0


def read_arrays(source: Any, root: Path) -> tuple[Arrays, str]:
    """Arrays by name, and what to call their source.

    Arguments:
        source: A ``.npy`` or ``.npz`` file; an array or tensor; a tuple ``(x, labels)``; a dictionary of arrays by
            name; a ``Dataset`` of torch or torchvision, whose rows are collated once.
        root: Folder of data sets, where a file is looked for that is not there as it is named.

    Raises:
        InputError: If it cannot be read, or is something else.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        path = path if path.exists() else root / path.name
        return _read_file(path), str(path)
    return {name: _array(each, name) for name, each in _named(source).items() if each is not None}, "the data"


def _named(source: Any) -> Mapping[str, Any]:
    if isinstance(source, torch.utils.data.Dataset):
        return _of_dataset(source)
    if isinstance(source, Mapping):
        return source
    if isinstance(source, tuple) and 1 <= len(source) <= 2:
        return dict(zip(("x", "labels"), source, strict=False))
    if isinstance(source, np.ndarray | Tensor):
        return {"x": source}
    raise InputError(
        f"the data are {told(source)}: give a name, a file, a table, an array, a tuple (x, labels), a dictionary of "
        "arrays or a Dataset"
    )


def _of_dataset(source: Any) -> Mapping[str, Any]:
    """The rows of a data set of torch: of torchvision's the images as they are kept, channels first."""
    images = getattr(source, "data", None)
    plain = getattr(source, "transform", None) is None and getattr(source, "target_transform", None) is None
    if plain and isinstance(images, np.ndarray | Tensor) and images.ndim >= 3:
        last = images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3)
        values = np.moveaxis(np.asarray(images), -1, 1) if last else np.asarray(images)
        labels = getattr(source, "targets", getattr(source, "labels", None))
        return {"x": values} if labels is None else {"x": values, "labels": np.asarray(labels)}
    whole: Any = collated(source)
    return _named(whole if isinstance(whole, Mapping | tuple) else (whole,))


def _array(given: Any, name: str) -> np.ndarray[Any, Any]:
    if isinstance(given, Tensor):
        values = plain(given).detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array: {in_one_line(error)}") from error


def _read_file(path: Path) -> Arrays:
    if not path.exists():
        raise InputError(f"no file {path.name}, neither as given nor in the data root {path.parent}: check the path")
    regular_file(path)
    try:
        if zipfile.is_zipfile(path):
            check_archive(path, compressed=True)
        content = np.load(path, allow_pickle=False)
        arrays = {"array": content} if isinstance(content, np.ndarray) else dict(content)
        if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]} is no array")
        return arrays
    except DamagedArchiveError as error:
        raise InputError(f"{path} is truncated or damaged: {error}") from error
    except Exception as error:  # NumPy raises whatever the damage leads to: ValueError, EOFError, BadZipFile, ...
        raise InputError(f"{path} is truncated, or holds something else than plain arrays") from error


# ---------------------------------------------------------------- which is what


def find_arrays(arrays: Arrays, roles: Roles, where: str) -> list[Arrays]:
    """The arrays of training and test data by their roles ``x``, ``labels``, ``condition``, ``exposure``, ``index``.

    Arguments:
        arrays: The arrays by name.
        roles: Names of those that have another name than is usual.
        where: Their source, for messages.

    Returns:
        Those to train and those to test, or all in one where they are not split.

    Raises:
        InputError: If there is no saying which is what; names what was looked for.
    """
    splits = [_of_split(arrays, split, roles, where) for split in ("train", "test")]
    if all("x" in found for found in splits):
        return splits
    found = _of_split(arrays, "", roles, where)
    if "x" not in found and len(arrays) == 1:
        found["x"] = next(iter(arrays.values()))
    if "x" not in found:
        raise InputError(
            f"{where} holds {', '.join(arrays) or 'nothing'}: give it arrays named train and test, x_train and x_test, "
            "or X, or one alone"
        )
    return [found]


def _of_split(arrays: Arrays, split: str, roles: Roles, where: str) -> Arrays:
    """What there is for a split, or without one, by role."""
    exposure = None if roles.exposure == TOTAL and TOTAL not in arrays else roles.exposure
    asked = {"labels": roles.labels, "exposure": exposure, "index": roles.index}
    wanted: dict[str, tuple[str, ...]] = {"x": DATA, "labels": LABELS}
    wanted |= {role: (name,) for role, name in asked.items() if name is not None}
    if roles.condition and tuple(roles.condition) != ("labels",):
        wanted["condition"] = tuple(roles.condition)
    looked = {role: _first(arrays, split, names) for role, names in wanted.items()}
    found = {role: array for role, array in looked.items() if array is not None}
    if split and "x" not in found and split in arrays:
        found["x"] = arrays[split]
    for role in found.keys() & {"labels", "condition", "index", "exposure"}:
        found[role] = _one_a_row(found[role], role, where)
    if "x" in found:
        for role, names in wanted.items():
            if (role not in found and role != "labels") or (role == "labels" and roles.labels and role not in found):
                raise InputError(f"{where} has no array {names[0]!r} for {role}: it has {', '.join(arrays)}")
    return found


def _one_a_row(array: np.ndarray[Any, Any], role: str, where: str) -> np.ndarray[Any, Any]:
    """What belongs to each row: one column as no column, yes or no and whole numbers of floats as whole numbers."""
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    several = role == "condition" and flat.ndim > 1 and flat.dtype.kind in "buif"
    if flat.ndim != 1 and not several:
        raise InputError(f"{where}: {role} has shape {array.shape}: give one value for each row")
    if role in ("exposure",) and flat.dtype.kind not in "buif":
        raise InputError(f"{where}: {role} has dtype {flat.dtype}: give numbers")
    if flat.dtype.kind == "b":
        return flat.astype(np.int64)
    whole = role == "labels" and flat.dtype.kind == "f" and bool((np.isfinite(flat) & (flat == np.round(flat))).all())
    return flat.astype(np.int64) if whole else flat


def _first(arrays: Arrays, split: str, names: tuple[str, ...]) -> np.ndarray[Any, Any] | None:
    several = (_spellings(name, split) for name in names)
    return next((arrays[each] for spelled in several for each in spelled if each in arrays), None)


def _spellings(name: str, split: str) -> Iterator[str]:
    yield from (f"{name}_{split}", f"{split}_{name}", f"{name}{split}") if split else (name,)


# ---------------------------------------------------------------- as rows


def found_schema(parts: list[Arrays], roles: Roles, schema: Schema, where: str) -> Schema:
    """The schema of arrays: their shape, and the categories of a condition.

    Arguments:
        parts: The arrays by role, as :func:`find_arrays` found them.
        roles: Names of those that have another name than is usual.
        schema: How the values are scaled, and whether some are missing.
        where: Their source, for messages.
    """
    first = parts[0]
    labels = (roles.labels or "labels") if all("labels" in part for part in parts) else None
    if roles.condition and tuple(roles.condition) == ("labels",) and labels is None:
        raise InputError(f"{where} has no labels to condition on: name their array with --labels")
    given = "labels" if tuple(roles.condition) == ("labels",) else "condition"
    condition = _columns_of([part[given] for part in parts], roles.condition[0]) if roles.condition else ()
    shape = tuple(int(size) for size in first["x"].shape[1:])
    own = scale_of(first["x"], schema, where) if first["x"].dtype == np.uint8 else None
    return replace(
        schema,
        bytes_by=own,
        shape=shape,
        labels=labels,
        index=roles.index,
        condition=condition,
        exposure=OWN_TOTAL if roles.exposure == TOTAL and "exposure" not in first else roles.exposure,
    )


def _columns_of(arrays: list[np.ndarray[Any, Any]], name: str) -> tuple[Column, ...]:
    """The columns of a condition: one of categories, of whole numbers or text; else a covariate for each."""
    if arrays[0].ndim == 1 and arrays[0].dtype.kind != "f":
        return (Column(name, "category", categories_of(*arrays)),)
    count = int(np.prod(arrays[0].shape[1:]))
    return tuple(Column(name if count == 1 else f"{name}[{i}]") for i in range(count))


def categories_of(*arrays: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """What classes are called, in order: text in alphabetical order, whole numbers from 0 to the largest."""
    if all(array.dtype.kind in "bui" for array in arrays):
        low = min(int(array.min()) for array in arrays)
        high = max(int(array.max()) for array in arrays)
        if low >= 0 and high < 1000:
            return tuple(map(str, range(high + 1)))
        return tuple(map(str, sorted({int(value) for array in arrays for value in np.unique(array)})))
    return tuple(sorted({word for array in arrays for word in words_of(array) if word}))


def rows_of_arrays(part: Arrays, schema: Schema, where: str) -> Rows:
    """Arrays by role as rows, ``(N, D)``.

    Arguments:
        part: The arrays by role.
        schema: How they become tensors.
        where: Their source, for messages.

    Raises:
        InputError: If one has another shape than it must have, or holds what it must not.
    """
    x = _values(part["x"], schema, where)
    for role, array in part.items():
        if role != "x" and len(array) != len(x):
            raise InputError(f"{where}: {role} has {len(array)} rows, the data {len(x)}: give one for each")
    labels = words_of(part["labels"]) if "labels" in part else None
    index = words_of(part["index"]) if "index" in part else None
    exposure = torch.from_numpy(part["exposure"].astype(np.float32)) if "exposure" in part else None
    if schema.exposure == OWN_TOTAL:
        exposure = total_of(x, where)
    return Rows(x, labels, Beside(index, _condition(part, schema, where), exposure))


def _condition(part: Arrays, schema: Schema, where: str) -> Tensor | None:
    if not schema.condition:
        return None
    given = part.get("condition", part.get("labels"))
    if given is None:
        raise InputError(
            f"{where} lacks the condition, an array {schema.condition[0].name!r}: give an .npz that has it"
        )
    column = schema.condition[0]
    if column.kind != "category":
        return torch.from_numpy(given.astype(np.float32)).reshape(len(given), -1)
    return torch.from_numpy(column.numbers(Table({column.name: Cells(words_of(given))}), where)).long()


def _values(array: np.ndarray[Any, Any], schema: Schema, where: str) -> Tensor:
    """The values as float32, ``(N, D)``, scaled as the schema says."""
    if array.dtype.kind not in "buif":
        raise InputError(f"{where} has dtype {array.dtype}: give it real numbers")
    if array.ndim > 1 and 0 in array.shape:
        raise InputError(f"{where} has shape {array.shape}, so there is not one value in it")
    if array.ndim < 2:
        raise InputError(f"{where} has shape {array.shape}: give it one row a datum, (N, ...)")
    if int(np.prod(array.shape[1:])) != int(np.prod(schema.shape)):
        raise InputError(f"{where}: rows of shape {array.shape[1:]} are given, and the model is of {schema.shape}")
    scale = scale_of(array, schema, where)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused by name
        x = torch.from_numpy(array.astype(np.float32)) / scale
    check_values(x, where, schema.missing)
    return x.flatten(1)


def scale_of(array: np.ndarray[Any, Any], schema: Schema, where: str) -> float:
    """What values are divided by: bytes of images by 255, unless something else was asked for.

    Arguments:
        array: The values.
        schema: Schema that was asked for.
        where: Their source, for what is said.
    """
    if not isinstance(schema.scale, str):
        return float(schema.scale)
    if array.dtype == np.uint8 and schema.bytes_by is not None:
        return schema.bytes_by  # as the training data were, whatever these are
    if array.dtype != np.uint8 or schema.counts or (schema.scale == "auto" and array.max(initial=0) <= 1):
        return 1.0  # a mask of zeros and ones is no grey image
    if schema.scale == "bytes":
        return BYTES
    if array.ndim >= 3:
        logger.info(
            "%s: images of bytes, %s, are divided by 255; scale=1, --scale 1, leaves them as they are",
            where,
            array.shape,
        )
        return BYTES
    if array.max() > 1:
        logger.info("%s: bytes in a table are taken as they are; divide grey values with scale=255, --scale 255", where)
    return 1.0
