"""How all figures look: colours that colour-blind people tell apart, sizes that stay readable when a page shrinks them.

Nothing global is set: figures are drawn within :func:`styled`, which puts matplotlib's settings back afterwards.
"""

import math
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

__all__ = [
    "COLORS",
    "DASHES",
    "DPI",
    "MARKERS",
    "SETTINGS",
    "SMALL",
    "WIDEST",
    "blank",
    "color",
    "entitle",
    "in_style",
    "in_words",
    "mark",
    "panels_of",
    "plain",
    "plain_numbers",
    "styled",
    "with_error",
]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f", "#000000")
"""Okabe and Ito's colours: blue, vermilion, green, purple, amber, sky blue; then grey and black."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Markers of lines, in the order of :data:`COLORS`: lines differ by more than colour."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
"""Dashes of lines, in the order of :data:`COLORS`."""

DPI = 140
"""Dots per inch of saved figures."""

WIDEST = 7.0
"""Widest figure, in inches: shrunk to the 420 pixels of a README's column its text of 9 points is 7.5 pixels high."""

SMALL = 9
"""Size of the smallest text, in points."""

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.4",
    "axes.grid": False,
    "axes.labelsize": 10,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "errorbar.capsize": 2.5,
    "figure.dpi": DPI,
    "figure.labelsize": 10,
    "figure.titlesize": 10.5,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.alpha": 0.6,
    "grid.color": "0.85",
    "grid.linewidth": 0.7,
    "image.interpolation": "nearest",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.bbox": "tight",
    "savefig.dpi": DPI,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}
"""Settings of matplotlib for all figures of the package and of its experiments."""

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")


def color(index: int) -> str:
    """Colour of line or class ``index``, counted from 0; after the last colour the first comes again.

    Arguments:
        index: Number of the line or class.

    >>> color(0), color(8)
    ('#0072B2', '#0072B2')
    """
    return COLORS[index % len(COLORS)]


def mark(index: int) -> dict[str, Any]:
    """Colour, marker and dash of line ``index``, counted from 0, as matplotlib's ``plot`` takes them.

    Arguments:
        index: Number of the line.
    """
    place = index % len(COLORS)
    shifted = (place + index // len(COLORS)) % len(COLORS)  # a colour that comes again has another marker and dash
    return {"color": COLORS[place], "marker": MARKERS[shifted], "linestyle": DASHES[shifted]}


def styled() -> AbstractContextManager[None]:
    """A context in which matplotlib draws with :data:`SETTINGS`; the settings from before hold again after it."""
    return mpl.rc_context(SETTINGS)


def in_style(draw: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """A function that draws as ``draw`` does, within :func:`styled`.

    Arguments:
        draw: A function that makes a figure or draws in one.
    """

    @wraps(draw)
    def drawn(*arguments: Given.args, **named: Given.kwargs) -> Drawn:
        with styled():
            return draw(*arguments, **named)

    return drawn


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel; sizes in inches.

    Arguments:
        width: Width of the figure.
        height: Height of the figure.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, panels_of(figure)[0]


def panels_of(figure: Figure | SubFigure, lines: int = 1, across: int = 1, **shared: Any) -> list[Axes]:
    """Panels in lines, the first line from left to right, then the second; their ticks keep the style's size.

    Matplotlib makes ticks only when it draws, then by the settings that hold at that time.

    Arguments:
        figure: The figure that they are made in.
        lines: Number of lines.
        across: Number of panels in a line.
        shared: Further arguments of matplotlib's ``subplots``.
    """
    made = list(figure.subplots(lines, across, squeeze=False, **shared).flatten())
    for axes in made:
        axes.tick_params(labelsize=SMALL)
    return made


def plain(title: str) -> str:
    """A title as it is: a dollar sign in a folder's name begins no formula.

    Arguments:
        title: Text of a title.
    """
    return title.replace("$", r"\$")


def entitle(place: Axes | Figure, title: str, width: float) -> None:
    """Write a title above a figure or a panel, in lines that are no wider than it; nothing for an empty one.

    Arguments:
        place: The figure or panel.
        title: Its title.
        width: Width that there is, in inches.
    """
    if not title.strip():
        return
    letters = max(30, int(width * 72 / (0.56 * SETTINGS["axes.titlesize"])))
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, letters)]
    write = place.suptitle if isinstance(place, Figure) else place.set_title
    write(plain("\n".join(lines)))


def in_words(value: float, _place: Any = None) -> str:
    """A number as people write it: ``20,000``, ``3 million``, ``0.05``.

    Arguments:
        value: The number.

    >>> in_words(20000.0), in_words(3e6), in_words(0.05)
    ('20,000', '3 million', '0.05')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:,g} million"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def with_error(value: float, error: float) -> str:
    """A number and its standard error, in two decimals, or as many as the error's first digit needs.

    Arguments:
        value: The number.
        error: Its standard error, at least 0.

    >>> with_error(0.3812, 0.0123), with_error(0.02412, 0.00321), with_error(1.0, 0.0)
    ('0.38 ± 0.01', '0.024 ± 0.003', '1.00 ± 0.00')
    """
    digits = max(2, -math.floor(math.log10(error))) if error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis by plain numbers: each power of ten, and 2 and 5 times it where there are few.

    Arguments:
        axis: The axis, after its limits are set.
    """
    low, high = sorted(axis.get_view_interval())
    decades = mpl.scale.LogTransform(10).transform([low, high])
    span = float(decades[1] - decades[0])
    subs: tuple[float, ...] = (1.0,) if span > 2.2 else (1.0, 3.0) if span > 1.2 else (1.0, 2.0, 5.0)
    if span < 0.5:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(in_words if high < 1e7 and low >= 1e-4 else _power))


def _power(value: float, _place: Any = None) -> str:
    """A number by its power of ten, ``$3\\times10^7$``: where plain ones would be too long."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return rf"${'' if mantissa == '1' else mantissa + chr(92) + 'times'}10^{{{int(exponent)}}}$"
