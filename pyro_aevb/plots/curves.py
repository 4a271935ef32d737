"""Numbers of trainings and of estimators: learning curves, gradients by number of particles, bounds after training."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_aevb.diagnostics.gradients import TrainingStatistics, TrainingSummary, training_summary
from pyro_aevb.errors import InputError, told
from pyro_aevb.plots.checked import all_of
from pyro_aevb.plots.style import (
    COLORS,
    SMALL,
    WIDEST,
    blank,
    color,
    entitle,
    in_style,
    in_words,
    mark,
    panels_of,
    plain,
    plain_numbers,
)

__all__ = ["coinciding", "draw_comparison", "draw_training", "learning_curve"]

Point = tuple[float, float]
Records = Sequence[dict[str, Any]]

DECADES = 100  # of a learning curve's samples, the last one over the first one shown
SAME = 0.005  # share of a panel's height by which curves that coincide differ at most


@in_style
def learning_curve(metrics: Records | Mapping[str, Records], title: str = "") -> Figure:
    """The bound against the number of training samples seen, on a logarithmic axis, as in the paper's Figure 2.

    The last two decades of samples are shown, since the steep beginning would flatten all the rest.

    Arguments:
        metrics: Records of a run, a dictionary each: ``samples_seen`` with ``bound`` (training), or with ``test_bound``
            and its standard error ``test_se``; bounds in nats per datum. Or such records of several runs, by the name
            of each, which are drawn over one another.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``metrics`` is neither a list of dictionaries nor a dictionary of such lists.
    """
    runs = metrics if isinstance(metrics, Mapping) else {"": metrics}
    for records in runs.values():
        if not all_of(records, lambda record: isinstance(record, Mapping)):
            raise InputError(f"metrics must be a list of records, a dictionary each, not {told(records)}")
    figure, axes = blank(5.6, 3.6)
    axes.set(xscale="log", xlabel="training samples seen", ylabel="bound, nats per datum")
    several = isinstance(metrics, Mapping)
    shown = [point for i, (name, run) in enumerate(runs.items()) for point in _draw_run(axes, i, name, run, several)]
    entitle(axes, title, 5.6)
    if shown:
        _fit(axes, shown)
        axes.legend(loc="lower right", fontsize=SMALL, title="thin: training data" if several else None)
    axes.grid()
    return figure


def _draw_run(axes: Axes, place: int, name: str, records: Records, several: bool) -> list[Point]:
    """Draw a run's bounds; returns the points in its last two decades, each end of an error bar one."""
    train = [(m["samples_seen"], m["bound"]) for m in records if "bound" in m]
    test = [(m["samples_seen"], m["test_bound"], m["test_se"] or 0.0) for m in records if "test_bound" in m]
    colors = (color(place), color(place)) if several else (color(0), color(1))
    if train:
        x, y = zip(*train, strict=True)
        label = "training data, mean since the last report"
        label = label if not several else "_" if test else f"{plain(name)}, training data"
        axes.plot(x, y, color=colors[0], lw=1, label=label, alpha=0.7 if several else 1)
    if test:
        x, y, error = zip(*test, strict=True)
        label = f"{plain(name)}, test data" if several else "test data, ± standard error"
        style = {**mark(place if several else 1), "color": colors[1]}
        axes.errorbar(x, y, error, label=label, lw=1.4, **style)
    points = [*train, *((x, y + sign * error) for x, y, error in test for sign in (-1, 1))]
    end = max((x for x, _ in points), default=0)
    return [(x, y) for x, y in points if x >= end / DECADES]


def _fit(axes: Axes, points: Sequence[Point]) -> None:
    """Limits at the points: no empty decade, nothing cut off."""
    samples = [x for x, _ in points]
    bounds = [y for _, y in points if math.isfinite(y)] or [0.0]
    margin = 0.05 * (max(bounds) - min(bounds)) or 1.0
    axes.set(xlim=(min(samples) / 1.12, max(samples) * 1.12), ylim=(min(bounds) - margin, max(bounds) + margin))
    plain_numbers(axes.xaxis)


