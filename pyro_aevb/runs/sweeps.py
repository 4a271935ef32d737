"""The folder of a sweep: its runs, each in a folder of its own, and a table of how far each one is.

=====================  ==========================================================================
``sweep.yaml``         the options that all runs have in common, those that vary, and the runs
``table.csv``          a line for each run: its state, samples, bounds in nats per datum, minutes
``prior=Laplace,...``  a run, as ``pyro-aevb train`` makes it
=====================  ==========================================================================

``sweep.yaml`` is compared with what is typed, and nothing in it is ever run: a sweep is gone on with by typing its
command again.
"""

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.files import check_place, locked, refuse_existing, regular_file, replaced
from pyro_aevb.runs.folder import Folder, is_run
from pyro_aevb.runs.grid import Grid, Point
from pyro_aevb.runs.options import PARTS
from pyro_aevb.runs.parser import read_config

__all__ = ["Row", "Sweep", "is_finished", "minutes_of", "row_of"]

FORMAT = "pyro_aevb sweep 1"
FILE = "sweep.yaml"
LARGEST = 20_000_000  # bytes of sweep.yaml; a run takes some hundred


@dataclass
class Row:
    """How far a run of a sweep is."""

    point: Point
    """The run."""
    state: str = "waiting"
    """``waiting``, ``running``, ``done``, ``failed``, or ``stopped`` where the sweep was interrupted."""
    samples: int = 0
    """Training data seen so far."""
    bound: float | None = None
    """The last report's training bound, nats per datum."""
    test_bound: float | None = None
    """The last test bound, nats per datum."""
    test_se: float | None = None
    """Its standard error over data."""
    minutes: float = 0.0
    """Minutes of training."""
    message: str = ""
    """What went wrong, where something did."""


class Sweep:
    """A sweep's folder, made where there is none, and the runs that a command wants.

    Arguments:
        path: The folder.
        arguments: Words of the command line.
        threads: Function that tells of a number of runs how many threads each may use, where the folder is made; runs
            that are added later have as many.
        split: Whether commas separate values of options; else only the seeds vary.

    Raises:
        InputError: If something else is there, or the runs that are there have other options in common.
    """

    def __init__(self, path: Path, arguments: Sequence[str], threads: Callable[[int], int], split: bool = True) -> None:
        self.path = path
        check_place("out", path / FILE)
        there = _read(path) if (path / FILE).exists() else None
        if there is None:
            refuse_existing(path, "it is no folder of a sweep: give another --out")
        varied = [] if there is None else there["varied"]
        self.grid = Grid(arguments, varied, split)
        self.points = self.grid.points()
        self.threads = threads(len(self.points)) if there is None else there["threads"]
        self._known: dict[str, dict[str, str]] = {} if there is None else there["runs"]
        if there is not None:
            self._check_base(there["base"])
        self._varied = list(dict.fromkeys([*varied, *self.grid.axes]))
        self._check_places()

    def _check_base(self, base: Mapping[str, Any]) -> None:
        """See that the runs that are there have the same options in common."""
        for name in self.grid.axes.keys() & base.keys():
            raise InputError(f"--{name} is {base[name]} in all runs of {self.path}: give another --out")
        for name in sorted({*base, *self.grid.base}):
            then, now = base.get(name), self.grid.base.get(name)
            if then != now:
                then, now = ("not given" if each is None else each for each in (then, now))
                raise InputError(
                    f"--{name} is {now}, and the runs in {self.path} have {then}: give it as they do, or another --out"
                )

    def _check_places(self) -> None:
        for point in self.points:
            if point.name not in self._known:
                refuse_existing(
                    self.path / point.name, "it is no run of this sweep: move it away, or give another --out"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that trains the sweep's runs, for a block; the folder and ``sweep.yaml`` are written."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            self._known |= {point.name: point.values for point in self.points}
            told = {
                "format": FORMAT,
                "base": self.grid.base,
                "varied": self._varied,
                "threads": self.threads,
                "runs": self._known,
            }
            with replaced(self.path / FILE) as file:
                file.write(yaml.safe_dump(told, sort_keys=False, width=10_000).encode())
            yield

    def rows(self) -> list[Row]:
        """How far each wanted run is by now, as its own folder says."""
        return [row_of(self.path, point) for point in self.points]

    def write_table(self, rows: Sequence[Row]) -> None:
        """Write ``table.csv``; the runs of earlier commands, which are not wanted now, are in it too.

        Arguments:
            rows: How far the wanted runs are.
        """
        wanted = {row.point.name for row in rows}
        others = [Point(name, values, ()) for name, values in self._known.items() if name not in wanted]
        with replaced(self.path / "table.csv") as file:
            file.write(_csv([*(row_of(self.path, each) for each in others), *rows], self._varied).encode())


def _read(path: Path) -> dict[str, Any]:
    """What ``sweep.yaml`` says."""
    file = regular_file(path / FILE)
    if file.stat().st_size > LARGEST:
        raise InputError(f"{file} is no file of a sweep: it has more than {LARGEST} bytes")
    try:
        found = yaml.load(file.read_text(), _Plain)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it does not begin with format: {FORMAT}")
        kinds = {"base": dict, "varied": list, "threads": int, "runs": dict}
        if wrong := [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]:
            raise ValueError(f"its {wrong[0]} is missing, or something else")
        if not all(isinstance(each, dict) for each in found["runs"].values()) or found["threads"] < 1:
            raise ValueError("what it says of runs or threads is something else")
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file} was changed or damaged: {in_one_line(error)}") from error
    return found


