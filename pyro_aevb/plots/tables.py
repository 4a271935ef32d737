"""Pictures of a table: its columns beside those that a model draws, and what the model makes of each row's values."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.errors import InputError, instance, real
from pyro_aevb.plots.heat import heat_map
from pyro_aevb.plots.style import COLORS, SMALL, WIDEST, color, entitle, in_style, panels_of, plain

__all__ = ["columns", "heat_map", "predicted_against_observed"]

SHOWN = 24  # columns at most: more are no picture
FEW = 20  # different values, of which each has a bar
PROBABILITIES = 10  # bins of a calibration
WORDS = 12  # categories that have room for their names and shares
DOTS = 400  # of a scatter at most


@in_style
def columns(
    data: Tensor,
    drawn: Tensor,
    names: Sequence[str],
    categories: Sequence[Sequence[str]] = (),
    title: str = "",
) -> Figure:
    """Histograms of a table's columns, the data filled and what a model draws as an outline; the first 24 columns.

    Of columns with categories, or with 20 different values at most, each value has two bars, whose heights are the
    shares of rows; of others the area of a histogram is 1.

    Arguments:
        data: The data, ``(N, D)``, NaN where a value is missing, which is left out.
        drawn: Rows that the model draws, ``(S, D)``.
        names: Name of each column.
        categories: Name of each category of each column, counted from 0; empty where the column is of numbers.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If the two have not as many columns as there are names.
    """
    _check_columns(names, data=data, drawn=drawn)
    figure, panels = _panels(names, 2.0)
    for i, axes in enumerate(panels):
        called = categories[i] if len(categories) > i else ()
        _panel(axes, data[:, i].detach().cpu(), drawn[:, i].detach().cpu(), called)
        axes.set_title(plain(names[i]))
        axes.set_yticks([])
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=2, fontsize=SMALL)
    entitle(figure, f"{title}{_more(names)}", WIDEST)
    return figure


class Predicted(NamedTuple):
    """One column: observed values and predictions, missing ones left out, and what its values are."""

    observed: Tensor
    """Observed values, ``(N,)``"""
    predicted: Tensor
    """Predicted ones, ``(N,)``; of a binary column the probability of 1"""
    low: Tensor
    """Lower ends of the predictive intervals, ``(N,)``; empty where there are none"""
    high: Tensor
    """Upper ends, ``(N,)``; empty where there are none"""
    categories: Sequence[str]
    """Name of each category; empty where the column is of numbers"""
    level: float
    """Share of values that the intervals are to cover"""


@in_style
def predicted_against_observed(
    observed: Tensor,
    predicted: Tensor,
    names: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    categories: Sequence[Sequence[str]] = (),
    interval: tuple[Tensor, Tensor] | None = None,
    level: float = 0.9,
    title: str = "",
) -> Figure:
    """What a model predicts of each column against what was observed, a panel a column; the first 24 columns.

    Of real columns and counts each dot is a row, with its predictive interval where given; on the diagonal the two are
    equal, and the panel says which share of rows the intervals cover, and R², 1 less the mean squared error over the
    variance. Of a column of categories the panel is the confusion matrix, each line the shares of the categories
    predicted where one was observed. Of a binary column it is the calibration: among rows of about one predicted
    probability, the share of ones, with its standard error.

    Arguments:
        observed: The data, ``(N, D)``, NaN where a value is missing, which is left out.
        predicted: What the model predicts, ``(N, D)``: the mean, of a binary column the probability of 1, of a
            category the most probable one.
        names: Name of each column.
        kinds: Kind of each column: ``real``, ``count``, ``binary`` or ``category``; by default all are real numbers.
        categories: Name of each category of each column, counted from 0; empty where the column is of numbers.
        interval: Lower and upper ends of an interval of each value, ``(N, D)`` each; by default none is drawn.
        level: Share of values that the intervals are to cover, between 0 and 1.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If shapes differ, or there is not a known kind for each column.
    """
    _check_columns(names, observed=observed, predicted=predicted)
    if len(observed) != len(predicted):
        raise InputError(f"observed has {len(observed)} rows, predicted {len(predicted)}: give the same rows of both")
    real("level", level, least=0, most=1)
    drawn = _kinds(kinds, names)
    ends = (observed[:, :0], observed[:, :0]) if interval is None else interval
    for name, part in zip(("lower end of interval", "upper end of interval"), ends, strict=True):
        if interval is not None and instance(name, part, Tensor).shape != observed.shape:
            raise InputError(f"the {name} must have shape {tuple(observed.shape)}, not {tuple(part.shape)}")
    figure, panels = _panels(names, 2.6)
    for i, axes in enumerate(panels):
        called = categories[i] if len(categories) > i else ()
        drawn[i](axes, _predicted(i, observed, predicted, interval, called, level))
        said = axes.get_title()
        axes.set_title(plain(names[i]) + f"\n{said}" * bool(said))
    entitle(figure, f"{title}{_more(names)}", WIDEST)
    return figure


def _kinds(kinds: Sequence[str], names: Sequence[str]) -> list[Callable[[Axes, Predicted], None]]:
    """What draws each column."""
    known = {"real": _draw_numbers, "count": _draw_numbers, "binary": _draw_calibration, "category": _draw_confusion}
    given = instance("kinds", kinds, Sequence) or ["real"] * len(names)
    if len(given) != len(names) or not all(kind in known for kind in given):
        raise InputError(f"kinds must be one of {', '.join(known)} for each of the {len(names)} columns, not {kinds!r}")
    return [known[kind] for kind in given]


def _predicted(
    i: int,
    observed: Tensor,
    predicted: Tensor,
    interval: tuple[Tensor, Tensor] | None,
    categories: Sequence[str],
    level: float,
) -> Predicted:
    there = ~observed[:, i].isnan()
    values = (observed, predicted, *(interval or ()))
    parts = [part[there, i].detach().cpu().double() for part in values]
    low, high = parts[2:] or (parts[0][:0], parts[0][:0])
    return Predicted(parts[0], parts[1], low, high, categories, level)


def _draw_numbers(axes: Axes, column: Predicted) -> None:
    """A dot a row on the plane of both, the diagonal, and what the intervals cover."""
    if not len(column.observed):
        return
    some = torch.linspace(0, len(column.observed) - 1, min(DOTS, len(column.observed))).long()
    x, y = column.observed[some], column.predicted[some]
    if len(column.low):
        axes.vlines(x, column.low[some], column.high[some], color=color(5), lw=0.8, alpha=0.5)
    axes.scatter(x, y, s=9, lw=0, color=color(0), zorder=3)
    ends = [torch.cat([x, y]).min().item(), torch.cat([x, y]).max().item()]
    axes.plot(ends, ends, "--", color=COLORS[7], lw=1, zorder=4)
    axes.set(xlabel="observed", ylabel="predicted")
    axes.set_title(_fit_of(column))


def _fit_of(column: Predicted) -> str:
    """R², and how many of the intervals hold what was observed."""
    squares = (column.observed - column.predicted).square().mean()
    variance = column.observed.var(unbiased=False)
    words = [f"R² {1 - squares / variance:.2f}"] if variance > 0 else []
    if len(column.low):
        inside = (column.low <= column.observed) & (column.observed <= column.high)
        words.append(f"{column.level:.0%} interval\nholds {inside.double().mean():.0%}")
    return ", ".join(words)


def _draw_confusion(axes: Axes, column: Predicted) -> None:
    """Shares of the predicted categories, in a line for each observed one."""
    values = torch.cat([column.observed, column.predicted]).long()
    most = int(values.max()) + 1 if len(values) else 1
    called = [plain(name) for name in column.categories] or [str(i) for i in range(most)]
    counts = torch.zeros(len(called), len(called), dtype=torch.float64)
    ones = torch.ones(len(column.observed), dtype=torch.float64)
    counts.index_put_((column.observed.long(), column.predicted.long()), ones, accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)  # (C, C), each line of sum 1
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="observed")
    axes.spines[:].set_visible(True)
    right = (column.observed == column.predicted).double().mean() if len(column.observed) else math.nan
    axes.set_title(f"{right:.0%} right")
    if len(called) <= WORDS:
        turned: dict[str, Any] = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, called)) > 2 else {}
        )
        axes.set_xticks(range(len(called)), called, **turned)
        axes.set_yticks(range(len(called)), called)
    if len(called) <= WORDS // 2:
        for (i, j), share in np.ndenumerate(shares.numpy()):
            dark: dict[str, Any] = {"color": "white" if share > 0.5 else "black", "fontsize": SMALL}
            axes.text(j, i, f"{share:.2f}", ha="center", va="center", **dark)


def _draw_calibration(axes: Axes, column: Predicted) -> None:
    """The share of ones among rows of about one predicted probability; on the diagonal the two are equal."""
    bins = (column.predicted * PROBABILITIES).long().clamp(0, PROBABILITIES - 1)
    filled = [bins == i for i in range(PROBABILITIES) if bool((bins == i).any())]
    x = [column.predicted[rows].mean().item() for rows in filled]
    y = [column.observed[rows].mean().item() for rows in filled]
    count = [int(rows.sum()) for rows in filled]
    error = [math.sqrt(share * (1 - share) / n) for share, n in zip(y, count, strict=True)]
    axes.plot([0, 1], [0, 1], "--", color=COLORS[7], lw=1)
    axes.errorbar(x, y, error, fmt="o", color=color(0), ms=4.5, capsize=2)
    one = f"share of {plain(column.categories[1])!r}" if len(column.categories) == 2 else "share of ones"
    axes.set(xlabel="predicted probability", ylabel=one, xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set_title("calibration")


def _check_columns(names: Sequence[str], **tables: Tensor) -> None:
    """Refuse tables that have other columns than those named."""
    instance("names", names, Sequence, "give a text for each column")
    for name, rows in tables.items():
        if instance(name, rows, Tensor).dim() != 2 or rows.is_meta or rows.shape[1] != len(names):
            raise InputError(f"{name} must have the {len(names)} columns of names, not shape {tuple(rows.shape)}")


def _panels(names: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each column that is shown, three in a line."""
    shown = min(SHOWN, len(names))
    across = min(3, shown)
    lines = math.ceil(shown / across)
    figure = Figure(figsize=(max(3.2, WIDEST * across / 3), height * lines + 0.7), layout="constrained")
    panels = panels_of(figure, lines, across)
    for axes in panels[shown:]:
        axes.set_axis_off()
    return figure, panels[:shown]


