"""Training data, in memory or not, and the minibatch of each step: a function of the seed and the step alone."""

import logging
from typing import Any

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data import DynamicBinarization, fingerprint
from pyro_aevb.data.arguments import Data, TakenApart, called, taken_apart
from pyro_aevb.data.mapped import Mapped, OnDemand
from pyro_aevb.data.prefetched import Prefetched
from pyro_aevb.data.sets import Digest, binarized
from pyro_aevb.data.stored import Stored
from pyro_aevb.data.streamed import Column
from pyro_aevb.errors import InputError, whole
from pyro_aevb.models import check_sizes
from pyro_aevb.pairs import Pair, precision_of
from pyro_aevb.seeds import derive, generator

__all__ = ["Batches", "Data", "Visit", "steps_of"]

logger = logging.getLogger(__name__)

Visit = tuple[Tensor, ...]
"""What is different for each step: its rows, ``(M,)``, its key of binarisation, ``()``, and of data that are not on the
device the minibatch itself, a tensor for each argument."""

WORKERS = 2  # that fetch from a mapped file for a GPU
AT_ONCE = 2**22  # bytes of minibatches that one of them fetches in one go
LARGEST_AT_ONCE = 16  # minibatches
ANOTHER_KEY = 0x9E3779B9  # between the keys of two arguments that are both binarised


