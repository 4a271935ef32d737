"""Minibatches fetched ahead of their steps, by workers of torch's ``DataLoader``."""

import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.process import SIGNALS, shielded
from pyro_aevb.torch_internals import end_workers

__all__ = ["Prefetched"]


class Prefetched:
    """The tensors of step after step, while nobody asks for another one.

    A worker fetches those of several steps in a row at once: to pass one on between processes costs 0.6 ms of a core,
    however small it is.

    Arguments:
        fetch: Function from the numbers of rows, ``(M,)``, to their tensors; it is called in the workers.
        rows_of: Function from a step to the numbers of its rows.
        at_once: Number of steps that are fetched at once.
        workers: Number of processes, at least 1.
        device: Device that the tensors are for: for a GPU's they are put into pinned memory.
    """

    def __init__(
        self,
        fetch: Callable[[Tensor], tuple[Tensor, ...]],
        rows_of: Callable[[int], Tensor],
        at_once: int,
        workers: int,
        device: torch.device,
    ) -> None:
        self.fetched = _Fetched(fetch)
        self.rows_of = rows_of
        self.at_once = at_once
        self.workers = workers
        self.device = device
        self._iterator: Any = None
        self._waiting: deque[tuple[Tensor, ...]] = deque()  # of the steps that come next
        self._next = 0

    def of(self, step: int) -> tuple[Tensor, ...]:
        """The tensors of a step; those of the steps after it are on their way from then on.

        Raises:
            InputError: If they cannot be fetched, or a worker has died.
        """
        if self._iterator is None or step != self._next:
            self.close()
            self._iterator = self._begun(step)
        if not self._waiting:
            self._waiting.extend(self._received())
        self._next = step + 1
        return self._waiting.popleft()

    def _received(self) -> Iterator[tuple[Tensor, ...]]:
        """What a worker has fetched, step by step."""
        try:
            found = next(self._iterator)
        except RuntimeError as error:  # a worker's own errors come as values, see below: this one is of its end
            self.close()
            raise InputError(
                f"a process that fetches data has ended ({in_one_line(error)}): look for what ended it, the system's "
                "log of memory for one, or give Streamed(data, workers=0)"
            ) from error
        if isinstance(found, str):
            self.close()
            raise InputError(found)
        sizes, tensors = found
        return zip(*(values.split(sizes) for values in tensors), strict=True)

    def close(self) -> None:
        """End the workers; they begin anew with the next step that is asked for."""
        iterator = self._iterator
        self._iterator = None
        self._waiting.clear()
        if iterator is not None:
            end_workers(iterator)

    def _begun(self, step: int) -> Iterator[Any]:
        # fork: workers find the data set as it is, and need no main module that can be imported anew. Its own
        # generator: a loader draws its workers' seeds from the global one else.
        loader = DataLoader(
            self.fetched,
            batch_sampler=_Steps(self.rows_of, self.at_once, step),
            num_workers=self.workers,
            collate_fn=_as_they_are,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_begin_worker,
            multiprocessing_context=multiprocessing.get_context("fork") if sys.platform == "linux" else None,
            generator=Generator().manual_seed(0),  # of its own
        )
        with shielded(), warnings.catch_warnings():
            # Python warns of every fork beside threads; a worker touches none of theirs, and runs one of its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            return iter(loader)


class _Steps(Sampler[list[list[int]]]):
    """The rows of step after step, some steps at once, without an end."""

    def __init__(self, rows_of: Callable[[int], Tensor], at_once: int, first: int) -> None:
        self.rows_of = rows_of
        self.at_once = at_once
        self.first = first

    def __iter__(self) -> Iterator[list[list[int]]]:
        starts = count(self.first, self.at_once)
        return ([self.rows_of(start + i).tolist() for i in range(self.at_once)] for start in starts)


class _Fetched(Dataset[Any]):
    """What workers hold: all rows, and no way to fetch one alone."""

    def __init__(self, fetch: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self.fetch = fetch

    def __getitem__(self, rows: list[int]) -> Any:
        return self.__getitems__([rows])

    def __getitems__(self, steps: list[list[int]]) -> Any:
        """How many rows each step has, and the tensors of all; or why there are none, to be raised in one line."""
        try:
            return list(map(len, steps)), self.fetch(torch.tensor([row for rows in steps for row in rows]))
        except InputError as error:
            return str(error)
        except Exception as error:  # of a stranger's data set, beside its rows
            return f"the data cannot be fetched ({type(error).__name__}: {in_one_line(error)})"


def _as_they_are(fetched: Any) -> Any:
    return fetched


def _begin_worker(number: int) -> None:
    """Ctrl-C is for the training, which ends its workers when its step is whole; other signals are as they were."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