@in_style
def draw_comparison(rows: Sequence[Any], title: str = "") -> Figure:
    """Variance and signal-to-noise ratio of gradients against the number of particles, one line for each estimator.

    All axes are logarithmic. The left column is of gradients by the model's parameters, the right one by the guide's.
    Where lines coincide, the later ones are thinner, so that all of them are seen, and the panel says which do.

    Arguments:
        rows: What :func:`pyro_aevb.diagnostics.gradients.compare` returned.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``rows`` are not what ``compare`` returns, or there are none.
    """
    if not all_of(rows, lambda row: hasattr(row, "estimator")) or not rows:
        raise InputError(f"rows must be what compare returned, one row at least, not {told(rows)}")
    names = list(dict.fromkeys(row.estimator for row in rows))
    figure = Figure(figsize=(WIDEST, 6.2 + 0.22 * math.ceil(len(names) / 3)), layout="constrained")
    panels = panels_of(figure, 2, 2, sharex=True)
    for i, axes in enumerate(panels):
        part, symbol = (("model", "θ"), ("guide", "φ"))[i % 2]
        quantity, words = (("variance", "variance"), ("snr", "signal-to-noise ratio"))[i // 2]
        curves = {name: _points(rows, name, part, quantity) for name in names}
        _draw_curves(axes, curves)
        _say_above(axes, f"{words} of the gradient\nby the {part}'s parameters {symbol}", coinciding(curves))
        axes.set_xlabel("number of particles" if i // 2 else "")
    _number_particles(panels, sorted({row.num_particles for row in rows}))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=SMALL)
    entitle(figure, title, WIDEST)
    return figure


def _points(rows: Sequence[Any], name: str, part: str, quantity: str) -> list[Point]:
    """An estimator's numbers of particles, and a quantity of its gradient at each."""
    found = [row for row in rows if (row.estimator, row.part) == (name, part)]
    return [(row.num_particles, getattr(row, quantity)) for row in found]


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[Point]]) -> None:
    for i, (name, points) in enumerate(curves.items()):
        width = 1 + 2.5 * (1 - i / len(curves))
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.loglog(x, y, label=plain(name), ms=3 + width, lw=width, **mark(i))
    axes.grid()
    plain_numbers(axes.yaxis)


