"""How far a training is: a bar where somebody looks at a terminal, else a line every so often."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TextIO

from tqdm import tqdm

from pyro_aevb.training.progress import Progress

__all__ = ["EVERY", "Shown"]

EVERY = 30
"""Seconds between two lines, at least; the first comes no sooner either."""


class Shown(AbstractContextManager["Shown"]):
    """A training's progress on standard error, for the time of a block.

    Arguments:
        seen: Training data seen before.
        target: Training data to see, in all.
        clock: Function that tells the time, in seconds.
        file: Where to show it; by default standard error.
    """

    def __init__(
        self, seen: int, target: int, clock: Callable[[], float] = time.monotonic, file: TextIO | None = None
    ) -> None:
        self.seen = seen
        self.target = target
        self.clock = clock
        self.file = sys.stderr if file is None else file
        self._began = seen, clock()
        self._said = clock()
        self._bar: Any = None

    def __enter__(self) -> "Shown":
        if self.file.isatty():
            self._bar = tqdm(total=self.target, initial=self.seen, unit="samples", file=self.file, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, progress: Progress) -> None:
        """Show a report."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"bound {progress.bound:.2f} nats per datum", refresh=False)
            self._bar.update(progress.samples_seen - self.seen)
        elif self.clock() - self._said >= EVERY and progress.samples_seen < self.target:
            self._said = self.clock()
            print(f"pyro-aevb: {self._line(progress)}", file=self.file, flush=True)
        self.seen = progress.samples_seen

    def _line(self, progress: Progress) -> str:
        samples, began = self._began
        took = (self.clock() - began) / (progress.samples_seen - samples)
        left = took * (self.target - progress.samples_seen)
        done = f"{progress.samples_seen:,} of {self.target:,} samples"
        return f"{done}, bound {progress.bound:.2f} nats per datum, {_words(left)} left"


def _words(seconds: float) -> str:
    """A time in its two largest units.

    >>> _words(59.6), _words(3599), _words(7260)
    ('1 min', '59 min 59 s', '2 h 1 min')
    """
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 2)
    shown = [(count, unit) for count, unit in parts[first : first + 2] if count]
    return " ".join(f"{count} {unit}" for count, unit in shown or parts[2:])
