"""Data in latent space: dots or, of many data, their density, coloured by label."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.errors import InputError, instance, whole
from pyro_aevb.plots.checked import rows_checked
from pyro_aevb.plots.style import COLORS, MARKERS, SMALL, blank, color, entitle, in_style, plain

__all__ = ["latent_space", "principal_axes"]

MANY = 5000  # data, beyond which dots would hide one another
CELLS = 60  # of the density, along each axis
CLASSES = 20  # that are told apart; of more, numbers get a colour bar and words are named for the most frequent
NAME_WIDTH = 0.05  # room for a class' name of one letter, in shares of the axes
LETTER = 0.022  # and for each further letter
NAME_HEIGHT = 0.055
SCALE = "viridis"  # of numbers: readable for colour-blind people, and in grey


class Classes:
    """What data are coloured by: which class each belongs to, and what the classes are called.

    Arguments:
        labels: Label of each datum, ``(N,)``.
        names: Name of each label, counted from 0; a label below 0 is none.
    """

    def __init__(self, labels: Tensor, names: Sequence[str]) -> None:
        values, self.of, counts = labels.unique(return_inverse=True, return_counts=True)
        self.values = values.tolist()
        self.counts = counts.tolist()
        self.names = [_name(value, names) for value in self.values]

    def shown(self) -> list[int]:
        """Places of the classes that are named: all, or the most frequent ones."""
        return sorted(sorted(range(len(self.names)), key=lambda i: -self.counts[i])[:CLASSES])


def _name(value: float, names: Sequence[str]) -> str:
    """Name of a label; a number that is whole without a point."""
    if names and value < 0:
        return "none"
    if value < len(names) and value == int(value):
        return plain(names[int(value)])
    return f"{value:g}"


@in_style
def latent_space(
    z: Tensor,
    labels: Tensor | None = None,
    title: str = "",
    axis_name: str = "z",
    names: Sequence[str] = (),
    axis_labels: Sequence[str] = (),
) -> Figure:
    """Data in two latent dimensions, or in the only one, coloured by label where there are any.

    Up to 5,000 data are dots. More are shown by their density: without labels by the number of data in each cell, with
    labels by the colour of each cell's most frequent class, the fuller the more data, with numbers by their mean in
    each cell. The name of each class stands at the mean of its data, or beside it where another one is there. Labels of
    more than 20 different numbers, without names, are coloured on a scale; of more than 20 named classes the most
    frequent 20 are named. One latent dimension is shown as a histogram of each class, one above another.

    Arguments:
        z: Latents of the data, ``(N, K)``, the first two of which are shown.
        labels: Label of each datum, ``(N,)``; by default all data have one colour.
        title: Text printed above the figure; by default none.
        axis_name: What is shown. The axes are called by its first two dimensions, counted from 0: by default ``z[0]``
            and ``z[1]``.
        names: Name of each label, counted from 0; by default its number. A label below 0 is none.
        axis_labels: What the axes are called instead, a text for each.

    Raises:
        InputError: If there are not one label for each datum.
    """
    rows_checked("z", z)
    if labels is not None and instance("labels", labels, Tensor).shape != z.shape[:1]:
        raise InputError(f"labels must be one for each of the {len(z)} data, not of shape {tuple(labels.shape)}")
    instance("names", names, Sequence, "give a text for each label")
    instance("axis_labels", axis_labels, Sequence, "give a text for each axis")
    places = z.detach().cpu().double()
    shown = None if labels is None else labels.detach().cpu()
    figure, axes = blank(6.2, 4.6)
    classes = None if shown is None or _are_numbers(shown, names) else Classes(shown, names)
    if z.shape[1] == 1:
        _draw_one(axes, places[:, 0], classes)
    elif classes is not None:
        _draw_classes(axes, places, classes)
    else:
        _draw_numbers(figure, axes, places, shown)
    called = (*axis_labels, *(f"{axis_name}[{k}]" for k in range(len(axis_labels), 2)))
    axes.set_xlabel(called[0])
    if z.shape[1] > 1:
        axes.set_ylabel(called[1])
    entitle(axes, title, 6.2)
    return figure


def principal_axes(z: Tensor, count: int = 2) -> tuple[Tensor, list[float]]:
    """Latents along the axes in which they vary most, ``(N, count)``, and each axis' share of all variance, in [0, 1].

    Signs are such that the largest weight of each axis is positive.

    Oracle: ``sklearn.decomposition.PCA``.

    Arguments:
        z: Latents of the data, ``(N, K)``.
        count: Number of axes, at most K and N.

    Raises:
        InputError: If there are fewer latents or data than axes.
    """
    rows_checked("z", z, least=whole("count", count))
    if len(z) < count:
        raise InputError(f"z has {len(z)} rows, which have no {count} principal axes: give {count} data at least")
    centred = z.detach().cpu().double() - z.detach().cpu().double().mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))  # (K, 1)
    variances = lengths.square()
    shares = variances / variances.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return (centred @ (axes * largest.sign()).T)[:, :count], shares[:count].tolist()


def _are_numbers(labels: Tensor, names: Sequence[str]) -> bool:
    """Whether labels are so many different numbers that a scale shows them, and no names."""
    return not names and len(labels.unique()) > CLASSES


def _draw_classes(axes: Axes, z: Tensor, classes: Classes) -> None:
    if len(z) > MANY:
        _draw_density(axes, z, classes)
    else:
        for i in range(len(classes.names)):
            _dots(axes, z[classes.of == i], len(z), color=color(i), marker=_marker(i))
    low, high = z[:, :2].amin(0).numpy(), z[:, :2].amax(0).numpy()
    size = np.where(high > low, high - low, 1.0)
    shown = classes.shown()
    middles = np.stack([z[classes.of == i, :2].mean(0).numpy() for i in shown])
    widths = np.array([NAME_WIDTH + LETTER * (len(classes.names[i]) - 1) for i in shown])
    for i, place in zip(shown, low + size * _apart((middles - low) / size, widths), strict=True):
        _name_at(axes, place, classes.names[i], i)
        axes.plot([], [], _marker(i), color=color(i), ms=6, label=classes.names[i])
    of_more = f"the {CLASSES} most frequent\nof {len(classes.names)} classes" if len(classes.names) > CLASSES else None
    columns = math.ceil(len(shown) / 12)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SMALL, ncols=columns, title=of_more)


def _marker(place: int) -> str:
    """The same marker for all of the first classes, another where a colour comes again."""
    return MARKERS[place // len(COLORS) % len(MARKERS)]


def _name_at(axes: Axes, middle: Any, name: str, place: int) -> None:
    x, y = map(float, middle)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color(place), "alpha": 0.85}
    axes.text(x, y, name, ha="center", va="center", fontsize=SMALL, fontweight="bold", bbox=box, zorder=5)


def _dots(axes: Axes, z: Tensor, of_all: int, **style: Any) -> Any:
    """Dots that are the larger the fewer there are."""
    size = min(26.0, max(7.0, 15_000 / of_all))
    return axes.scatter(z[:, 0], z[:, 1], s=size, lw=0, alpha=0.8, **style)


def _cells(z: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Edges of the density's cells along both axes, from the least to the largest latent."""
    low, high = z[:, :2].amin(0).tolist(), z[:, :2].amax(0).tolist()
    edges = [np.linspace(a, b if b > a else a + 1, CELLS + 1) for a, b in zip(low, high, strict=True)]
    return edges[0], edges[1]


