"""What the commands on a saved run share: options, where results go, and how numbers are told."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyro_aevb.data import Rows
from pyro_aevb.errors import InputError
from pyro_aevb.files import check_place, refuse_existing, replaced
from pyro_aevb.runs.parser import FLAG
from pyro_aevb.runs.run import Run, load_run
from pyro_aevb.runs.tables import rows_of
from pyro_aevb.runs.words import Typed, taken_apart

if TYPE_CHECKING:
    import pandas

__all__ = [
    "COLUMNS",
    "DataOptions",
    "RunOptions",
    "check_count",
    "check_table",
    "header_of",
    "opened",
    "place_of",
    "row",
    "rows_asked",
    "runs_and_options",
    "write_table",
]

WIDTH = 46  # of a label
COLUMNS = f"{'':<{WIDTH}}{'mean':>10}{'s.e.':>9}"
"""The first line of a table of numbers: means over data, and the standard errors of these."""


TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class RunOptions:
    """What every command on a saved run can be told.

    Arguments:
        run: Folder of the run, which train made.
        checkpoint: Which of the run's two saved states: the last one, or the one with the best bound on training data.
        seed: Seed of the noise that is drawn.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        trust: Modules of your own, separated by commas, whose classes the run's configuration may name.
    """

    run: str
    checkpoint: Literal["last", "best"] = "last"
    seed: int = 0
    device: str = "auto"
    data_root: str | None = None
    trust: str | None = None


@dataclass(frozen=True)
class DataOptions(RunOptions):
    """What every command that tells something of each datum can be told besides.

    Arguments:
        data: New data, a file like the one that the run was trained on; by default the run's own.
        split: Which of the run's own data sets, without --data; test by default.
        count: Number of data, the first ones; by default all.
    """

    data: str | None = None
    split: Literal["test", "train"] | None = None
    count: int | None = None


def rows_asked(run: Run, config: DataOptions) -> Rows:
    """The data that the options name, new ones read as the run's own were.

    Raises:
        InputError: If new data do not suit the run, or ``--count`` is not positive.
    """
    check_count("count", 1 if config.count is None else config.count)
    if config.data is not None and config.split is not None:
        raise InputError(f"--split {config.split} is of the run's own data, and --data names others: leave one out")
    source = (config.split or "test") if config.data is None else config.data
    return rows_of(run.data, source, config.data_root or run.config.data_root).first(config.count)


def check_table(out: str, others: Sequence[str] = ()) -> Path:
    """A new file for a table.

    Arguments:
        out: What was typed after ``--out``.
        others: Endings of files that are no tables and can be written too.

    Raises:
        InputError: If it exists already, no file can be made there, or its ending is another.
    """
    path = Path(out)
    check_place("out", path)
    refuse_existing(path)
    endings = (*TABLES, *others)
    if path.suffix.lower() not in endings:
        raise InputError(f"--out {out}: give a file that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    return path


def write_table(table: "pandas.DataFrame", path: Path) -> None:
    """Write a table, whole or not at all, its index as the first column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        if path.suffix.lower() == ".parquet":
            written = io.BytesIO()
            table.to_parquet(written)
            file.write(written.getvalue())
        else:
            file.write(table.to_csv(lineterminator="\n", float_format=_shortest).encode())


def _shortest(value: float) -> str:
    """A number in as few digits as tell it, whole ones without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)


def opened(config: RunOptions) -> Run:
    """The run that the options name.

    Raises:
        InputError: As :func:`~pyro_aevb.load_run`.
    """
    return load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)


def runs_and_options(arguments: Sequence[str], kind: type) -> tuple[list[str], list[str]]:
    """The folders of several runs, which stand before the options or after an option's value; and the options.

    Arguments:
        arguments: What was typed.
        kind: The dataclass of the command's options, by which those without a value are known.
    """
    flags = {each.name for each in fields(kind) if each.metadata.get("action") == FLAG["action"]}
    runs: list[str] = []
    others: list[str] = []
    for typed in taken_apart(arguments):
        own = _words_of(typed, flags)
        others += typed.words[:own]
        for word in typed.words[own:]:
            (others if word.startswith("-") else runs).append(word)
    return runs, others


def _words_of(typed: Typed, flags: set[str]) -> int:
    """Number of words that an option takes, its name among them; 0 for words before the first option."""
    first = typed.words[0]
    if not first.startswith("-"):
        return 0
    return 1 if typed.name in (*flags, "help", "") or "=" in first else 2


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse a number that is too small.

    Raises:
        InputError: Names the option.
    """
    if value < least:
        raise InputError(f"--{name} must be at least {least}, not {value}")


def place_of(out: str | None, names: Sequence[str]) -> Path | None:
    """The user's own folder for results, ``--out``, in which none of them may be yet: nothing there is replaced.

    Arguments:
        out: What was typed; ``None`` where the results go to the run's own folder, whose files of the same command they
            replace.
        names: Names of the files that will be written.

    Raises:
        InputError: If one is there already, or no folder can be made there.
    """
    if out is None:
        return None
    folder = Path(out)
    check_place("out", folder / names[0])
    if there := [folder / name for name in names if os.path.lexists(folder / name)]:
        raise InputError(f"--out {out}: {there[0]} exists already: remove it, or give another folder")
    return folder


def header_of(run: Run, config: RunOptions, split: str, count: int) -> dict[str, Any]:
    """What stands before all numbers of a run: which state of it, and on which data."""
    return {
        "run": str(run.path),
        "checkpoint": config.checkpoint,
        "samples_seen": run.samples_seen,
        "data": run.data.name,
        "split": split,
        "count": count,
        "binarize": run.data.binarize,
        "latent_dim": run.config.latent_dim,
        "seed": config.seed,
        "unit": "nats per datum",
    }


def row(label: str, number: dict[str, Any] | None, extra: str = "") -> str:
    """A mean and its standard error in the columns of :data:`COLUMNS`.

    Arguments:
        label: Name of the number.
        number: ``mean``, ``se`` and perhaps ``monte_carlo_se``; ``refused`` where a method refused; ``None`` where it
            is not known.
        extra: Further words, which stand in brackets.
    """
    if number is None or "refused" in number:
        return f"{label:<{WIDTH}}{'not known' if number is None else 'refused':>10}"
    error = "" if number["se"] is None else f"{number['se']:>9.2f}"
    monte_carlo = number.get("monte_carlo_se")
    said = extra or ("" if monte_carlo is None else f"Monte Carlo ± {monte_carlo:.3f}")
    return f"{label:<{WIDTH}}{number['mean']:>10.2f}{error}" + (f"   ({said})" if said else "")
