"""``pyro-aevb sweep``, and ``train --seeds``: runs side by side, gone on with by the same command, in one table."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pyro_aevb.cli.listing import help_of_part
from pyro_aevb.cli.side_by_side import Event, Order, SideBySide
from pyro_aevb.cli.stopping import Stopped
from pyro_aevb.errors import InputError
from pyro_aevb.hardware import find_device
from pyro_aevb.runs.begin import check_options, free_path, settled, trust_typed, value_of
from pyro_aevb.runs.entry import RaisingParser
from pyro_aevb.runs.folder import is_run
from pyro_aevb.runs.grid import Point
from pyro_aevb.runs.options import TrainOptions, parser
from pyro_aevb.runs.parser import Parser
from pyro_aevb.runs.step_sizes import without_auto
from pyro_aevb.runs.sweeps import Row, Sweep, row_of

__all__ = ["SweepOptions", "sweep", "train_seeds"]

FAILED = 1
STILL = ("waiting", "done", "failed", "stopped")
"""States of runs that no process is training; others are of running ones."""
EVERY = 30
"""Seconds between two lines that say how far the runs are, where nobody looks at a terminal."""


@dataclass(frozen=True)
class SweepOptions(TrainOptions):
    """Train one run for each combination of values; any option may have several, separated by commas.

    Arguments:
        hidden: Hidden units of likelihood and guide; [500,300] is one value, 50,[500,300] are two.
        out: The sweep's folder, which has a folder for each run; by default the first free of runs/DATA-1, ...; the
            same command again goes on with what is missing, another grid adds runs.
        seeds: Seeds of several runs of each combination, 0-4 or 0,3,7.
        jobs: Number of processes that train at once; by default as many as there are processors, on a GPU one.
    """


def sweep(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb sweep``.

    Raises:
        InputError: If an option does not fit.
    """
    if help_of_part(arguments):
        return
    grammar = Parser.of(SweepOptions, "pyro-aevb sweep")
    grammar.option("--config", help="Start from a run's config.yaml; other options override it.")
    if {"-h", "--help"} & set(arguments):
        grammar.parse(["--help"])
    grammar.check_known(arguments)
    if value_of("track", arguments) is not None:
        raise InputError("--track is for one run: leave it out, or train each alone")
    _train_all("sweep", arguments, split=True)


