"""``pyro-aevb train --track``: a run's records, options and figures on their way to trackers."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyro_aevb.errors import InputError
from pyro_aevb.runs.begin import value_of
from pyro_aevb.runs.run import load_run
from pyro_aevb.runs.training import OnReport, Training
from pyro_aevb.runs.trust import modules_of
from pyro_aevb.training.progress import Progress

if TYPE_CHECKING:
    from pyro_aevb.trackers import Several

__all__ = ["Tracked", "tracked", "tracking"]


class Tracked(NamedTuple):
    """What was typed of trackers."""

    names: str
    """Names of :data:`pyro_aevb.trackers.TOOLS`, separated by commas."""
    trust: list[str]
    """Modules whose classes and functions the run's configuration may name."""


def tracked(arguments: Sequence[str]) -> Tracked | None:
    """What was typed of trackers, of which no configuration can say anything; ``None`` where nothing was.

    Arguments:
        arguments: Words of the command line.

    Raises:
        InputError: If there is no such tracker, or its library is not installed; before a run's folder is made.
    """
    names = value_of("track", arguments)
    if names is None:
        return None
    if value_of("seeds", arguments) is not None:
        raise InputError("--track is for one run, and --seeds trains several: leave --track out, or train each alone")
    from pyro_aevb.trackers import check_tools  # with what draws figures, so only where it is asked for

    check_tools(names)
    return Tracked(names, modules_of(value_of("trust", arguments)))


@contextmanager
def tracking(typed: Tracked | None, training: Training) -> Iterator[OnReport]:
    """What a training calls with each report, so that trackers have what the run's ``metrics.jsonl`` has.

    They are told the run's options first, and its figures at the end, if the training has ended by then.

    Arguments:
        typed: What was typed of trackers; ``None`` for none.
        training: The training, in its folder.

    Raises:
        InputError: If a tracker cannot begin.
    """
    if typed is None:
        yield lambda progress: None
        return
    from pyro_aevb import trackers

    path = training.folder.path
    with trackers.of_run(typed.names, path, training.samples_seen) as several:
        several.log_params(trackers.params_of(training.config))
        yield _Lines(several, path / "metrics.jsonl").tell
        if training.ended and several.trackers:
            _add_figures(several, training, typed.trust)


class _Lines:
    """The lines that are added to a file of metrics, each of which is told once.

    Arguments:
        several: Who is told.
        file: The file; what is in it by now was told before.
    """

    def __init__(self, several: "Several", file: Path) -> None:
        self.several = several
        self.file = file
        self._told = file.stat().st_size

    def tell(self, progress: Progress) -> None:
        """Tell what was added since the last call."""
        with open(self.file, "rb") as file:
            file.seek(self._told)
            lines = file.read()
        self._told += len(lines)
        for record in map(json.loads, lines.splitlines()):
            step = record.pop("samples_seen")
            del record["crc32"]
            self.several.log_metrics(record, step)


def _add_figures(several: "Several", training: Training, trust: Sequence[str]) -> None:
    """What ``pyro-aevb plot`` draws."""
    from pyro_aevb.cli import pictures
    from pyro_aevb.trackers import TrackerWarning

    path = training.folder.path
    run = load_run(path, device=training.trainer.device, data_root=training.config.data_root, trust=trust)
    for name, draw in pictures.figures_of(run, pictures.PlotOptions(str(path))).items():
        try:
            figure = draw()
        except InputError as error:  # the training is done, and its run whole
            warnings.warn(f"{name} is not drawn: {error}", TrackerWarning, stacklevel=2)
            continue
        several.add_figure(name, figure, training.samples_seen)
