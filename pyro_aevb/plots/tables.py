"""A picture of a table: how the values of each column lie, those of the data beside those that a model draws."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.errors import InputError, instance
from pyro_aevb.plots.pictures import plain

__all__ = ["columns"]

SHOWN = 24  # columns at most: more are no picture
ACROSS = 4  # panels in a line
FEW = 20  # different values, of which each has a bar


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
    for name, rows in (("data", data), ("drawn", drawn)):
        if instance(name, rows, Tensor).dim() != 2 or rows.shape[1] != len(names):
            raise InputError(f"{name} must have the {len(names)} columns that are named, not shape {tuple(rows.shape)}")
    shown = min(SHOWN, len(names))
    lines = math.ceil(shown / ACROSS)
    across = min(ACROSS, shown)
    figure = Figure(figsize=(2.6 * across + 0.4, 2.1 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, across, squeeze=False).flatten()
    for axes in panels[shown:]:
        axes.set_axis_off()
    for i, axes in enumerate(panels[:shown]):
        called = categories[i] if len(categories) > i else ()
        _panel(axes, data[:, i], drawn[:, i], called)
        axes.set_title(plain(names[i]), fontsize="small")
        axes.tick_params(labelsize="x-small")
        axes.set_yticks([])
    panels[0].legend(fontsize="x-small", frameon=False)
    more = f"; the first {shown} of {len(names)} columns" if shown < len(names) else ""
    figure.suptitle(plain(f"{title}{more}"), fontsize="small")
    return figure


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
    axes.hist(x.numpy(), bins, density=True, color="C0", alpha=0.45, label="data")
    axes.hist(y.numpy(), bins, density=True, color="black", histtype="step", label="drawn from the model")


def _bars(axes: Axes, x: Tensor, y: Tensor, both: Tensor, categories: Sequence[str]) -> None:
    """Shares of single values, the data's beside those drawn."""
    values = torch.arange(len(categories), dtype=torch.float64) if categories else both
    places = torch.arange(len(values), dtype=torch.float64)
    of_data, of_draws = ((part.unsqueeze(-1) == values).double().mean(0).tolist() for part in (x, y))
    axes.bar((places - 0.2).tolist(), of_data, 0.4, label="data", color="C0", alpha=0.45)
    axes.bar((places + 0.2).tolist(), of_draws, 0.4, label="drawn from the model", fill=False, edgecolor="black")
    called = [plain(each) for each in categories] if categories else [f"{value:g}" for value in values.tolist()]
    axes.set_xticks(places.tolist(), called, rotation=45 if max(map(len, called)) > 4 else 0)
