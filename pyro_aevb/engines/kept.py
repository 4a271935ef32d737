"""When a recording is made, compared with what it was made of, and made anew: once, for all that is recorded."""

import logging
import sys
import time
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pyro_aevb.engines.frozen import Facts, Frozen
from pyro_aevb.process import shielded

__all__ = ["CHECK_EVERY", "Kept", "agree"]

logger = logging.getLogger(__name__)

CHECK_EVERY = 500  # steps: 0.3 % of the time; every hundred would take 1.5 %
LOSS_TOLERANCE = 1e-4  # relative, or this part of a nat per datum: far above rounding, far below any real change
TOLERANCE = 1e-3  # relative, of one parameter's gradient: above float32 rounding, below any real change
FLOOR = 1e-5  # of the length of all gradients: one that is rounding alone, a bias before BatchNorm say, may differ

LIBRARIES = {"torch", "pyro", "pyro_aevb", *sys.stdlib_module_names} - {"__main__"}
"""Whose code a user did not write."""

Recording = TypeVar("Recording")


class Kept(Generic[Recording]):
    """Recordings of a step, one for each size of minibatch, under one policy.

    A recording is compared with the step when it is made and every 500 steps; where something has changed that can be
    seen cheaply the step is recorded anew, since one minibatch need not show what it changes. A step that differs from
    its own new recording, or that writes to Python whenever it runs, is not recorded any more.

    Arguments:
        record: Makes a recording for a size of minibatch, from an example of the step's arguments.
        agrees: Does a recording give what the step gives, loss and gradients, with these arguments?
        frozen: Values that recordings hold fast.
        sizes: Sizes of minibatch that are worth a recording.
        refuse: Called with the reason where there is no recording to be had; by default it is told in one log line, and
            the step runs eagerly.
    """

    def __init__(
        self,
        record: Callable[..., Recording],
        agrees: Callable[..., bool],
        frozen: Frozen,
        sizes: frozenset[int],
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        self.record = record
        self.agrees = agrees
        self.frozen = frozen
        self.sizes = sizes
        self.refuse = refuse or _run_eagerly
        self.recordings: dict[int, Recording | None] = {}
        self._facts: dict[int, Facts] = {}  # when each recording was last compared
        self._checked: set[int] = set()
        self._steps_since_check = 0
        self._obstacle: str | None = None

    def of(self, size: int, *example: Any, steps: int = 1) -> Recording | None:
        """The recording for minibatches of a size, compared if that is due; ``None`` where the step runs eagerly.

        Arguments:
            size: Number of data.
            example: The step's arguments, to record and to compare with.
            steps: How many steps will be taken with it.
        """
        self._steps_since_check += steps
        if self._steps_since_check > CHECK_EVERY:
            self.check_next()
        if size not in self._checked and size in self.sizes:
            self._check(size, *example)
        return self.recordings.get(size) if self._obstacle is None else None

    def look(self) -> None:
        """Compare each recording before it is next used, if something has changed that is cheap to see."""
        facts = self.frozen.read() if any(self.recordings.values()) else None
        if facts and not all(self.frozen.same(facts, self._facts[size]) for size in self._checked):
            self._checked.clear()
            self._steps_since_check = 0
        self._find_obstacle()

    def check_next(self) -> None:
        """Compare each recording with the step before it is next used."""
        self._checked.clear()
        self._steps_since_check = 0
        self._find_obstacle()

    def _find_obstacle(self) -> None:
        before = self._obstacle
        self._obstacle = self.frozen.obstacle()
        if self._obstacle not in (None, before):
            self.refuse(f"{self._obstacle}, which a recording would not call")

    def _check(self, size: int, *example: Any) -> None:
        if self._obstacle is not None:
            return
        recording = self.recordings.get(size)
        if size not in self.recordings:
            self.recordings[size] = self._made(size, *example)
        elif recording is not None and not self._still(recording, size, *example):
            self.frozen.look_again()
            self.recordings[size] = self._made(size, *example)
        self._facts[size] = self.frozen.read()
        self._checked.add(size)

    def _still(self, recording: Recording, size: int, *example: Any) -> bool:
        """Is the step still what was recorded?"""
        same = self.frozen.same(self.frozen.read(), self._facts[size])
        return same and self._unmoved(recording, *example) is None

    def _made(self, size: int, *example: Any) -> Recording | None:
        started = time.perf_counter()
        before = self.frozen.python.read()
        try:
            with shielded():
                recording = self.record(*example)
        except Exception as error:  # whatever the compiler raises: the eager step gives the same numbers
            self.frozen.python.write(before)
            self.refuse(f"the step cannot be recorded: {reason(error)}")
            return None
        if differing := self._unmoved(recording, *example):
            self.frozen.python.write(before)
            self.refuse(f"the recording differs from the step, which changes by itself ({differing})")
            return None
        if not getattr(recording, "is_known", False):
            again = ", anew, since model, guide or estimator has changed" if size in self.recordings else ""
            logger.info("recorded the step for batches of %d in %.1f s%s", size, time.perf_counter() - started, again)
        return recording

    def _unmoved(self, recording: Recording, *example: Any) -> str | None:
        """What differs between a recording and the step, or in Python after the step; ``None`` where nothing does."""
        before = self.frozen.python.read()
        agrees = self.agrees(recording, *example)
        moved = self.frozen.python.changed(before, self.frozen.python.read())
        self.frozen.python.write(before)
        return moved or (None if agrees else "loss or gradients")


def _run_eagerly(reason: str) -> None:
    logger.info("%s; the step runs eagerly", reason)


def agree(
    ours: list[Tensor | None], theirs: list[Tensor | None], loss_of_a_nat: float, tolerance: float = TOLERANCE
) -> bool:
    """Are a recorded loss and its gradients the step's, up to rounding?

    Arguments:
        ours: The recorded loss, and each parameter's gradient, ``None`` where there is none.
        theirs: Those of the step.
        loss_of_a_nat: What one nat per datum is in the loss: near a bound of zero rounding is no part of it.
        tolerance: Relative error of a gradient.
    """
    loss = ours[0]
    expected = theirs[0]
    if loss is None or expected is None or not _close(loss, expected, loss_of_a_nat):
        return False
    if not all((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True)):
        return False
    gradients = [
        (a.double(), b.double()) for a, b in zip(ours[1:], theirs[1:], strict=True) if a is not None and b is not None
    ]
    if not gradients:
        return True
    lengths = torch.stack([b.norm() for _, b in gradients])
    distances = torch.stack([(a - b).norm() for a, b in gradients])
    within = distances <= tolerance * lengths + FLOOR * lengths.norm()
    return bool((within | ~lengths.isfinite()).all())


def _close(loss: Tensor, expected: Tensor, loss_of_a_nat: float) -> bool:
    expected = expected.detach().to(loss.dtype)
    tolerance = LOSS_TOLERANCE * loss_of_a_nat
    return bool(torch.isclose(loss, expected, rtol=LOSS_TOLERANCE, atol=tolerance, equal_nan=True))


def reason(error: Exception) -> str:
    """An error in one line, with the line of the user's own file that it came from, if there is one."""
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    own = [frame for frame in frames if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES]
    if not own:
        return words
    return f"in {own[-1].f_code.co_filename}, line {own[-1].f_lineno}, {own[-1].f_code.co_name}: {words}"