def coinciding(curves: Mapping[str, Sequence[Point]]) -> list[list[str]]:
    """Names of curves that lie upon one another: at the same places, at most 0.5 % of the panel's height apart.

    Heights are compared as a logarithmic axis shows them.

    Arguments:
        curves: Points ``(x, y)`` of each curve, by its name.

    Returns:
        Groups of two names at least, each curve in one group at most.
    """
    high = {name: {x: _log(y) for x, y in points} for name, points in curves.items()}
    levels = [y for curve in high.values() for y in curve.values() if math.isfinite(y)]
    apart = SAME * (max(levels, default=0.0) - min(levels, default=0.0))
    groups: list[list[str]] = []
    for name, curve in high.items():
        group = next((group for group in groups if _upon(high[group[0]], curve, apart)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return [group for group in groups if len(group) > 1]


def _log(y: float) -> float:
    return math.log(y) if y > 0 else -math.inf


def _upon(first: Mapping[float, float], second: Mapping[float, float], apart: float) -> bool:
    """Whether the curve that is at fewer places lies on the other one at all of them."""
    few, many = sorted((first, second), key=len)
    if not few or not few.keys() <= many.keys():
        return False
    return all(y == many[x] or abs(y - many[x]) <= apart for x, y in few.items())


def _say_above(axes: Axes, title: str, groups: Sequence[Sequence[str]]) -> None:
    """A panel's title, and below it which of its curves coincide."""
    same = "; ".join(f"{_listed(group)} coincide" for group in groups)
    axes.set_title(plain("\n".join([title, *textwrap.wrap(same, 46)])), fontsize=SMALL)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _number_particles(panels: Sequence[Axes], counts: Sequence[int]) -> None:
    """The numbers of particles as they are, those left out that have no room beside the one before."""
    shown = list(counts[:1])
    shown += [count for i, count in enumerate(counts[1:], 1) if count >= 1.25 * counts[i - 1]]
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(shown, [in_words(count) for count in shown])
        axes.set_xticks([], minor=True)


@in_style
def draw_training(rows: Sequence[Any], title: str = "") -> Figure:
    """Bounds on test data after training with each estimator: each seed, their mean, differences to the first one.

    Above are the bounds, a small dot for each seed and a large one for their mean with its standard error over seeds.
    Below are the mean differences to the first estimator, paired seed by seed, with their standard error: where it
    does not reach the line at zero two estimators differ, even if their bounds, which vary with the seed, overlap.

    Arguments:
        rows: What :func:`pyro_aevb.diagnostics.gradients.compare_training` returned.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``rows`` are not what ``compare_training`` returns, or there are none.
    """
    if not all_of(rows, lambda row: isinstance(row, TrainingStatistics)) or not rows:
        raise InputError(f"rows must be what compare_training returned, one row at least, not {told(rows)}")
    found = training_summary(rows)
    height = 1.1 + 0.34 * len(found)
    figure = Figure(figsize=(WIDEST, 0.7 + 2 * height), layout="constrained")
    above, below = panels_of(figure, 2, 1, sharey=True)
    _draw_bounds(above, found, rows)
    seeds = max(each.seeds for each in found)
    over = f"mean of {seeds} seeds ± its standard error; small: each seed" if seeds > 1 else "one seed, no error known"
    above.set(xlabel=f"bound on test data, nats per datum\n({over})")
    _draw_differences(below, found)
    below.set_xlabel(f"difference to {_called(found[0])}, nats per datum{', paired by seed' * (seeds > 1)}")
    names = [_called(each) for each in found]
    above.set_yticks([-i for i in range(len(found))], names)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=SMALL)
    entitle(figure, title, WIDEST)
    return figure


AT = (("after equal samples", "at_samples", 0.13, 0), ("after equal seconds", "at_seconds", -0.13, 1))
"""What is compared: words, end of the fields' names, height above an estimator's line, place of its colour."""


def _called(row: Any) -> str:
    return plain(f"{row.estimator}, {row.num_particles} particle{'s' * (row.num_particles > 1)}")


def _draw_bounds(axes: Axes, found: Sequence[TrainingSummary], rows: Sequence[TrainingStatistics]) -> None:
    for words, field, lift, place in AT:
        for i, each in enumerate(found):
            own = [row for row in rows if (row.estimator, row.num_particles) == each[:2]]
            dots = [getattr(row, f"bound_{field}") for row in own]
            axes.plot(dots, [lift - i] * len(dots), ".", color=color(place), ms=4, alpha=0.6)
        heights = [lift - i for i in range(len(found))]
        values = [getattr(each, field).bound for each in found]
        errors = [getattr(each, field).bound_error for each in found]
        _with_errors(axes, values, errors, heights, place, words)
    axes.grid(axis="x")


def _draw_differences(axes: Axes, found: Sequence[TrainingSummary]) -> None:
    for words, field, lift, place in AT:
        others = [(lift - i, getattr(each, field)) for i, each in enumerate(found)][1:]
        values = [each.difference for _, each in others]
        errors = [each.difference_error for _, each in others]
        _with_errors(axes, values, errors, [height for height, _ in others], place, words)
    axes.axvline(0, color=COLORS[7], lw=1)
    axes.grid(axis="x")


def _with_errors(
    axes: Axes, values: Sequence[float], errors: Sequence[float], heights: Sequence[float], place: int, words: str
) -> None:
    """Dots with bars of their errors; where none is known, of one seed alone, without."""
    known = None if any(map(math.isnan, errors)) else errors
    style = {**mark(place), "linestyle": "none"}
    axes.errorbar(values, heights, xerr=known, label=words, ms=6, capsize=3, **style)
