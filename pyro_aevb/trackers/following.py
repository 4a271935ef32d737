"""A training whose reports go to a tracker on their way to the caller."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from pyro_aevb import evidence
from pyro_aevb.data.batches import Data
from pyro_aevb.errors import InputError, function, instance, told, whole
from pyro_aevb.trackers.base import Several, Tracker, metrics_of
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer, evaluated

__all__ = ["bound_on", "follow"]

Measure = Callable[[Progress], Mapping[str, float]]
Draw = Callable[[Progress], Mapping[str, Figure]]


def follow(
    reports: Iterable[Progress],
    tracker: Tracker | Sequence[Tracker],
    *,
    measure: Measure | None = None,
    draw: Draw | None = None,
    every: int = 1,
) -> Iterator[Progress]:
    """Give each report of a training to a tracker, and pass it on.

    The tracker is not closed: make it in a ``with`` statement. Like every tracker of a :class:`Several` it is left out,
    with a warning, once it has raised an error.

    Arguments:
        reports: What a training reports: ``trainer.run(samples)``, or that of an
            :class:`~pyro_aevb.EarlyStopping` or a :class:`~pyro_aevb.MonteCarloEM`.
        tracker: The tracker, or several.
        measure: Function of a report that returns further metrics, a dictionary, such as :func:`bound_on` makes; by
            default there are none.
        draw: Function of a report that returns figures, a dictionary; by default there are none.
        every: Number of samples between two reports at which ``measure`` and ``draw`` are called, which they are after
            the last report too. By default they are called at each report.

    Yields:
        The reports.

    Raises:
        InputError: If an argument does not fit, or a report is none of a single training.

    Warns:
        TrackerWarning: If a tracker raised an error.
    """
    given = tracker if isinstance(tracker, Sequence) else [tracker]
    several = tracker if isinstance(tracker, Several) else Several(*given)
    for name, called in (("measure", measure), ("draw", draw)):
        if called is not None:
            function(name, called)
    if not isinstance(reports, Iterable):
        raise InputError(f"reports must be what trainer.run(samples) returns, not {told(reports)}")
    return _Followed(several, measure, draw, whole("every", every)).reports(reports)


class _Followed:
    """One training on its way through :func:`follow`."""

    def __init__(self, tracker: Several, measure: Measure | None, draw: Draw | None, every: int) -> None:
        self.tracker = tracker
        self.measure = measure
        self.draw = draw
        self.every = every

    def reports(self, reports: Iterable[Progress]) -> Iterator[Progress]:
        """The reports as they come, each logged before it is passed on; the last one is looked at in any case.

        Arguments:
            reports: Reports of a training.
        """
        seen = 0
        last: Progress | None = None
        for progress in reports:
            self.tracker.log_metrics(metrics_of(progress), progress.samples_seen)
            due = progress.samples_seen // self.every > seen // self.every
            seen = progress.samples_seen
            last = None if due else progress
            if due:
                self._look(progress)
            yield progress
        if last is not None:
            self._look(last)

    def _look(self, progress: Progress) -> None:
        """What is measured and drawn now and then."""
        step = progress.samples_seen
        if self.measure is not None:
            self.tracker.log_metrics(self.measure(progress), step)
        figures = {} if self.draw is None else self.draw(progress)
        for name, figure in figures.items():
            self.tracker.add_figure(name, figure, step)


def bound_on(trainer: Trainer, data: Data, name: str = "test", *, seed: int = 0) -> Measure:
    """A function that measures the bound of data that are not trained on, for ``measure`` of :func:`follow`.

    It takes the bound at the same noise each time, of the averaged weights where the trainer keeps averages, and leaves
    the training's own noise alone.

    Arguments:
        trainer: Trainer of the pair.
        data: The data, as :class:`~pyro_aevb.Trainer` takes them, fixed.
        name: Beginning of the metrics' names: ``test`` for ``test_bound`` and its standard error over data
            ``test_se``, both in nats per datum.
        seed: Seed of the noise.
    """
    instance("trainer", trainer, Trainer)

    def measure(progress: Progress) -> dict[str, float]:
        """The bound of the data and its standard error, by the metrics' names."""
        with evaluated(trainer):
            bound = evidence.bound(trainer.model, trainer.guide, data, seed=seed).bound.double()
        error = bound.std() / len(bound) ** 0.5 if len(bound) > 1 else bound.new_zeros(())
        return {f"{name}_bound": bound.mean().item(), f"{name}_se": error.item()}

    return measure
