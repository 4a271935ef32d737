"""A heat map of a table's rows: what the model makes of them beside the data, column by column."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.errors import InputError, instance
from pyro_aevb.plots.checked import rows_checked
from pyro_aevb.plots.style import COLORS, SMALL, WIDEST, entitle, in_style, panels_of, plain

__all__ = ["heat_map"]

ROWS = 40  # of each table that are shown
NAMED = 30  # columns that have room for their names
BESIDE = 12  # columns at most of tables that stand side by side
BEYOND = 3.0  # standard deviations at which the colours end


@in_style
def heat_map(tables: Mapping[str, Tensor], names: Sequence[str], title: str = "") -> Figure:
    """Rows of tables as coloured cells, in standard deviations from the first table's mean of each column.

    The first 40 rows of each table are shown, with the same scale for all of them, so that equal colours of a column
    are equal values; vermilion is above the mean, blue below, white at it, and grey a missing value. Codes of
    categories are numbers here, in the order of their categories.

    Arguments:
        tables: The tables by what they are called, ``(N, D)`` each, NaN where a value is missing: the data first, say,
            then their reconstructions, then rows that the model draws.
        names: Name of each column.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If there are no tables, or one has not as many columns as there are names.
    """
    if not isinstance(tables, Mapping) or not tables:
        raise InputError("tables must be a dictionary of one table at least, (N, D) each: give {'data': x}")
    instance("names", names, Sequence, "give a text for each column")
    for called, rows in tables.items():
        if rows_checked(f"tables[{called!r}]", rows).shape[1] != len(names):
            raise InputError(f"tables[{called!r}] has {rows.shape[1]} columns, and names has {len(names)}")
    beside = len(names) <= BESIDE
    shown = [rows[:ROWS].detach().cpu().double() for rows in tables.values()]
    centre, spread = _scale(next(iter(tables.values())).detach().cpu().double())
    figure = Figure(figsize=_size([len(rows) for rows in shown], beside), layout="constrained")
    lines, across = (1, len(shown)) if beside else (len(shown), 1)
    shared: dict[str, Any] = {"sharey": True} if beside else {"sharex": True}
    panels = panels_of(figure, lines, across, **shared)
    for axes, called, rows in zip(panels, tables, shown, strict=True):
        image = axes.imshow(((rows - centre) / spread).numpy(), **_colours(), aspect="auto")
        axes.set_title(plain(called))
        axes.set_facecolor("0.6")  # a missing value has no colour of its own
    _name_columns(panels if beside else panels[-1:], names)
    for axes in panels[:1] if beside else panels:
        axes.set_ylabel("row")
    bar = figure.colorbar(image, ax=panels, extend="both", shrink=0.9, aspect=25, pad=0.02)
    bar.set_label("standard deviations from\nthe column's mean", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    entitle(figure, title, WIDEST)
    return figure


def _size(rows: Sequence[int], beside: bool) -> tuple[float, float]:
    heights = [min(4.0, max(1.0, 0.11 * count + 0.3)) for count in rows]
    return WIDEST, (max(heights) if beside else sum(heights)) + 1.2


def _scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, missing values left out, ``(D,)`` each; 1 where nothing varies."""
    centre = rows.nanmean(0)
    spread = (rows - centre).square().nanmean(0).sqrt()
    return centre.nan_to_num(0.0), torch.where(spread > 0, spread, 1.0)


def _colours() -> dict[str, Any]:
    """Blue to vermilion, which colour-blind people tell apart, white between them."""
    scale = LinearSegmentedColormap.from_list("blue to vermilion", [COLORS[0], "white", COLORS[1]])
    return {"cmap": scale, "vmin": -BEYOND, "vmax": BEYOND, "interpolation": "nearest"}


def _name_columns(panels: Sequence[Axes], names: Sequence[str]) -> None:
    for axes in panels:
        if len(names) > NAMED:
            axes.set_xlabel("column, counted from 0")
            continue
        turned: dict[str, Any] = (
            {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 2 else {}
        )
        axes.set_xticks(range(len(names)), [plain(name) for name in names], **turned)
