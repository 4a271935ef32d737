"""Data sets whose rows are never all in memory: a minibatch's are fetched when it is their turn, or a little before."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from pyro_aevb.data.collated import as_arguments, as_arrays, keys_in
from pyro_aevb.data.mapped import Mapped, OnDemand, is_mapped
from pyro_aevb.data.sets import plain
from pyro_aevb.errors import InputError, in_one_line, told, whole
from pyro_aevb.seeds import seeded, unchanged_random_state

if TYPE_CHECKING:
    from pyro_aevb.data.arguments import TakenApart

__all__ = ["Column", "Streamed"]


class Streamed:
    """A map-style data set as training data, of which no more than a few minibatches are in memory.

    For data that :class:`~pyro_aevb.data.Mapped` does not take: HDF5, zarr, files of a row each. Minibatches, in the
    order that seed and step give, are fetched ahead by workers of torch's ``DataLoader``. Beside a GPU they come
    through pinned memory.

    Arguments:
        data: A ``Dataset`` with ``len`` and ``[i]``, and ``__getitems__`` for many rows at once where that is faster;
            or a tensor, an array over a mapped file or a ``Mapped``. A row is what a pair takes, without the dimension
            of the batch: a tensor, array or number, or a tuple or dictionary of such. It is the same whenever it is
            fetched: workers fetch their rows in processes of their own, and each opens a file for itself.
        workers: Number of processes that fetch; 0 to fetch in the training's own.

    Raises:
        InputError: If it is no such data set, is empty, or draws its rows at random.
    """

    def __init__(self, data: Any, workers: int = 2) -> None:
        self.data: Any = Mapped(data) if isinstance(data, np.ndarray) and is_mapped(data) else data
        self.workers = whole("workers", workers, least=0)
        _check(self.data)
        if len(self.data) == 0:
            raise InputError("the data set is empty: there is nothing to train on")

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def apart(self) -> "TakenApart":
        """A pair's arguments, with a :class:`Column` for each tensor, as the first row has them.

        Raises:
            InputError: If the first row differs when it is fetched once more.
        """
        found: list[Any] = []
        for seed in range(2):
            with seeded(seed):
                found.append(self._apart(torch.tensor([0])))
        first, again = found
        both = zip(first.tensors, again.tensors, strict=False)
        if _made_of(first) != _made_of(again) or not all(torch.equal(*map(torch.nan_to_num, pair)) for pair in both):
            raise InputError(
                f"row 0 of the {type(self.data).__name__} differs when it is fetched twice: draw at random in the "
                "model, or give the data set itself, whose rows are fetched once"
            )
        of_array = getattr(self.data, "is_array", False) is True
        arrays = (of_array or isinstance(leaf, np.ndarray) for leaf in first.leaves)
        each = enumerate(zip(first.tensors, arrays, strict=True))
        columns = tuple(Column(self, place, example, is_array) for place, (example, is_array) in each)
        apart: TakenApart = first._replace(tensors=columns, leaves=columns)
        return apart

    @property
    def column(self) -> "Column":
        """The one tensor that its rows are.

        Raises:
            InputError: If a row has several.
        """
        if self.apart.form is None and len(self.apart.tensors) == 1:
            only: Column = self.apart.leaves[0]
            return only
        raise InputError(
            f"the rows of the {type(self.data).__name__} are several arguments, not one tensor: give the Streamed alone"
        )

    def tensors(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The tensors of some rows, ``(B,)``, one for each of the columns.

        Raises:
            InputError: If they are not as the first row's: other keys, shapes or precisions.
        """
        found = self._apart(rows)
        if _made_of(found) != _made_of(self.apart):
            raise InputError(f"{self._named(rows)} are not made of the same arguments as row 0: let all be alike")
        for values, column in zip(found.tensors, self.apart.leaves, strict=True):
            if values.shape[1:] != column.shape[1:] or values.dtype != column.dtype:
                raise InputError(
                    f"{self._named(rows)} have {values.dtype}, shape {tuple(values.shape[1:])}, and row 0 has "
                    f"{column.dtype}, {tuple(column.shape[1:])}: let all have one"
                )
        tensors: tuple[Tensor, ...] = found.tensors
        return tensors

    def _apart(self, rows: Tensor) -> Any:
        from pyro_aevb.data.arguments import taken_apart  # which knows what is streamed

        return taken_apart(self._together(rows), evaluated=True)

    def _named(self, rows: Tensor) -> str:
        return f"rows {', '.join(map(str, rows[:3].tolist()))}, ... of the {type(self.data).__name__}"

    def _together(self, rows: Tensor) -> Any:
        """Some of the rows, ``(B,)``, laid together, ``(B, ...)`` each."""
        if isinstance(self.data, OnDemand):
            return self.data.fetch(rows)
        if isinstance(self.data, Tensor):
            return self.data.index_select(0, rows)
        with unchanged_random_state():  # a data set that draws in workers draws apart from the training's noise too
            fetched = self._fetched(rows.tolist())
        keys = [keys_in(row) for row in fetched]
        if other := next((i for i, each in enumerate(keys) if each != keys[0]), None):
            raise InputError(
                f"row {int(rows[other])} of the {type(self.data).__name__} has other keys than row {int(rows[0])}: let "
                "all have the same"
            )
        try:
            together = default_collate(fetched)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._named(rows)} cannot be laid together ({in_one_line(error)}): let all have one shape"
            ) from error
        return as_arguments(as_arrays(together, fetched[0]))

    def _fetched(self, rows: list[int]) -> list[Any]:
        if hasattr(self.data, "__getitems__"):
            try:
                found = list(self.data.__getitems__(rows))
            except Exception:  # one by one, to tell which row it is
                return [self._row(row) for row in rows]
            if len(found) != len(rows):
                raise InputError(
                    f"__getitems__ of the {type(self.data).__name__} gives {len(found)} rows where {len(rows)} are "
                    "asked for: let it give a list with each, in their order"
                )
            return found
        return [self._row(row) for row in rows]

    def _row(self, row: int) -> Any:
        try:
            return self.data[row]
        except Exception as error:  # whatever a stranger's data set raises
            kind = type(error).__name__
            raise InputError(
                f"row {row} of the {type(self.data).__name__} cannot be fetched ({kind}: {in_one_line(error)})"
            ) from error


