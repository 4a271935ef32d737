"""What the commands on a saved run share: options, where results go, and how numbers are told."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyro_aevb.errors import InputError
from pyro_aevb.files import check_place
from pyro_aevb.runs.run import Run, load_run

__all__ = ["COLUMNS", "RunOptions", "check_count", "header_of", "opened", "place_of", "row"]

COLUMNS = f"{'':<42}{'mean':>10}{'s.e.':>9}"
"""The first line of a table of numbers."""


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


def opened(config: RunOptions) -> Run:
    """The run that the options name.

    Raises:
        InputError: As :func:`~pyro_aevb.load_run`.
    """
    return load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)


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
        label: What it is of.
        number: ``mean``, ``se`` and perhaps ``monte_carlo_se``; ``refused`` where a method refused; ``None`` where it
            is not known.
        extra: What else is said, in brackets.
    """
    if number is None or "refused" in number:
        return f"{label:<42}{'not known' if number is None else 'refused':>10}"
    error = "" if number["se"] is None else f"{number['se']:>9.2f}"
    monte_carlo = number.get("monte_carlo_se")
    said = extra or ("" if monte_carlo is None else f"Monte Carlo ± {monte_carlo:.3f}")
    return f"{label:<42}{number['mean']:>10.2f}{error}" + (f"   ({said})" if said else "")
