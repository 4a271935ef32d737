"""Data sets and loaders of torch: all of their rows, collated once."""

import logging
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from pyro_aevb.errors import InputError, in_one_line

__all__ = ["as_arguments", "as_arrays", "collated", "keys_in"]

logger = logging.getLogger(__name__)


def collated(data: Any) -> Any:
    """All rows of a ``Dataset``, or of a ``DataLoader`` 's, as its ``collate_fn`` lays them together; else the data.

    Each row is fetched once, in order: what a data set draws at random for a row is drawn once. A loader's minibatches
    are not used, since training draws its own, without replacement.

    Raises:
        InputError: If the rows have no number, none, or cannot be laid together; if the loader draws them otherwise
            than each once.
    """
    if not isinstance(data, (DataLoader, Dataset)):
        return data
    collate = _checked_collate(data) if isinstance(data, DataLoader) else default_collate
    rows = data.dataset if isinstance(data, DataLoader) else data
    size = _size(rows)
    if size == 0:
        raise InputError("the data set is empty: there is nothing to train on or to evaluate")
    if isinstance(rows, TensorDataset) and collate is default_collate:
        return as_arguments(rows.tensors)
    fetched = [rows[i] for i in range(size)]
    _check_keys(fetched)
    try:
        together = collate(fetched)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"the rows of the {type(rows).__name__} cannot be laid together ({in_one_line(error)}): give a DataLoader "
            "with a collate_fn that pads them, or one tensor"
        ) from error
    return as_arguments(as_arrays(together, fetched[0]) if collate is default_collate else together)


def as_arrays(together: Any, row: Any) -> Any:
    """What the rows had as arrays or numbers, not as tensors, as arrays: their precision was nobody's choice."""
    if isinstance(together, Tensor):
        return together if isinstance(row, Tensor) else together.numpy()
    if isinstance(together, Mapping):
        return {key: as_arrays(each, row[key]) for key, each in together.items()}
    if isinstance(together, (list, tuple)) and not hasattr(together, "_fields") and not isinstance(row, str):
        return [as_arrays(each, one) for each, one in zip(together, row, strict=True)]
    return together


def _size(rows: Any) -> int:
    if isinstance(rows, IterableDataset) or not hasattr(rows, "__len__"):
        raise InputError(
            f"the {type(rows).__name__} does not know how many data it has, which the bound of a minibatch is scaled "
            "by: give a map-style Dataset, or one tensor, torch.stack(list(dataset))"
        )
    return len(rows)


def _checked_collate(loader: DataLoader[Any]) -> Any:
    """The loader's ``collate_fn``, if it draws each datum once."""
    if isinstance(loader.dataset, IterableDataset):
        _size(loader.dataset)
    if loader.batch_sampler is None:
        raise InputError(
            "the DataLoader makes no minibatches (batch_size=None), so that its rows may be some already: give one "
            "tensor, torch.cat(list(loader))"
        )
    sampler = loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    in_turn = isinstance(sampler, SequentialSampler)
    in_turn = in_turn or (isinstance(sampler, RandomSampler) and not sampler.replacement)
    size: Any = len(sampler) if isinstance(sampler, Sized) else None
    if not in_turn or size != _size(loader.dataset):
        raise InputError(
            f"the DataLoader draws by a {type(sampler).__name__}, not each datum once: give its dataset, or of some of "
            "its data torch.utils.data.Subset(dataset, indices); minibatches are then drawn without replacement"
        )
    logger.info("the DataLoader's rows are collated once; minibatches, of batch_size, are drawn anew")
    return loader.collate_fn


def _check_keys(rows: list[Any]) -> None:
    """Refuse dictionaries of different keys, of which a collation would leave some out."""
    first = keys_in(rows[0])
    for i, row in enumerate(rows if first else []):
        if other := first ^ keys_in(row):
            raise InputError(
                f"the data set's rows are dictionaries of different keys: {min(other)} is in one of row 0 and row {i} "
                "alone"
            )


def keys_in(row: Any) -> set[str]:
    """The keys of dictionaries in a row, and of those inside."""
    if isinstance(row, Mapping):
        inside = ((key, keys_in(each)) for key, each in row.items())
        return {f"{key!r}{more}" for key, each in inside for more in ("", *each)}
    if isinstance(row, (list, tuple)):
        return {f"[{i}]{key}" for i, each in enumerate(row) for key in keys_in(each)}
    return set()


def as_arguments(given: Any) -> Any:
    """What a loader gives as a list or a tuple are a pair's arguments; one tensor alone needs no tuple."""
    if isinstance(given, (list, tuple)) and not hasattr(given, "_fields"):
        return given[0] if len(given) == 1 and isinstance(given[0], (Tensor, np.ndarray)) else tuple(given)
    return given