def steps_of(samples: int, size: int, batch_size: int) -> int:
    """Number of steps that see so many data at least, of which the last of each epoch may see fewer.

    >>> steps_of(100, size=50, batch_size=20), steps_of(101, size=50, batch_size=20)
    (6, 7)
    """
    epochs, rest = divmod(samples, size)
    return epochs * -(-size // batch_size) + -(-rest // batch_size)


def _say_brought(given: Any, brought: Any) -> None:
    """Tell of data in memory that are trained on in another precision than they have, other than in more of one."""
    if isinstance(given, Tensor) and given.dtype != brought.dtype:
        before, after = (str(each.dtype).removeprefix("torch.") for each in (given, brought))
        if before == "float64" or not given.is_floating_point():
            logger.info("data of %s are brought to the weights' %s", before, after)


class Batches:
    """Minibatches without replacement, epoch after epoch; the last of an epoch may be smaller.

    Nothing here has a state: step s of seed r is always the same batch, so a resumed run needs only its step. A batch
    is found by two methods: :meth:`visit` says which rows, and brings those that are not on the device; :meth:`take`
    makes the minibatch of that by tensor operations alone, binarisation included, so that a recorded step can hold it.

    Arguments:
        data: What :func:`pyro_aevb.data.taken_apart` takes: a tensor or NumPy array with one row a datum, ``(N, ...)``,
            a :class:`~pyro_aevb.data.DynamicBinarization`, a tuple or dictionary of a pair's arguments, a data set; or
            rows that are not in memory, a ``Mapped`` or ``Streamed``.
        batch_size: Number of data in a minibatch, the paper's M.
        seed: Seed of the order of the data and of their binarisation.
        device: Device that minibatches lie on, and data in memory.
        pair: The model, and its guide if it has one, which must take the data, and to whose weights' precision NumPy
            arrays and shorter floating-point numbers are brought.

    Raises:
        InputError: If there are no data, or fewer than a batch.
    """

    def __init__(self, data: Data, batch_size: int, seed: int, device: torch.device, *pair: Pair) -> None:
        given = taken_apart(data, evaluated=False)
        arguments = given.tensors
        self.size = len(arguments[0])
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        if self.size == 0:
            raise InputError("the data set is empty: there is nothing to train on")
        if whole("batch_size", batch_size) > self.size:
            raise InputError(f"batch_size must lie between 1 and the {self.size} data, not {batch_size}")
        for function in pair:
            given.check(function)
        self.form = None if given.form is None else given.form.to(device)
        self.binarises = tuple(isinstance(each, DynamicBinarization) for each in arguments)
        places = [i for i, values in enumerate(given.values) if isinstance(values, OnDemand)]
        self._on_demand = {i: arguments[i] for i in places}
        self._digests = {i: fingerprint(each) for i, each in enumerate(arguments) if i not in self._on_demand}
        self._of_form = [] if given.form is None else [given.form.fingerprint]
        self._key = torch.empty(0)
        self._order = torch.empty(0)
        self._epoch = -1
        self._ahead = -1, self._order  # an epoch, and its order
        self._store(given, *pair)

    def _store(self, given: TakenApart, *pair: Pair) -> None:
        """Put on the device what is in memory; what is not is fetched by steps from a file, else by their visits."""
        workers = [each.streamed.workers for each in given.values if isinstance(each, Column)]
        self.workers = max(workers, default=WORKERS)
        self.is_fetched = bool(workers) or (self.device.type != "cpu" and len(self._on_demand) > 0)
        where = torch.device("cpu") if self.is_fetched else self.device
        values = [each if isinstance(each, OnDemand) else each.to(where) for each in given.in_precision_of(*pair)]
        for one, brought in zip(given.values, values, strict=True):
            _say_brought(one, brought)
        self._stored = Stored(values, precision_of(pair[0], pair[-1]) if pair else None)
        self.parts = () if self.is_fetched else self._stored.tensors
        size = sum(each.shape.numel() * each.dtype.itemsize for each in values) * self.batch_size // self.size
        at_once = max(1, min(AT_ONCE // max(1, size), LARGEST_AT_ONCE))
        self._prefetched = Prefetched(self._stored.fetch, self._rows, at_once, self.workers, self.device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all data, by which a saved state knows them; what is not in memory is read for it, once."""
        return "-".join([*self._fingerprints(), *self._of_form])

    def _fingerprints(self) -> list[str]:
        for i, each in self._on_demand.items():
            self._digests[i] = self._digests.get(i) or fingerprint(each)
        return [self._digests[i] for i in range(len(self._digests))]

    @property
    def earlier_fingerprint(self) -> str:
        """The fingerprint in the first format of saved states, of data alone and without how they are used."""
        return "-".join(each.removeprefix("dynamic ") for each in self._fingerprints())

    def close(self) -> None:
        """End the processes that fetch; the next visit begins others where there is something to fetch."""
        self._prefetched.close()

    @property
    def per_epoch(self) -> int:
        """Number of minibatches in an epoch."""
        return -(-self.size // self.batch_size)

    @property
    def dimension(self) -> int:
        """How many numbers a datum has."""
        return sum(part[0].numel() for part in self.parts)

    def called(self, function: Pair) -> Pair:
        """A model or guide that is called with the tensors of a minibatch, whatever arguments it has itself."""
        return called(function, self.form)

    def samples_seen(self, step: int) -> int:
        """Training data visited in the first ``step`` steps."""
        epochs, batches = divmod(step, self.per_epoch)
        return epochs * self.size + batches * self.batch_size

    def frequent_sizes(self) -> frozenset[int]:
        """Sizes of batches that come often: the full one, and the last one where an epoch is short."""
        last = self.size - (self.per_epoch - 1) * self.batch_size
        return frozenset({self.batch_size, last} if self.per_epoch <= 20 else {self.batch_size})

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        """The minibatch of a step, fetched now."""
        return self.at(*self._visit(step))

    def visit(self, step: int) -> Visit:
        """What :meth:`take` makes a step's minibatch of; those of the steps after it are fetched meanwhile."""
        visit = self._visit(step)
        if not self.is_fetched:
            return visit
        if self.workers == 0:
            return (*visit, *self._on_device(self._stored.fetch(self._rows(step))))
        return (*visit, *self._on_device(self._prefetched.of(step)))

    def _visit(self, step: int) -> Visit:
        """A step's rows, ``(M,)``, and its epoch's key of binarisation, ``()``."""
        epoch, index = divmod(step, self.per_epoch)
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = self._order_of(epoch).to(self.device)
            self._key = torch.tensor(derive(self.seed, "binarize", epoch)).to(self.device)
        return self._order[index * self.batch_size : (index + 1) * self.batch_size], self._key

    def _rows(self, step: int) -> Tensor:
        """A step's rows, on the CPU: who fetches ahead may be in the next epoch already."""
        epoch, index = divmod(step, self.per_epoch)
        if self._ahead[0] != epoch:
            self._ahead = epoch, self._order_of(epoch)
        return self._ahead[1][index * self.batch_size : (index + 1) * self.batch_size]

    def _order_of(self, epoch: int) -> Tensor:
        return torch.randperm(self.size, generator=generator(self.seed, "order", epoch))

    def _on_device(self, fetched: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(values.to(self.device, non_blocking=True) for values in fetched)

    def at(self, rows: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """The data in rows ``(M,)``, wherever they are, as :meth:`take` makes them, fetched now."""
        return self.take(rows, key, *(self._on_device(self._stored.fetch(rows.cpu())) if self.is_fetched else ()))

    def take(self, rows: Tensor, key: Tensor, *fetched: Tensor) -> tuple[Tensor, ...]:
        """The data in rows ``(M,)``; what is binarised anew at each visit is drawn with the key, ``()``.

        Arguments:
            rows: Which.
            key: The epoch's.
            fetched: The rows themselves, ``(M, ...)`` for each argument, of data that a visit brings; by default none.
        """
        batch = fetched or self._stored.fetch(rows)
        return tuple(
            binarized(values, rows, key + i * ANOTHER_KEY) if drawn else values
            for i, (values, drawn) in enumerate(zip(batch, self.binarises, strict=True))
        )

    def check(self, model: Pair, guide: Pair | None) -> None:
        """Check that all data, not only the first batch, lie where the model has a density for them.

        Where a distribution's support is one for all data they are looked at at once; where it differs by datum or by
        minibatch each minibatch is looked at by itself.

        Raises:
            InputError: Names the first datum that is not; or the size of a model that is made for fewer data.
        """
        check_sizes(self.size, model, *([] if guide is None else [guide]))
        first = self._visit(0)
        args = self.at(*first)
        sites = traces.observed(model, guide, args, first[0])
        places = [next((i for i, arg in enumerate(args) if site.value is arg), None) for site in sites]
        known = [(site, place) for site, place in zip(sites, places, strict=True) if place is not None]
        universal = all(site.is_universal for site in sites)
        if len(known) == len(sites) and (universal or self._same_support(model, guide, sites)):
            try:
                self._check_at_once(known)
                return
            except InputError:
                if universal:
                    raise
        for step in range(self.per_epoch):
            visit = self._visit(step)
            traces.check_observed(model, guide, self.at(*visit), visit[0])

    def _check_at_once(self, known: list[tuple[traces.Observed, int]]) -> None:
        """All data, some at a time; those that are not in memory are hashed by the way, so that they are read once."""
        known = [(site, place) for site, place in known if not self.binarises[place]]
        if not known:
            return
        digests = {i: Digest() for i, each in self._on_demand.items() if isinstance(each, OnDemand)}
        for rows, read in self._stored.read_through():
            for i, digest in digests.items():
                digest.update(read[i])
            for i, (site, place) in enumerate(known):
                values = self._stored.brought(read[place]).to(self.device)
                known[i] = traces.check_values(values, site, rows), place
        for i, digest in digests.items():
            self._digests[i] = digest.told()
            if isinstance(argument := self._on_demand[i], Mapped):
                argument.digest = digest.told()

    def _same_support(self, model: Pair, guide: Pair | None, sites: list[traces.Observed]) -> bool:
        """Is each site's support made of constants that another minibatch has too?"""
        last = self._visit(self.per_epoch - 1)
        others = traces.observed(model, guide, self.at(*last), last[0])
        same = len(sites) == len(others) and all(a.same_support(b) for a, b in zip(sites, others, strict=True))
        return same and all(site.is_constant for site in sites)
