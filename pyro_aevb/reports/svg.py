"""Charts as SVG: text, no script, colours by class, so that a page decides how they look by day and by night."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from pyro_aevb.plots.style import COLORS

__all__ = ["Curve", "Frame", "Strip", "attributes", "axis_strip", "look", "picture_strip", "strip_frame", "ticks"]

Point = tuple[float, float]

DECADES = 100  # of a learning curve's samples, the last one over the first one shown
PAD = 3.0  # per cent of a strip at either end

MARKERS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",  # circle
    "M-3 -3h6v6h-6z",  # square
    "M0 -4l4 7h-8z",  # triangle
    "M0 -4.5l3.6 4.5l-3.6 4.5l-3.6 -4.5z",  # diamond
    "M0 4l4 -7h-8z",  # triangle, point down
    "M-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  # plus
    "M-4 -4h2.5l1.5 2.2l1.5 -2.2h2.5l-2.6 4l2.6 4h-2.5l-1.5 -2.2l-1.5 2.2h-2.5l2.6 -4z",  # cross
    "M-4 0l2.8 -1.2l1.2 -2.8l1.2 2.8l2.8 1.2l-2.8 1.2l-1.2 2.8l-1.2 -2.8z",  # star
)
DASHES = ("none", "7 3", "7 3 2 3", "2 3", "9 2", "5 2 1 2", "1 2", "12 4")


def look(index: int) -> tuple[str, str, str]:
    """Class of the colour, dash and marker of setting ``index``: after the last colour it has others with the first.

    Arguments:
        index: Number of the setting, from 0 on.
    """
    place = index % len(COLORS)
    shifted = (place + index // len(COLORS)) % len(COLORS)
    return f"c{place}", DASHES[shifted], MARKERS[shifted]


def attributes(**named: object) -> str:
    """Attributes of an element, escaped; ``_`` in a name is ``-``, and one at its end is left out."""
    told = ((name.rstrip("_").replace("_", "-"), value) for name, value in named.items() if value is not None)
    return "".join(f' {name}="{escape(str(value))}"' for name, value in told)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two others, at most so many.

    Arguments:
        low: The smaller one.
        high: The larger one.
        most: Number of ticks.

    >>> ticks(-27.3, -23.9)
    [-27.0, -26.0, -25.0, -24.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 2.5, 5, 10, 20) if (high - low) / (s * power) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def plain(value: float) -> str:
    r"""A number on an axis, with a minus sign of its own length.

    >>> plain(20000.0), plain(0.5), plain(-1.0) == "\N{MINUS SIGN}1"
    ('20,000', '0.5', True)
    """
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")


# ---------------------------------------------------------------- strips: one line of a table each


class Strip(NamedTuple):
    """What one line shows: an interval with a mark, within it a thicker one, and dots."""

    mean: float
    """Where the mark is"""
    low: float
    """Lower end of the interval"""
    high: float
    """Upper end"""
    inner: Point | None
    """Ends of the thicker one"""
    dots: tuple[float, ...]
    """Numbers that the mean is of"""
    color: str
    """Class of its colour"""
    label: str
    """What it says, for those who do not see it"""


def strip_frame(strips: Iterable[Strip], zero: bool = False) -> Point:
    """Ends of the axis that all strips of a table share.

    Arguments:
        strips: The strips.
        zero: Whether zero is on the axis.
    """
    ends = [end for each in strips for end in (each.low, each.high, *(each.inner or ()), *each.dots)]
    found = [end for end in ends if math.isfinite(end)] + ([0.0] if zero else [])
    low, high = min(found, default=0.0), max(found, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(value: float, frame: Point) -> str:
    share = (value - frame[0]) / (frame[1] - frame[0])
    return f"{PAD + (100 - 2 * PAD) * share:.2f}%"


def picture_strip(strip: Strip, frame: Point, zero: bool = False) -> str:
    """One strip, as wide as the place that it is put in; its text stays as large as it is.

    Arguments:
        strip: What it shows.
        frame: Ends of its axis.
        zero: Whether to draw a line at zero.
    """
    parts = [f"<svg{attributes(class_='strip', role='img', aria_label=strip.label, height=30)}>"]
    if zero:
        parts.append(_line(0.0, 0.0, frame, "zero", (0, 30)))
    if strip.high > strip.low:
        parts.append(_line(strip.low, strip.high, frame, f"thin {strip.color}"))
    if strip.inner is not None and strip.inner[1] > strip.inner[0]:
        parts.append(_line(*strip.inner, frame, f"thick {strip.color}"))
    parts += [_circle(dot, frame, f"dot {strip.color}", 3, 25) for dot in strip.dots]
    return "".join([*parts, _circle(strip.mean, frame, f"mean {strip.color}", 5), "</svg>"])


def _line(start: float, end: float, frame: Point, kind: str, heights: tuple[int, int] = (13, 13)) -> str:
    places = {"x1": _place(start, frame), "x2": _place(end, frame), "y1": heights[0], "y2": heights[1]}
    return f"<line{attributes(class_=kind, **places)}/>"


def _circle(value: float, frame: Point, kind: str, radius: int, height: int = 13) -> str:
    if not math.isfinite(value):
        return ""
    return f"<circle{attributes(class_=kind, cx=_place(value, frame), cy=height, r=radius)}/>"


def axis_strip(frame: Point, unit: str) -> str:
    """The axis below all strips of a table.

    Arguments:
        frame: Its ends.
        unit: What stands below its numbers.
    """
    at = ticks(*frame, most=4)
    numbers = [f"<text{attributes(x=_place(x, frame), y=16, text_anchor='middle')}>{plain(x)}</text>" for x in at]
    marks = [_line(x, x, frame, "zero", (0, 4)) for x in at]
    said = f"<text{attributes(x='50%', y=32, text_anchor='middle')}>{escape(unit)}</text>"
    return "".join(
        [f"<svg{attributes(class_='strip axis', aria_hidden='true', height=38)}>", *marks, *numbers, said, "</svg>"]
    )


# ---------------------------------------------------------------- learning curves


class Curve(NamedTuple):
    """A setting's bounds against samples: each seed, their mean with its error over seeds, and test data."""

    name: str
    """The setting"""
    place: int
    """Its number, by which it has its colour"""
    seeds: tuple[tuple[Point, ...], ...]
    """Training bound of each seed"""
    mean: tuple[tuple[float, float, float], ...]
    """Samples, mean over seeds, and its standard error, NaN with one seed"""
    tests: tuple[tuple[float, float, float], ...]
    """The same of bounds on test data"""


