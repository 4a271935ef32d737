"""Runs side by side, each in a process of its own: a thread for each process hands it one run after another.

A run does the same in a process that has trained others as in a fresh one, so that a process is begun once, which takes
seconds, and not for each run. One that ends before its run does is replaced. The processes have a session of their own:
Ctrl-C in a terminal reaches the command alone, which tells each process once.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyro_aevb

__all__ = ["Event", "Order", "SideBySide"]

PACKAGE = str(Path(pyro_aevb.__file__).parents[1])
PROGRAM = f"import sys; sys.path.append({PACKAGE!r}); from pyro_aevb.cli.worker import main; main()"
ENDS = ("done", "failed", "stopped")
"""States in which a run is told of for the last time."""


class Order(NamedTuple):
    """A run that is to be trained."""

    name: str
    """Its name, for messages."""
    arguments: Sequence[str]
    """Words of ``pyro-aevb train``."""


class Event(NamedTuple):
    """What a process says of its run."""

    number: int
    """Number of the run."""
    told: dict[str, Any]
    """``state``, which is ``running``, ``done``, ``failed`` or ``stopped``, and what belongs to it."""


ENDED = Event(-1, {})
"""What a thread says when it has nothing more to do."""


class Worker:
    """A process that trains one run after another.

    Arguments:
        threads: Number of threads that a run may use.
    """

    def __init__(self, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def train(self, order: Order) -> Iterator[dict[str, Any]]:
        """Have a run trained; what is told of it, to the end.

        Arguments:
            order: The run.
        """
        stdin: Any = self.process.stdin
        stdout: Any = self.process.stdout
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(order._asdict()) + "\n")
            stdin.flush()
        for line in stdout:
            told = json.loads(line)
            if told["state"] != "ready":
                yield told
            if told["state"] in ENDS:
                return
        yield {"state": "failed", "message": f"its process {_end(self.process.wait())}"}

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Have it save its run and end."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> None:
        """Let it end, now that there is nothing more to train."""
        stdin: Any = self.process.stdin
        stdout: Any = self.process.stdout
        with suppress(BrokenPipeError):
            stdin.close()
        stdout.close()
        self.process.wait()


def _end(code: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class SideBySide:
    """Processes that train runs, so many at once.

    Arguments:
        orders: The runs.
        jobs: Number of processes.
        threads: Number of threads that each may use.
    """

    def __init__(self, orders: Sequence[Order], jobs: int, threads: int) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.stopping = False
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting = list(enumerate(orders))[::-1]
        self._workers: dict[int, Worker] = {}
        self._serving = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(jobs)]

    def run(self, tell: Callable[[Event | None], None], every: float = 1.0) -> None:
        """Train all runs; where the caller is interrupted, have those that train saved, and raise what interrupted.

        Arguments:
            tell: Function that is called with each event, and with ``None`` at least every so often.
            every: Seconds, at most, between two calls.
        """
        for thread in self._serving:
            thread.start()
        stop: BaseException | None = None
        serving = len(self._serving)
        while serving:
            try:
                event = self._next(every)
                serving -= event is ENDED
                tell(None if event is ENDED else event)
            except BaseException as error:
                self._stop(again=stop is not None)
                stop = stop or error
        if stop is not None:
            raise stop

    def _next(self, every: float) -> Event | None:
        try:
            return self.events.get(timeout=every)
        except queue.Empty:
            return None

    def _stop(self, again: bool) -> None:
        """End no run in the middle of a step, unless the user asks a second time."""
        with self._lock:
            self.stopping = True
            for worker in self._workers.values():
                worker.stop(signal.SIGKILL if again else signal.SIGTERM)

    # ------------------------------------------------------------ in the threads

    def _serve(self, slot: int) -> None:
        """Hand one process one run after another."""
        try:
            while (taken := self._take(slot)) is not None:
                if self._train(*taken) != "done":
                    self._finish(slot)
            self._finish(slot)
        finally:
            self.events.put(ENDED)

    def _take(self, slot: int) -> tuple[Worker, int, Order] | None:
        """The next run and the process that trains it; an interruption comes before both, or reaches the process."""
        with self._lock:
            if self.stopping or not self._waiting:
                return None
            worker = self._workers.get(slot) or Worker(self._threads)
            self._workers[slot] = worker
            return worker, *self._waiting.pop()

    def _train(self, worker: Worker, number: int, order: Order) -> str:
        state = "failed"
        self.events.put(Event(number, {"state": "running"}))
        for told in worker.train(order):
            state = told["state"]
            by_us = self.stopping and state == "failed" and worker.process.poll()
            self.events.put(Event(number, {"state": "stopped"} if by_us else told))
        return state

    def _finish(self, slot: int) -> None:
        with self._lock:
            worker = self._workers.pop(slot, None)
        if worker is not None:
            worker.end()
