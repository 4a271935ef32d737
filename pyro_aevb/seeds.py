"""One seed, separate streams: a change in one use of chance leaves the others as they were.

The streams are ``weights`` (initial values), ``split`` (train and test), ``binarize``, ``order`` (minibatches),
``noise`` (the latent samples) and ``evaluation``. Pyro draws from torch's global generator, so the noise stream is that
generator with its state swapped in for the time of a block of steps, and the caller's state put back afterwards.
"""

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.errors import whole
from pyro_aevb.process import alone

__all__ = ["GlobalNoise", "derive", "generator", "hashed_uniform", "seeded", "unchanged_random_state"]


def derive(seed: int, stream: str, index: int = 0) -> int:
    """The 64-bit seed of one stream, by NumPy's ``SeedSequence`` of (seed, name, index).

    Arguments:
        seed: Seed of the whole, at least 0.
        stream: Name of the stream, one of those at the top of this file.
        index: Number of the stream among those of its name, counted from 0, an epoch say.

    Raises:
        InputError: If the seed is negative.
    """
    whole("seed", seed, least=0)
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))  # torch takes a signed 64-bit integer


def generator(seed: int, stream: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator of one stream; nothing global is touched.

    Arguments:
        seed: Seed of the whole, at least 0.
        stream: Name of the stream, one of those at the top of this file.
        index: Number of the stream among those of its name, counted from 0, an epoch say.
        device: Device that the generator draws on.
    """
    return torch.Generator(device).manual_seed(derive(seed, stream, index))  # its own generator, not the global one


def hashed_uniform(key: int | Tensor, rows: Tensor, width: int) -> Tensor:
    """Uniform numbers in [0, 1), ``(len(rows), width)``, each a function of (key, row, column) alone.

    Without a state it can be recorded in a graph, and draws the same on every device, in every engine and for every
    order and size of minibatches. The low 32 bits of key, row and column are mixed by the least biased hash with two
    multiplications that was found by search, in int64 so that nothing overflows. For data, not for cryptography.

    Arguments:
        key: Number that tells one stream from another; a tensor, ``()``, where it changes between replays of a graph.
        rows: Numbers of the rows, integers, ``(B,)``.
        width: Number of columns.

    References:
        | Hash Function Prospector (Wellons, 2018)
        | https://github.com/skeeto/hash-prospector
    """
    columns = _mix(torch.arange(width, device=rows.device))  # (D,)
    bits = _mix(_mix(_mix(rows) ^ (key & _LOW)).unsqueeze(-1) ^ columns)  # (B, D)
    return (bits >> 8).to(torch.float32) * 2.0**-24


_LOW = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Every bit of the result depends on every bit of ``x`` in [0, 2^32); 1 is added, since 0 would stay 0."""
    x = (x + 1) & _LOW
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _LOW
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _LOW
    return x ^ (x >> 15)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block with torch's global generators seeded, and put the caller's states back.

    Arguments:
        seed: Seed of the CPU's generator, and of the device's.
        device: Device on which the block draws; its generator is seeded and put back too.

    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> with seeded(0):
    ...     print(bool((torch.rand(2) == first).all()))
    True
    """
    device = torch.device(device)
    with _forked(device):  # the caller's states come back when the block ends
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU, also those not forked
        if module := _accelerator(device):
            with module.device(device):
                module.manual_seed(seed)  # inside the fork
        yield


def unchanged_random_state(device: torch.device | str = "cpu") -> AbstractContextManager[None]:
    """Run a block that may draw from torch's global generators, and put their states back.

    Arguments:
        device: Device on which the block draws; its generator's state is put back too.
    """
    return _forked(torch.device(device))


class GlobalNoise:
    """A stream of noise for code that draws from torch's global generator, as Pyro does.

    Arguments:
        seed: Seed of the stream.
        device: Device that the noise is drawn on; its generator is swapped in beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        with seeded(seed, self.device):
            self.states = self.read()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this stream inside the block; the stream goes on where the last block stopped."""
        with _forked(self.device):
            self.write(self.states)
            try:
                yield
            finally:
                self.states = self.read()

    def read(self) -> dict[str, Tensor]:
        """The states of the global generators, inside a block those of this stream."""
        module = _accelerator(self.device)
        return {"cpu": torch.get_rng_state()} | ({"device": module.get_rng_state(self.device)} if module else {})

    def write(self, states: dict[str, Tensor]) -> None:
        """Draw on from such states, inside a block of this stream."""
        torch.set_rng_state(states["cpu"])
        if "device" in states and (module := _accelerator(self.device)):
            module.set_rng_state(states["device"], self.device)


def _accelerator(device: torch.device) -> Any:
    """The module of the device's generator, ``torch.cuda`` say; ``None`` for the CPU."""
    return None if device.type == "cpu" else torch.get_device_module(device)


@contextmanager
def _forked(device: torch.device) -> Iterator[None]:
    """Put the global generators' states back after a block, in which no other thread's draws come between."""
    index = _accelerator(device).current_device() if device.type != "cpu" and device.index is None else device.index
    devices, kind = ([], "cuda") if device.type == "cpu" else ([index], device.type)
    with alone(), torch.random.fork_rng(devices=devices, device_type=kind):
        yield
