"""Signals to end: raised as an exception, so that a training can save what it has, and told in one line."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

__all__ = ["Stopped", "stopping"]


class Stopped(BaseException):
    """The user, or the machine, wants the command to end; ``number`` is the signal's, ``what`` says what was kept."""

    def __init__(self, number: int, what: str = "") -> None:
        super().__init__(what)
        self.number = number
        self.what = what

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        said = "interrupted" if self.number == signal.SIGINT else f"stopped by {name}"
        return f"{said}: {self.what}" if self.what else said


@contextmanager
def stopping() -> Iterator[None]:
    """Raise :class:`Stopped` where SIGTERM or SIGHUP would end the process without a word, for the time of a block.

    A signal that is ignored, as under ``nohup``, stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    own = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in own:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped(number)
