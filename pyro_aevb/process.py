"""What there is one of in a process: Pyro's stack of handlers, torch's generators and settings; and signals.

Two threads that ran pairs at once would meet each other's handlers, noise and parameter stores. So whoever swaps one of
these in holds a lock, for a block of steps or of data, and another thread waits for its turn.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.torch_internals import version_of

__all__ = ["SIGNALS", "Deferred", "UndoneStep", "alone", "shielded"]

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

PATIENCE = 10  # seconds until it is told what a thread waits for

logger = logging.getLogger(__name__)
_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Run a block while no other thread runs one; the same thread may enter again."""
    lock = _LOCK
    if not lock.acquire(timeout=PATIENCE):
        logger.info("waiting for another thread, which trains or evaluates")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _renew() -> None:
    """A forked process has no other threads, though one of them may have held the lock."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def shielded() -> Iterator[None]:
    """Begin processes in a block that Ctrl-C in a terminal does not reach, which it sends to all at once.

    A compiler that it ended would leave this process other code, slower and rounding otherwise; here it waits.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Deferred:
    """Keeps the handlers of Ctrl-C and of the signals to end waiting, so that they never cut a step in two.

    Inside ``with`` a signal waits until :meth:`deliver` is called, where an interruption leaves everything whole. A
    second one does not wait. Outside the main thread, where no handler ever runs, this does nothing.
    """

    def __init__(self) -> None:
        self._waiting: list[Callable[[], Any]] = []
        self._handlers: dict[int, Any] = {}
        self._ours: dict[int, Any] = {}

    def __enter__(self) -> "Deferred":
        if threading.current_thread() is threading.main_thread():  # which alone may set handlers
            self._handlers = {number: found for number in SIGNALS if callable(found := signal.getsignal(number))}
        self._ours = {number: partial(self._later, handler) for number, handler in self._handlers.items()}
        for number, ours in self._ours.items():
            signal.signal(number, ours)
        return self

    def __exit__(self, *error: object) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            if signal.getsignal(number) is self._ours[number]:  # else somebody has set another one meanwhile
                signal.signal(number, handler)

    def deliver(self) -> None:
        """Run the handlers that were kept waiting."""
        while self._waiting:
            self._waiting.pop(0)()

    def _later(self, handler: Callable[..., Any], number: int, frame: Any) -> None:
        if self._waiting:
            handler(number, frame)
            return
        self._waiting.append(partial(handler, number, frame))


class UndoneStep:
    """What a step changes before its update: noise, buffers, gradients. One that fails there is taken back.

    Arguments:
        read_noise: Function that returns the state of the noise that the step draws from.
        write_noise: Function that puts such a state back.
        tensors: Tensors that a step may write to before its update: buffers, and what the estimator counts.
        parameters: Parameters whose gradients a step leaves behind.
    """

    def __init__(
        self,
        read_noise: Callable[[], Any],
        write_noise: Callable[[Any], None],
        tensors: list[Tensor],
        parameters: list[Tensor],
    ) -> None:
        self.read_noise = read_noise
        self.write_noise = write_noise
        self.tensors = tensors
        self.parameters = parameters
        self._copies = [tensor.detach().clone() for tensor in tensors]
        self._versions = [-1] * len(tensors)
        self._moving = set(range(len(tensors)))
        self._steps = 0

    def remember(self) -> None:
        """Copy what a step may change, before it begins; buffers that the first step left as they were, only once."""
        if self._steps == 1:
            pairs = enumerate(zip(self.tensors, self._copies, strict=True))
            self._moving = {i for i, (tensor, copy) in pairs if not torch.equal(tensor, copy)}
        for i, tensor in enumerate(self.tensors):
            if i in self._moving or version_of(tensor) != self._versions[i]:  # a compiled step writes without a version
                self._copies[i] = tensor.detach().clone()
                self._versions[i] = version_of(tensor)
        self._steps += 1
        self._noise = self.read_noise()

    @torch.no_grad()
    def take_back(self) -> None:
        """Put everything back as it was when the step began."""
        self.write_noise(self._noise)
        for tensor, copy in zip(self.tensors, self._copies, strict=True):
            if not torch.equal(tensor, copy):
                tensor.copy_(copy)
        for parameter in self.parameters:
            parameter.grad = None
