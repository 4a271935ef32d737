"""A part of training data that is set aside, to see by it how well a pair does on data that it does not train on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.data.mapped import Mapped
from pyro_aevb.data.sets import DataSet, DynamicBinarization
from pyro_aevb.errors import InputError, instance, real
from pyro_aevb.seeds import generator

__all__ = ["set_aside", "with_held_out"]


def set_aside(data: Any, fraction: float = 0.1, seed: int = 0) -> tuple[Any, Any]:
    """Training data in two parts, drawn at random by the seed alone: those to train on, and those held out.

    Arguments:
        data: A tensor, ``(N, ...)``; a :class:`~pyro_aevb.data.DynamicBinarization`, whose part that is held out is
            binarised once, as a test set is; a tuple or dictionary of them, of the same N rows.
        fraction: Which part of the rows is held out, in (0, 1).
        seed: Seed of the choice, and of that one binarisation.

    Returns:
        What to train on, of the kind that was given, and what is held out, fixed.

    Raises:
        InputError: If the data are of another kind, or one part would be empty.

    >>> train, held_out = set_aside(torch.arange(10.0).unsqueeze(1), 0.2)
    >>> len(train), len(held_out)
    (8, 2)
    """
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple) else [data]
    for part in parts:
        if not isinstance(part, DynamicBinarization | Mapped):
            instance("what is set aside from", part, Tensor, "give tensors")
    if not parts or len({len(part) for part in parts}) > 1:
        raise InputError("data to set a part aside of must have the same number of rows each")
    kept, aside = _rows_aside(len(parts[0]), fraction, seed)
    trained = [_rows(part, kept) for part in parts]
    held = [_fixed(part, aside, seed) for part in parts]
    if isinstance(data, Mapping):
        return dict(zip(data, trained, strict=True)), dict(zip(data, held, strict=True))
    return (tuple(trained), tuple(held)) if isinstance(data, tuple) else (trained[0], held[0])


def with_held_out(data: DataSet, fraction: float) -> DataSet:
    """A data set whose training rows lose a part, which it then holds out; drawn by the data set's own seed.

    Raises:
        InputError: As :func:`~pyro_aevb.data.set_aside`.
    """
    kept, aside = _rows_aside(len(data.train), fraction, data.split_seed)
    labels = data.labels_train
    return replace(
        data,
        train=_rows(data.train, kept),
        held_out=data.beside_train.at(aside).arguments(_fixed(data.train, aside, data.split_seed)),
        labels_train=None if labels is None else labels[kept],
        beside_train=data.beside_train.at(kept),
    )


def _rows_aside(size: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which rows to train on and which are held out, each in their order.

    Raises:
        InputError: If one part would be empty, or the fraction does not lie between 0 and 1.
    """
    if not 0 < real("held_out", fraction) < 1:
        raise InputError(f"held_out must lie between 0 and 1, both excluded, not {fraction}: 0.1, say")
    count = round(size * fraction)
    if not 0 < count < size:
        raise InputError(f"held_out={fraction} of {size} data leaves one part empty: give another fraction")
    order = torch.randperm(size, generator=generator(seed, "split", 1))
    return order[count:].sort().values, order[:count].sort().values


def _rows(part: Any, rows: Tensor) -> Any:
    if isinstance(part, DynamicBinarization):
        return DynamicBinarization(_rows(part.probabilities, rows))
    if isinstance(part, Mapped):
        return part.chosen(rows)
    return part.index_select(0, rows.to(part.device))


def _fixed(part: Any, rows: Tensor, seed: int) -> Tensor:
    found = _rows(part, rows)
    return found.fixed(seed) if isinstance(found, DynamicBinarization) else found
