"""Data sets and loaders of torch: all of their rows, collated once."""

import logging
from collections.abc import Mapping
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from pyro_aevb.errors import InputError, in_one_line

__all__ = ["collated"]

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
        return _as_arguments(rows.tensors)
    fetched = [rows[i] for i in range(size)]
    _check_keys(fetched)
    try:
        return _as_arguments(collate(fetched))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"the rows of the {type(rows).__name__} cannot be laid together ({in_one_line(error)}): give a DataLoader "
            "with a collate_fn that pads them, or one tensor"
        ) from error


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
    sampler = loader.sampler
    in_turn = isinstance(sampler, SequentialSampler)
    in_turn = in_turn or (isinstance(sampler, RandomSampler) and not sampler.replacement)
    if not in_turn:
        raise InputError(
            f"the DataLoader draws by a {type(sampler).__name__}, not each datum once: give its dataset, of which "
            "minibatches are then drawn without replacement"
        )
    logger.info("the DataLoader's rows are collated once; minibatches, of batch_size, are drawn anew")
    return default_collate if loader.batch_size is None else loader.collate_fn


def _check_keys(rows: list[Any]) -> None:
    """Refuse dictionaries of different keys, of which a collation would leave some out."""
    if not isinstance(rows[0], Mapping):
        return
    for i, row in enumerate(rows):
        if other := rows[0].keys() ^ row.keys():
            raise InputError(
                f"the data set's rows are dictionaries of different keys: {sorted(map(str, other))[0]!r} is in one of "
                f"row 0 and row {i} alone"
            )


def _as_arguments(given: Any) -> Any:
    """What a loader gives as a list or a tuple are a pair's arguments."""
    if isinstance(given, (list, tuple)) and not hasattr(given, "_fields"):
        return given[0] if len(given) == 1 else tuple(given)
    return given