def _draw_density(axes: Axes, z: Tensor, classes: Classes) -> None:
    """Each cell in the colour of its most frequent class, the fuller the more data of any class it has."""
    edges = _cells(z)
    counts = np.stack([_counted(z[classes.of == i], edges) for i in range(len(classes.names))])  # (C, up, right)
    colours = np.array([to_rgb(color(i)) for i in range(len(classes.names))])
    all_data = counts.sum(0)
    strength = np.log1p(all_data) / np.log1p(all_data.max())
    alpha = np.where(all_data > 0, 0.25 + 0.75 * strength, 0.0)
    picture = np.concatenate([colours[counts.argmax(0)], alpha[..., None]], axis=-1)
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    axes.imshow(picture, origin="lower", extent=extent, aspect="auto", interpolation="nearest")


def _counted(z: Tensor, edges: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Number of data in each cell, the lowest line first."""
    return np.histogram2d(z[:, 0].numpy(), z[:, 1].numpy(), edges)[0].T


def _draw_numbers(figure: Figure, axes: Axes, z: Tensor, labels: Tensor | None) -> None:
    """Data of one colour, or coloured by numbers on a scale."""
    if len(z) > MANY:
        values = None if labels is None else labels.double().numpy()
        scale = LogNorm() if labels is None else None
        drawn = axes.hexbin(z[:, 0].numpy(), z[:, 1].numpy(), values, gridsize=CELLS, cmap=SCALE, norm=scale, mincnt=1)
        words = "data in each cell" if labels is None else "mean label of each cell"
    elif labels is not None:
        drawn = _dots(axes, z, len(z), c=labels.double(), cmap=SCALE)
        words = "label"
    else:
        _dots(axes, z, len(z), color=color(0))
        return
    bar = figure.colorbar(drawn, ax=axes)
    bar.set_label(words)
    bar.ax.tick_params(labelsize=SMALL)


def _draw_one(axes: Axes, z: Tensor, classes: Classes | None) -> None:
    """A histogram of all data; of classes one above another, each as high as its line."""
    low, high = z.min().item(), z.max().item()
    bins = np.linspace(low, high if high > low else low + 1, 41)
    if classes is None:
        axes.hist(z.numpy(), bins.tolist(), density=True, color=color(0), alpha=0.7)
        axes.set_ylabel("density of the data")
        return
    shown = classes.shown()
    for line, i in enumerate(reversed(shown)):
        heights = np.histogram(z[classes.of == i].numpy(), bins)[0]
        axes.stairs(line + 0.85 * heights / heights.max(), bins, baseline=line, fill=True, color=color(i), alpha=0.8)
        axes.plot(z[classes.of == i].mean().item(), line, "^", color=COLORS[7], ms=5, clip_on=False, zorder=4)
    axes.set_yticks(range(len(shown)), [classes.names[i] for i in reversed(shown)])
    more = f", the {CLASSES} most frequent of {len(classes.names)}" if len(classes.names) > CLASSES else ""
    axes.set_ylabel(f"label{more}; triangle: mean")


def _apart(places: np.ndarray[Any, Any], widths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places of names, in shares of the axes ``(C, 2)``, moved up and down until none hides another."""
    moved = places.copy()
    room = (widths[:, None] + widths[None, :]) / 2
    for _ in range(200):
        across, up = (moved[:, None, k] - moved[None, :, k] for k in (0, 1))
        close = (abs(across) < room) & (abs(up) < NAME_HEIGHT) & ~np.eye(len(moved), dtype=bool)
        if not close.any():
            break
        side = np.where(up == 0, np.sign(np.subtract.outer(range(len(moved)), range(len(moved)))), np.sign(up))
        moved[:, 1] += 0.25 * (close * side * (NAME_HEIGHT - abs(up))).sum(1) + 1e-4 * close.any(1)
    return moved
