"""What a caller gives as data: tensors, arrays, or something that has to be made into one first."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.data.mapped import Mapped, OnDemand, in_memory, is_mapped
from pyro_aevb.data.sets import DataSet, DynamicBinarization, plain
from pyro_aevb.errors import InputError, told

__all__ = ["Rows", "as_rows", "as_tensors", "in_precision", "one_tensor", "precisions"]

Rows = tuple[Tensor | OnDemand | DynamicBinarization, ...]


def as_tensors(data: Any, *, evaluated: bool) -> tuple[Tensor | DynamicBinarization, ...]:
    """The tensors of a pair's arguments, batch first, from one or a tuple of tensors or NumPy arrays.

    All are in memory: what lies in a file is read. Arguments and errors are those of
    :func:`~pyro_aevb.data.given.as_rows`.

    Arguments:
        data: A tensor or NumPy array with one row a datum, or a tuple of such, one for each argument of the pair.
        evaluated: Whether the data are to be evaluated: then they must be fixed, not drawn anew at each visit.
    """
    return tuple(map(in_memory, as_rows(data, evaluated=evaluated)))


def as_rows(data: Any, *, evaluated: bool) -> Rows:
    """What a pair's arguments are fetched from, batch first: tensors, or files that stay where they are.

    Arguments:
        data: A tensor, a NumPy array, a ``Mapped`` or a ``DynamicBinarization``, or a tuple of such, one for each
            argument of the pair; each has one row a datum.
        evaluated: Whether the data are to be evaluated: then they must be fixed, not drawn anew at each visit.

    Raises:
        InputError: If they are something else, of different lengths, or none: says what to do.
    """
    given = data if isinstance(data, tuple) else (data,)
    tensors = tuple(one_tensor(each, evaluated) for each in given)
    if not tensors:
        raise InputError("there are no data: the tuple is empty")
    if len(set(map(len, tensors))) > 1:
        raise InputError(f"the data's tensors have different lengths: {[*map(len, tensors)]}")
    return tensors


def one_tensor(given: Any, evaluated: bool) -> Tensor | OnDemand | DynamicBinarization:
    """The tensor of one argument, batch first; of one that is not in memory, what its rows are fetched from.

    Arguments:
        given: A tensor, a NumPy array, a ``Mapped`` or a ``DynamicBinarization``.
        evaluated: Whether it is to be evaluated, and so must be fixed.

    Raises:
        InputError: If it is something else: says what to do.
    """
    if isinstance(given, DynamicBinarization):
        if evaluated:
            raise InputError(
                "these data are binarised anew at each visit (a DynamicBinarization), so that they have no one number: "
                "evaluate one fixed draw, data.evaluation('train') or data.train.fixed()"
            )
        return given
    if isinstance(given, OnDemand):
        return given
    if isinstance(given, np.ndarray):
        return Mapped(given) if is_mapped(given) else _array(given)
    if not isinstance(given, Tensor):
        raise InputError(_advice(given))
    return plain(given)


def _array(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "buif" or array.ndim == 0:
        raise InputError(f"the data are an array of {array.dtype}, shape {array.shape}: give numbers, one row a datum")
    own = array if array.dtype.isnative and array.flags.writeable else array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(own))


def _advice(given: Any) -> str:
    if isinstance(given, type):
        return f"the data must be torch tensors, not {told(given)}: use torch.as_tensor"
    kind = type(given).__name__
    if isinstance(given, DataSet):
        return "the data are a DataSet, which has two: give its .train to train on, its .test to evaluate"
    if hasattr(given, "to_numpy"):
        return f"the data are a {kind}: give its numbers, torch.as_tensor(data.to_numpy())"
    if isinstance(given, list):
        return "the data are a list: give one tensor, torch.stack(data), or a tuple for a pair of several arguments"
    return f"the data must be torch tensors, not {kind}: use torch.as_tensor"


def in_precision(data: Any, dtype: torch.dtype | None) -> Any:
    """Floating-point data in the precision of a pair's weights: a network takes no others.

    Arguments:
        data: The data of one argument of the pair, or some rows of them; what they are to be fetched from stays as it
            is.
        dtype: Precision of the pair's weights; ``None`` leaves the data as they are.
    """
    if dtype is None or isinstance(data, OnDemand) or not data.is_floating_point() or data.dtype == dtype:
        return data
    return data.to(dtype)


def precisions(parts: tuple[Any, ...], dtype: torch.dtype | None) -> str:
    """What to add to an error of a pair's where its data are of another precision than its weights; else nothing."""
    data = next((p.dtype for p in parts if isinstance(p, Tensor) and p.is_floating_point() and p.dtype != dtype), None)
    if dtype is None or data is None:
        return ""
    names = (str(each).removeprefix("torch.") for each in (data, dtype, dtype))
    return "; the data are {}, the weights {}: give the data .to(torch.{})".format(*names)
