"""What a tracker is, several of them as one, and what they are told of a training."""

import importlib
import io
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pyro_aevb.errors import InputError, TrackerWarning, in_one_line, instance, told
from pyro_aevb.files import replaced
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.training.progress import Progress

__all__ = [
    "Closing",
    "Several",
    "Tracker",
    "metrics_of",
    "needed",
    "params_of",
    "picture_of",
    "remember",
    "remembered",
    "undisturbed",
]

Self = TypeVar("Self", bound="Closing")

IDENTIFIER = re.compile(r"[\w-]{1,64}")


@runtime_checkable
class Tracker(Protocol):
    """What a training is watched with. Any class with these four methods is one."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep what a training is made with, once: plain values by their names.

        Arguments:
            params: Texts, numbers, switches, lists or ``None``, by name.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep numbers of one report.

        Arguments:
            metrics: Numbers by name, bounds in nats per datum.
            step: Number of training samples seen.
        """

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """Keep a picture.

        Arguments:
            name: The picture's name.
            figure: The picture.
            step: Number of training samples seen.
        """

    def close(self) -> None:
        """Write what is not written yet, and end; nothing is given to the tracker afterwards."""


class Closing:
    """What is closed at the end of a ``with`` block."""

    failed: bool = False
    """Whether the block ended by an error, which a tool's list of runs shows; an interruption is none."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.failed = kind is not None and issubclass(kind, Exception)
        self.close()

    def close(self) -> None:
        """Write what is not written yet, and end."""
        raise NotImplementedError


class Several(Closing):
    """Several trackers as one, or one, so that none of them can end or change a training.

    The global random states of Python, NumPy and torch are as before each call. A tracker that raises an error is named
    in a :class:`TrackerWarning`, closed, and left out from then on: the training and the other trackers go on.

    Arguments:
        *trackers: The trackers.

    Raises:
        InputError: If one of them lacks a method of :class:`Tracker`.

    Warns:
        TrackerWarning: At any call, if a tracker raised an error.
    """

    def __init__(self, *trackers: Tracker) -> None:
        for tracker in trackers:
            _check_tracker(tracker)
        self.trackers = list(trackers)
        """The trackers that go on."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As of :class:`Tracker`, to each."""
        self._each(lambda tracker: tracker.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As of :class:`Tracker`, to each."""
        self._each(lambda tracker: tracker.log_metrics(metrics, step))

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """As of :class:`Tracker`, to each."""
        self._each(lambda tracker: tracker.add_figure(name, figure, step))

    def close(self) -> None:
        """Close each; nothing is given to them afterwards."""
        for tracker in self.trackers:
            if isinstance(tracker, Closing):
                tracker.failed = self.failed
        self._each(lambda tracker: tracker.close())
        self.trackers = []

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            with undisturbed():
                try:
                    tell(tracker)
                except Exception as error:  # whatever a stranger's tracker, its disk or its network raises
                    self._leave_out(tracker, error)

    def _leave_out(self, tracker: Tracker, error: Exception) -> None:
        self.trackers = [other for other in self.trackers if other is not tracker]
        with suppress(Exception):  # what it has so far may still be written
            tracker.close()
        said = f"{type(error).__name__}: {in_one_line(error)}"
        warnings.warn(
            f"the tracker {type(tracker).__name__} raised {said}; the training goes on without it",
            TrackerWarning,
            stacklevel=4,
        )


def _check_tracker(tracker: Any) -> None:
    methods = ("log_params", "log_metrics", "add_figure", "close")
    lacking = [name for name in methods if not callable(getattr(tracker, name, None))]
    if lacking or isinstance(tracker, type):
        reason = f"it has no {lacking[0]}" if lacking else "give an instance"
        raise InputError(f"a tracker must be as pyro_aevb.trackers.Tracker says, not {told(tracker)}: {reason}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a block of another library's, and put the global random states of Python, NumPy and torch back."""
    pythons = random.getstate()
    numpys = np.random.get_state()  # the global one, which others draw from
    with unchanged_random_state():
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)


# ---------------------------------------------------------------- what trackers are told


def metrics_of(progress: Progress) -> dict[str, float]:
    """The numbers of a report, by name, without the step, and without those that it does not know.

    Arguments:
        progress: The report.

    >>> metrics_of(Progress(samples_seen=100, bound=-31.5, beta=0.5))
    {'bound': -31.5, 'beta': 0.5}
    """
    fields = instance("progress", progress, Progress)._asdict()
    del fields["samples_seen"]
    return {name: number for name, number in fields.items() if number is not None and not math.isnan(number)}


def params_of(config: Any) -> dict[str, Any]:
    """The options of a configuration, by their names on the command line of ``pyro-aevb train``.

    Arguments:
        config: ``run.config``, or what a run's ``config.yaml`` holds, option by option.

    >>> params_of({"latent_dim": 2, "prior": {"class_path": "GaussianMixture", "init_args": {"components": 9}}})
    {'latent_dim': 2, 'prior': 'GaussianMixture', 'prior.components': 9}
    """
    options = config if isinstance(config, Mapping) else vars(config)
    return dict(_leaves(options, ""))


def _leaves(options: Mapping[str, Any], within: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        part = vars(value) if hasattr(value, "class_path") else value
        if not isinstance(part, Mapping):
            yield f"{within}{name}", part
        elif "class_path" in part:
            yield f"{within}{name}", part["class_path"]
            yield from _leaves(part.get("init_args") or {}, f"{within}{name}.")
        else:
            yield from _leaves(part, f"{within}{name}.")


# ---------------------------------------------------------------- what the trackers here are made of


def needed(module: str, extra: str) -> Any:
    """A module of another library, imported when it is needed.

    Arguments:
        module: Its name.
        extra: The name under which it is installed.

    Raises:
        InputError: If it is not installed; says how to install it.
    """
    try:
        with undisturbed():
            found = importlib.import_module(module)
    except ImportError as error:
        raise _missing(extra) from error
    if getattr(found, "__file__", None) is None:  # a folder of that name, of runs perhaps, where Python looks first
        raise _missing(extra)
    return found


def _missing(extra: str) -> InputError:
    install = '"pyro_aevb[tensorboard]"' if extra == "tensorboard" else extra
    return InputError(f"{extra} is not installed, which this tracker writes with: pip install {install}")


def picture_of(figure: Figure) -> Image.Image:
    """A figure as a picture of pixels; matplotlib's global state and the figure's canvas stay.

    Arguments:
        figure: The figure.
    """
    buffer = io.BytesIO()
    instance("figure", figure, Figure).savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def remembered(file: Path) -> str | None:
    """The name of a tracker's run that was begun from a folder before; ``None`` if there is none.

    Arguments:
        file: The file that it stands in.

    Raises:
        InputError: If the file holds something else.
    """
    if not file.is_file():
        return None
    found = file.read_text()[:100].strip()
    if not IDENTIFIER.fullmatch(found):
        raise InputError(f"{file} does not hold the name of a tracker's run: remove it, and another one begins")
    return found


def remember(file: Path, name: str) -> None:
    """Keep the name of a tracker's run, so that another training from the same folder goes on with it.

    Arguments:
        file: The file that it will stand in.
        name: The name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as opened:
        opened.write(f"{name}\n".encode())
