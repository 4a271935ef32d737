"""The trackers of ``pyro-aevb train --track``, by their names, each in a place of its own in the run's folder."""

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from pyro_aevb.errors import InputError, did_you_mean, in_one_line
from pyro_aevb.trackers.base import Several, Tracker, needed
from pyro_aevb.trackers.mlflow import MLflow
from pyro_aevb.trackers.tensorboard import TensorBoard
from pyro_aevb.trackers.wandb import WandB

__all__ = ["TOOLS", "check_tools", "of_run"]

TOOLS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": lambda run, seen: TensorBoard(run / "tensorboard", seen=seen or None),
    "wandb": lambda run, seen: WandB(run, name=run.name),
    "mlflow": lambda run, seen: MLflow(run / "mlflow", name=run.name),
}
"""What makes each tracker, from a run's folder and the samples that it has seen."""


def check_tools(names: str) -> list[str]:
    """The names of trackers in a text, each of which is installed.

    Arguments:
        names: Names of :data:`TOOLS`, separated by commas.

    Raises:
        InputError: If there is no such tracker, one is named twice, or its library is not installed.
    """
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in TOOLS:
            near = did_you_mean(name, TOOLS) or f", only {', '.join(TOOLS)}"
            raise InputError(f"--track: there is no tracker {name!r}{near}")
        if found.count(name) > 1:
            raise InputError(f"--track names {name} twice: name it once")
        spec = find_spec(name)  # a second or more sooner than an import
        if spec is None or spec.origin is None:
            needed(name, name)
    return found


def of_run(names: str, run: Path, seen: int = 0) -> Several:
    """The trackers of a run, which go on where they are there already.

    Arguments:
        names: Names of :data:`TOOLS`, separated by commas.
        run: The run's folder.
        seen: Number of samples that the run has seen.

    Raises:
        InputError: If there is no such tracker, its library is not installed, or it cannot begin.
    """
    with ExitStack() as begun:  # what is closed again where the next one cannot begin
        trackers = [_begun(name, run, seen, begun) for name in check_tools(names)]
        begun.pop_all()
    return Several(*trackers)


def _begun(name: str, run: Path, seen: int, begun: ExitStack) -> Tracker:
    place = run / name
    if place.is_symlink():
        raise InputError(f"{place} is a link: remove it, so that nothing elsewhere is written to")
    try:
        tracker = TOOLS[name](run, seen)
    except InputError:
        raise
    except Exception as error:  # whatever the library, its disk or its network raises
        reason = in_one_line(error)
        raise InputError(f"{name} cannot begin: {reason}; without it: --resume {run}") from error
    begun.callback(tracker.close)
    return tracker