def _more(names: Sequence[str]) -> str:
    return f"; the first {SHOWN} of {len(names)} columns" if len(names) > SHOWN else ""


def _panel(axes: Axes, data: Tensor, drawn: Tensor, categories: Sequence[str]) -> None:
    x = data[~data.isnan()].double()
    y = drawn.double()
    both = torch.cat([x, y]).unique()
    if categories or len(both) <= FEW:
        _bars(axes, x, y, both, categories)
        return
    ends = torch.tensor([0.005, 0.995], dtype=torch.float64)  # a few draws far out would leave all others one bar
    low, high = torch.cat([x, y]).sort().values[(ends * (len(x) + len(y) - 1)).long()].tolist()
    if bool((both == both.round()).all()):  # bins of whole numbers, as many in each
        step = max(1, math.ceil((high - low) / 30))
        bins = [low - 0.5 + step * i for i in range(math.ceil((high - low + 1) / step) + 1)]
    else:
        bins = torch.linspace(low, high if high > low else low + 1, 31).tolist()
    axes.hist(x.numpy(), bins, density=True, **FILLED)
    axes.hist(y.numpy(), bins, density=True, histtype="step", lw=1.4, **OUTLINE)


FILLED: dict[str, Any] = {"color": COLORS[5], "label": "data"}
OUTLINE: dict[str, Any] = {"edgecolor": COLORS[7], "label": "drawn from the model"}


def _bars(axes: Axes, x: Tensor, y: Tensor, both: Tensor, categories: Sequence[str]) -> None:
    """Shares of single values, the data's beside those drawn."""
    values = torch.arange(len(categories), dtype=torch.float64) if categories else both
    places = torch.arange(len(values), dtype=torch.float64)
    of_data, of_draws = ((part.unsqueeze(-1) == values).double().mean(0).tolist() for part in (x, y))
    axes.bar((places - 0.2).tolist(), of_data, 0.4, **FILLED)
    axes.bar((places + 0.2).tolist(), of_draws, 0.4, fill=False, lw=1.4, **OUTLINE)
    called = [plain(each) for each in categories] if categories else [f"{value:g}" for value in values.tolist()]
    crowded = max(map(len, called)) > 4
    step = 1 if categories else math.ceil(len(called) / 8)  # numbers between others need no label
    axes.set_xticks(places.tolist()[::step], called[::step], rotation=60 if crowded else 0)