class _Plain(yaml.SafeLoader):
    """Reads plain values, and no aliases, by which a short file becomes a long one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value."""
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has aliases, which no sweep writes")
        return super().compose_node(parent, index)


# ---------------------------------------------------------------- how far a run is


def row_of(folder: Path, point: Point) -> Row:
    """How far a run is, as its folder says.

    Arguments:
        folder: The sweep's folder.
        point: The run.
    """
    row = Row(point)
    path = folder / point.name
    if not is_run(path):
        return row
    try:
        row.state = "done" if is_finished(path) else "stopped"
        records = Folder(path).metrics()
    except InputError as error:
        row.state, row.message = "failed", str(error)
        return row
    row.samples = max((each["samples_seen"] for each in records), default=0)
    row.minutes = minutes_of(records)
    for each in records:
        row.bound = each.get("bound", row.bound)
        row.test_bound, row.test_se = each.get("test_bound", row.test_bound), each.get("test_se", row.test_se)
    return row


def is_finished(path: Path) -> bool:
    """Whether a run has seen all samples that it was to see, or its early stopping has ended it.

    Arguments:
        path: The run's folder.

    Raises:
        InputError: If its files are damaged.
    """
    config = read_config(path / "config.yaml", without=PARTS)
    state = Folder(path).load()
    early = state.get("early_stopping")
    patience = config.get("early_stopping")
    stopped = isinstance(early, dict) and patience is not None and early.get("waited", 0) >= patience
    return bool(stopped or state["samples_seen"] >= config["samples"])


def minutes_of(records: Sequence[Mapping[str, Any]]) -> float:
    """Minutes of training, all sessions of a run together: the clock of ``metrics.jsonl`` starts anew with each.

    Arguments:
        records: The run's metrics.

    >>> minutes_of([{"seconds": 30.0}, {"seconds": 60.0}, {"seconds": 15.0}, {"seconds": 30.0}])
    1.5
    """
    seconds = [each["seconds"] for each in records if "seconds" in each]
    sessions = (now for now, following in itertools.pairwise([*seconds, 0.0]) if following < now)
    return sum(sessions) / 60


def _csv(rows: Sequence[Row], varied: Sequence[str]) -> str:
    """The table, one line a run."""
    told = ("state", "samples", "bound", "test_bound", "test_se", "minutes", "message")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *varied, *told])
    for row in rows:
        values = [row.point.values.get(name, "") for name in varied]
        writer.writerow([row.point.name, *values, *(_cell(getattr(row, name)) for name in told)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else value
    return "" if value is None else value