def train_seeds(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb train --seeds``: a sweep over nothing else.

    Raises:
        InputError: If an option does not fit.
    """
    parser().check_known(arguments)
    if value_of("resume", arguments) is not None:
        raise InputError("--seeds and --resume are both given: the command that began the runs goes on with them")
    _train_all("train", arguments, split=False)


def _train_all(command: str, arguments: Sequence[str], split: bool) -> None:
    jobs = _jobs(arguments)
    out = value_of("out", arguments)
    path = Path(out) if out else free_path(value_of("data", arguments) or "digits")
    wanted = Sweep(path, arguments, lambda count: _threads(jobs, count), split)
    _check(wanted)
    again = shlex.join(["pyro-aevb", command, *arguments, *([] if out else ["--out", str(path)])])
    with wanted.locked():
        rows = _trained(wanted, jobs, again)
    print(f"{wanted.path}: {_count(rows)}, nats per datum\n{table(rows)}")
    if failed := [row for row in rows if row.state != "done"]:
        for row in failed:
            print(f"pyro-aevb: {row.point.name} failed: {row.message}", file=sys.stderr)
        print(f"pyro-aevb: {len(failed)} of {len(rows)} runs failed; to try these again: {again}", file=sys.stderr)
        sys.exit(FAILED)


def _check(wanted: Sweep) -> None:
    """Refuse what does not fit before anything is trained, in hours perhaps: all options, and each data set."""
    grammar = parser(RaisingParser)
    seen = set()
    for point in wanted.points:
        words = without_auto([word for word in point.words if not word.startswith("--seed=")])
        if tuple(words) not in seen:
            seen.add(tuple(words))
            check_options(grammar, words)
    of_data = {value_of("data", point.words): point for point in reversed(wanted.points)}
    for point in reversed(of_data.values()):
        settled(grammar, without_auto(point.words))


def _jobs(arguments: Sequence[str]) -> int:
    """How many processes train at once: as many as there are processors, or one on a GPU."""
    typed = value_of("jobs", arguments)
    if typed is None:
        device = (value_of("device", arguments) or "auto").split(",")[0]
        return processors() if find_device(device).type == "cpu" else 1
    if not typed.isdigit() or not 1 <= int(typed) <= 1000:
        raise InputError(f"--jobs must be a whole number of at least 1, not {typed!r:.60}")
    return int(typed)


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(jobs: int, count: int) -> int:
    """Threads of each run: as many as the user says by ``OMP_NUM_THREADS``, else the processors' share."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else max(1, processors() // min(jobs, count))


def _trained(wanted: Sweep, jobs: int, again: str) -> list[Row]:
    """Train what is not done, and keep the table up to date."""
    rows = wanted.rows()
    left = [row for row in rows if row.state != "done"]
    shown = _Shown(rows)
    wanted.write_table(rows)

    def tell(event: Event | None) -> None:
        """Take an event into the table."""
        if event is not None and _take(wanted, left[event.number], event):
            wanted.write_table(rows)
            shown.ended(left[event.number])
        shown.refresh()

    orders = [Order(row.point.name, _words(wanted.path, row.point)) for row in left]
    try:
        if left:
            SideBySide(orders, min(jobs, len(left)), wanted.threads).run(tell)
    except (KeyboardInterrupt, Stopped) as stop:
        wanted.write_table(rows)
        raise Stopped(getattr(stop, "number", signal.SIGINT), f"{_count(rows)}, go on with: {again}") from stop
    finally:
        shown.close()
    return rows


def _words(folder: Path, point: Point) -> list[str]:
    """What a run is begun with, or gone on with where it is there."""
    path = folder / point.name
    if not is_run(path):
        return [*point.words, f"--out={path}"]
    return [f"--resume={path}", *trust_typed(point.words)]


def _take(wanted: Sweep, row: Row, event: Event) -> bool:
    """Take an event into a run's row; whether the run's state has changed."""
    told = event.told
    if told["state"] in ("done", "failed", "stopped"):
        found = row_of(wanted.path, row.point)
        for name in ("samples", "bound", "test_bound", "test_se", "minutes"):
            setattr(row, name, getattr(found, name))
    before = row.state
    row.state = told["state"]
    row.message = told.get("message", "")
    row.samples = told.get("samples", row.samples)
    row.bound = told.get("bound", row.bound)
    return row.state != before


# ---------------------------------------------------------------- the table


def table(rows: Sequence[Row]) -> str:
    """Aligned lines, a run each.

    Arguments:
        rows: How far the runs are.
    """
    width = max(3, *(len(row.point.name) for row in rows))
    state = max(5, *(len(row.state) for row in rows))
    head = f"{'run':<{width}}  {'state':<{state}}{'samples':>10}{'train':>9}{'test':>9}{'s.e.':>6}{'minutes':>9}"
    return "\n".join([head, *(_line(row, width, state) for row in rows)])


def _line(row: Row, width: int = 0, state: int = 0) -> str:
    bounds = f"{_number(row.bound):>9}{_number(row.test_bound):>9}{_number(row.test_se):>6}"
    return f"{row.point.name:<{width}}  {row.state:<{state}}{row.samples:>10,}{bounds}{row.minutes:>9.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(rows: Sequence[Row]) -> str:
    """How many runs are in which state, in words."""
    states = ["running" if row.state not in STILL else row.state for row in rows]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "done"]
    return ", ".join([f"{states.count('done')} of {len(rows)} runs done", *others])


class _Shown:
    """The table on standard error while runs are trained: drawn anew in a terminal, else a line for each that ends.

    Arguments:
        rows: How far the runs are; they change.
    """

    def __init__(self, rows: Sequence[Row], file: TextIO | None = None) -> None:
        self.rows = rows
        self.file = sys.stderr if file is None else file
        self._drawn = 0
        self._last = time.monotonic()

    def ended(self, row: Row) -> None:
        """A run is in another state."""
        if not self.file.isatty() and row.state in ("done", "failed"):
            print(f"pyro-aevb: {_line(row)} ({_count(self.rows)})", file=self.file, flush=True)

    def refresh(self) -> None:
        """Show how far the runs are."""
        now = time.monotonic()
        if now - self._last < (1 if self.file.isatty() else EVERY):
            return
        self._last = now
        self._draw() if self.file.isatty() else self._say()

    def _draw(self) -> None:
        """The runs that are trained now, in the place of those that were drawn last."""
        busy = [row for row in self.rows if row.state not in STILL]
        lines = [_count(self.rows), *(table(busy).splitlines() if busy else [])]
        text = "".join(f"\x1b[2K{line[: _columns()]}\n" for line in lines)
        print(f"{self._back()}{text}", end="", file=self.file, flush=True)
        self._drawn = len(lines)

    def _back(self) -> str:
        return f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""

    def _say(self) -> None:
        busy = [f"{row.point.name} {row.samples:,}" for row in self.rows if row.state not in STILL]
        print(f"pyro-aevb: {_count(self.rows)}; samples seen: {', '.join(busy)}", file=self.file, flush=True)

    def close(self) -> None:
        """Take away what was drawn: the whole table comes on standard output."""
        print(self._back(), end="", file=self.file, flush=True)
        self._drawn = 0


def _columns() -> int:
    """Width of the terminal, in which a longer line would take two; some do not know theirs."""
    return (os.get_terminal_size(sys.stderr.fileno()).columns or 10_000) - 1
