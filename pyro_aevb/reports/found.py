"""Where runs are: folders of one, folders with many somewhere below, or runs that are open already."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyro_aevb.errors import InputError, told
from pyro_aevb.runs.folder import is_run
from pyro_aevb.runs.run import Run

__all__ = ["found_runs", "names_of"]

CHECKPOINTS = ("last.pt", "best.pt")


def found_runs(runs: Any) -> list[tuple[Path | Run, bool]]:
    """Each run once, in natural order within a folder; and whether it was named, or found below a folder.

    Arguments:
        runs: A run, the folder of one, a folder below which there are some, or several of these.

    Raises:
        InputError: If a folder is none, or none is below it.
    """
    several = isinstance(runs, Iterable) and not isinstance(runs, str | os.PathLike | Run)
    given: list[Any] = list(runs) if several else [runs]
    found: dict[Path, tuple[Path | Run, bool]] = {}
    for each in given:
        if isinstance(each, Run):
            found.setdefault(each.path.resolve(), (each, True))
            continue
        for path, named in _below(each):
            found.setdefault(path.resolve(), (path, named))
    if not found:
        raise InputError("no run was given: give the folder of one that train made, or one that has some below it")
    return list(found.values())


def _below(given: Any) -> list[tuple[Path, bool]]:
    """The run at a path, or all that are below it."""
    if not isinstance(given, str | os.PathLike) or not str(given):
        raise InputError(f"each run must be a folder that train made, or an open run, not {told(given)}")
    path = Path(given)
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give that of a run, or one that has runs below it")
    if is_run(path):
        return [(path, True)]
    below = []
    for place, folders, files in os.walk(path):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        if "config.yaml" in files and any(name in files for name in CHECKPOINTS):
            below.append(Path(place))
            folders.clear()  # what lies in a run's folder is its own
    if not below:
        raise InputError(f"there is no run at {path}, nor below it: give a folder that train or sweep made")
    return [(each, False) for each in sorted(below, key=_natural)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key by which ``seed=2`` comes before ``seed=10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def names_of(paths: list[Path]) -> list[str]:
    """Short names of folders: what they do not all begin with.

    Arguments:
        paths: The folders, each another one.

    >>> names_of([Path("runs/a/seed=0"), Path("runs/a/seed=1")])
    ['seed=0', 'seed=1']
    """
    whole = [path.resolve() for path in paths]
    if len(whole) == 1:
        return [whole[0].name]
    above = Path(os.path.commonpath(whole))
    return [str(path.relative_to(above)) if path != above else path.name for path in whole]