class Column(OnDemand):
    """One argument's tensor of a streamed data set.

    Arguments:
        streamed: The data set.
        place: Which of its tensors.
        example: That of one row, ``(1, ...)``.
        is_array: Whether the data set gave an array, whose precision was nobody's choice.
    """

    def __init__(self, streamed: Streamed, place: int, example: Tensor, is_array: bool) -> None:
        super().__init__((len(streamed), *example.shape[1:]), example.dtype)
        self.streamed = streamed
        self.place = place
        self.is_array = is_array

    def fetch(self, rows: Tensor) -> Tensor:
        """Some of the rows, ``(B, ...)``, of this tensor alone."""
        return self.streamed.tensors(rows)[self.place]


def _made_of(apart: "TakenApart") -> tuple[int, str | None]:
    """How many tensors, and how a pair is called with them."""
    return len(apart.tensors), None if apart.form is None else apart.form.fingerprint


def _check(data: Any) -> None:
    """Refuse what has no rows by number."""
    if isinstance(data, Tensor):
        plain(data)
        if data.device.type != "cpu":
            raise InputError(f"the data lie on {data.device}: give them as they are, nothing need be fetched")
        return
    if isinstance(data, np.ndarray):
        raise InputError("the data are an array in memory: give torch.from_numpy(data)")
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        raise InputError("the data are a DataLoader, whose minibatches are not used: give its dataset")
    if isinstance(data, (type, IterableDataset)) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(f"data must be a map-style Dataset, with len and [i], not {told(data)}")
    if isinstance(data, (list, tuple, str, Mapping)):
        raise InputError(f"the data are a {kind}, which is in memory: give it as it is")