class Frame:
    """A chart's axes: samples on a logarithmic one, bounds on a plain one; in pixels.

    Arguments:
        curves: What is drawn in it.
        width: Width of all.
        height: Height of all.
    """

    LEFT = 58
    RIGHT = 24
    TOP = 10
    BOTTOM = 44

    def __init__(self, curves: Sequence[Curve], width: int, height: int) -> None:
        self.curves = curves
        self.width = width
        self.height = height
        points = [point for each in curves for point in _points(each)]
        end = max((x for x, _ in points), default=1.0)
        self.first = max(min((x for x, _ in points), default=1.0), end / DECADES)
        self.last = end if end > self.first else self.first * 2
        shown = [y for x, y in points if x >= self.first] or [0.0]
        margin = 0.04 * (max(shown) - min(shown)) or 0.5
        self.low, self.high = min(shown) - margin, max(shown) + margin

    def x(self, samples: float) -> float:
        """Place of a number of samples."""
        share = math.log(samples / self.first) / math.log(self.last / self.first)
        return self.LEFT + (self.width - self.LEFT - self.RIGHT) * share

    def y(self, bound: float) -> float:
        """Place of a bound."""
        share = (bound - self.low) / (self.high - self.low)
        return self.height - self.BOTTOM - (self.height - self.TOP - self.BOTTOM) * share

    def picture(self, kind: str, single: bool) -> str:
        """The chart.

        Arguments:
            kind: Class of it, by which a page shows it on wide screens or on narrow ones.
            single: Whether single seeds are drawn too.
        """
        label = "Learning curves: the bound against training samples seen; the numbers are in the tables"
        named = {"class_": f"curves {kind}", "viewBox": f"0 0 {self.width} {self.height}", "role": "img"}
        body = [*self._axes(), *(self._curve(each, single) for each in self.curves)]
        return "".join([f"<svg{attributes(**named, aria_label=label)}>", *body, "</svg>"])

    def _axes(self) -> list[str]:
        right, bottom = self.width - self.RIGHT, self.height - self.BOTTOM
        parts = []
        for bound in ticks(self.low, self.high):
            y = f"{self.y(bound):.1f}"
            parts.append(f"<line{attributes(class_='grid', x1=self.LEFT, x2=right, y1=y, y2=y)}/>")
            parts.append(
                f"<text{attributes(x=self.LEFT - 6, y=y, dy='0.35em', text_anchor='end')}>{plain(bound)}</text>"
            )
        for samples in _log_ticks(self.first, self.last, 8 if self.width > 500 else 4):
            x = f"{self.x(samples):.1f}"
            parts.append(f"<line{attributes(class_='grid', x1=x, x2=x, y1=self.TOP, y2=bottom)}/>")
            parts.append(f"<text{attributes(x=x, y=bottom + 17, text_anchor='middle')}>{_short(samples)}</text>")
        middle = f"{(self.LEFT + right) / 2:.0f}"
        parts.append(
            f"<text{attributes(x=middle, y=self.height - 6, text_anchor='middle')}>training samples seen</text>"
        )
        turned = f"translate(13 {(self.TOP + bottom) / 2:.0f}) rotate(-90)"
        return [*parts, f"<text{attributes(transform=turned, text_anchor='middle')}>bound, nats per datum</text>"]

    def _curve(self, curve: Curve, single: bool) -> str:
        color, dash, marker = look(curve.place)
        parts = [f"<g{attributes(class_=f'curve {color}', data_curve=curve.place)}><title>{escape(curve.name)}</title>"]
        band = [each for each in curve.mean if math.isfinite(each[2])]
        if band:
            edge = [(x, y + error) for x, y, error in band] + [(x, y - error) for x, y, error in reversed(band)]
            parts.append(f"<path{attributes(class_='band', d=self._path(edge) + 'z')}/>")
        if single and len(curve.seeds) > 1:
            parts += [f"<path{attributes(class_='seed', d=self._path(points))}/>" for points in curve.seeds]
        line = [(x, y) for x, y, _ in curve.mean]
        parts.append(f"<path{attributes(class_='line', d=self._path(line), stroke_dasharray=dash)}/>")
        parts += [self._test(*each, marker) for each in curve.tests if each[0] >= self.first]
        return "".join([*parts, "</g>"])

    def _path(self, points: Sequence[Point]) -> str:
        shown = [(x, y) for x, y in points if x >= self.first]
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in shown) if shown else ""

    def _test(self, samples: float, bound: float, error: float, marker: str) -> str:
        x, y = f"{self.x(samples):.1f}", f"{self.y(bound):.1f}"
        bar = ""
        if error > 0:
            ends = {"y1": f"{self.y(bound - error):.1f}", "y2": f"{self.y(bound + error):.1f}"}
            bar = f"<line{attributes(class_='error', x1=x, x2=x, **ends)}/>"
        return f"{bar}<path{attributes(class_='test', d=marker, transform=f'translate({x} {y})')}/>"


def _points(curve: Curve) -> list[Point]:
    several = [*curve.mean, *curve.tests]
    ends = [(x, y + sign * (error if math.isfinite(error) else 0)) for x, y, error in several for sign in (-1, 1)]
    return [*ends, *(point for seed in curve.seeds for point in seed)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, with 2 and 5 times them, or only 3 times, where they are few enough."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high * 1.0001]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def _short(samples: float) -> str:
    """A number of samples in few letters.

    >>> _short(20000.0), _short(3e6), _short(500.0)
    ('20k', '3M', '500')
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if samples >= size:
            return f"{samples / size:.3g}{unit}"
    return f"{samples:.3g}"
