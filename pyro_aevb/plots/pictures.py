"""Figures from tensors; no display needed, no global state of matplotlib touched."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.errors import InputError, instance, told, whole, wholes
from pyro_aevb.errors import path as as_path
from pyro_aevb.files import replaced

__all__ = [
    "draw_comparison",
    "image_grid",
    "latent_grid",
    "latent_space",
    "learning_curve",
    "manifold",
    "plain",
    "reconstructions",
    "save",
]

Shape = Sequence[int]


def draw_comparison(rows: Sequence[Any], title: str = "") -> Figure:
    """Variance and signal-to-noise ratio of gradients against the number of particles, one line for each estimator.

    All axes are logarithmic. The left column is of gradients by the model's parameters, the right one by the guide's.
    Where lines coincide, the later ones are thinner, so that all of them are seen.

    Arguments:
        rows: What :func:`pyro_aevb.diagnostics.gradients.compare` returned.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``rows`` are not what ``compare`` returns, or there are none.
    """
    if not _all(rows, lambda row: hasattr(row, "estimator")) or not rows:
        raise InputError(f"rows must be what compare returned, one row at least, not {told(rows)}")
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    names = list(dict.fromkeys(row.estimator for row in rows))
    counts = sorted({row.num_particles for row in rows})
    for column, (part, symbol) in enumerate((("model", "θ"), ("guide", "φ"))):
        panels[0][column].set_title(f"gradient by the {part}'s parameters {symbol}", fontsize="medium")
        for line, (quantity, words) in enumerate((("variance", "variance"), ("snr", "signal-to-noise ratio"))):
            axes = panels[line][column]
            for i, name in enumerate(names):
                points = [
                    (r.num_particles, getattr(r, quantity)) for r in rows if (r.estimator, r.part) == (name, part)
                ]
                width = 1 + 2.5 * (1 - i / len(names))
                axes.loglog(*zip(*points, strict=True), "o-", color=f"C{i}", ms=2 + width, lw=width, label=name)
            axes.set(ylabel="" if column else words, xlabel="number of particles" if line else "")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(plain(title), fontsize="small")
    return figure


def learning_curve(metrics: Sequence[dict[str, Any]], title: str = "") -> Figure:
    """The bound against the number of training samples seen, on a logarithmic axis, as in the paper's Figure 2.

    Arguments:
        metrics: Records of a run, a dictionary each: ``samples_seen`` with ``bound`` (training), or with ``test_bound``
            and its standard error ``test_se``; bounds in nats per datum.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``metrics`` is no list of dictionaries.
    """
    if not _all(metrics, lambda record: isinstance(record, Mapping)):
        raise InputError(f"metrics must be a list of records, a dictionary each, not {told(metrics)}")
    figure, axes = _figure(5.2, 3.4)
    train = [(m["samples_seen"], m["bound"]) for m in metrics if "bound" in m]
    test = [(m["samples_seen"], m["test_bound"], m["test_se"]) for m in metrics if "test_bound" in m]
    if train:
        x, y = zip(*train, strict=True)
        axes.plot(x, y, color="C0", lw=1, label="training data, mean since the last report")
    if test:
        x, y, error = zip(*test, strict=True)
        axes.errorbar(x, y, error, color="C1", fmt="o-", ms=3, lw=1, label="test data, ± standard error")
    axes.set(xscale="log", xlabel="training samples seen", ylabel="bound, nats per datum")
    axes.set_title(plain(title), fontsize="small")
    _cut_beginning(axes, [point[:2] for point in (*train, *test)])
    axes.grid(alpha=0.3)
    if train or test:
        axes.legend()
    return figure


def image_grid(images: Tensor, shape: Shape, columns: int | None = None, title: str = "") -> Figure:
    """Rows of pixels as pictures, side by side, black at 0 and white at 1 (or at the extremes beyond).

    Arguments:
        images: The pictures, a row of pixels each, ``(N, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours.
        columns: Number of pictures in a line; by default as many as there are lines, or one more.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``images`` are not rows of as many numbers as ``shape`` holds.
    """
    _check_rows("images", images)
    pixels = math.prod(wholes("shape", shape))
    if images.shape[1] != pixels:
        raise InputError(f"shape {told(shape)} holds {pixels} pixels, the rows {images.shape[1]}: give their own shape")
    columns = math.ceil(math.sqrt(len(images))) if columns is None else whole("columns", columns)
    tiles = _tiles(images, shape)
    figure, axes = _figure(*_size(tiles, columns))
    _show(axes, _mosaic(tiles, columns))
    axes.set_title(plain(title), fontsize="small")
    return figure


def reconstructions(originals: Tensor, means: Tensor, shape: Shape, title: str = "") -> Figure:
    """Data, and below them their reconstructions: two lines per eight data.

    Arguments:
        originals: The data, a row of pixels each, ``(N, D)``.
        means: Mean of p(x|z) for each datum, with z from q(z|x), ``(N, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours.
        title: Text printed above the figure; by default none but what the lines are.

    Raises:
        InputError: If the two are not rows of one shape, as many numbers each as ``shape`` holds.
    """
    _check_rows("originals", originals)
    if _check_rows("means", means).shape != originals.shape:
        shapes = f"{tuple(means.shape)} and {tuple(originals.shape)}"
        raise InputError(f"means and originals must have one shape, they have {shapes}")
    figure_rows = []
    for x, y in zip(originals.split(8), means.split(8), strict=True):
        filler = x.new_zeros(8 - len(x), x.shape[1])
        figure_rows += [x, filler, y, filler]
    return image_grid(
        torch.cat(figure_rows),
        shape,
        columns=8,
        title=f"{title}\nlines of data, each with its reconstructions below",
    )


def latent_grid(side: int, draws: Tensor | None = None) -> Tensor:
    r"""Figure 4's latents, ``(side * side, 2)``: :math:`z = \Phi^{-1}(u)` on a linear grid of the unit square.

    ``z[0]`` grows to the right, ``z[1]`` upwards.

    Arguments:
        side: Number of latents on a side of the grid.
        draws: Many samples of the prior, ``(S, 2)``, whose quantiles stand for its inverse CDFs, each latent by itself;
            by default the prior is N(0, I), whose inverse CDFs are known.

    Raises:
        InputError: If ``side`` is no whole number of at least 1, or ``draws`` are not of two latents.

    >>> latent_grid(1)
    tensor([[0., 0.]])
    """
    u = (torch.arange(whole("side", side)) + 0.5) / side
    down, right = torch.meshgrid(u.flip(0), u, indexing="ij")
    if draws is None:
        return torch.special.ndtri(torch.stack([right, down], dim=-1)).view(-1, 2)  # (side * side, 2)
    _check_rows("draws", draws, least=2)
    quantiles = [torch.quantile(draws[:, k], grid.flatten().to(draws)) for k, grid in enumerate((right, down))]
    return torch.stack(quantiles, dim=-1).cpu()  # (side * side, 2)


def manifold(means: Tensor, shape: Shape, title: str = "") -> Figure:
    """Mean of p(x|z) over a grid of latents, the paper's Figure 4.

    Arguments:
        means: Mean of p(x|z) at each latent of :func:`latent_grid`, ``(side * side, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``means`` are not rows of as many numbers as ``shape`` holds.
    """
    _check_rows("means", means)
    return image_grid(means, shape, columns=math.isqrt(len(means)), title=title)


def latent_space(
    z: Tensor,
    labels: Tensor | None = None,
    title: str = "",
    axis_name: str = "z",
    names: Sequence[str] = (),
) -> Figure:
    """Data in two latent dimensions, coloured by label where there are any.

    Arguments:
        z: Latents of the data, ``(N, K)`` with K of at least 2, the first two of which are shown.
        labels: Label of each datum, ``(N,)``; by default all data have one colour.
        title: Text printed above the figure; by default none.
        axis_name: What is shown. The axes are called by its first two dimensions, counted from 0: by default ``z[0]``
            and ``z[1]``.
        names: Name of each label, counted from 0, for the legend; by default its number. A label below 0 is none.

    Raises:
        InputError: If there are fewer than two latents, or not one label for each datum.
    """
    _check_rows("z", z, least=2)
    if labels is not None and instance("labels", labels, Tensor).shape != z.shape[:1]:
        raise InputError(f"labels must be one for each of the {len(z)} data, not of shape {tuple(labels.shape)}")
    instance("names", names, Sequence, "give a text for each label")
    figure, axes = _figure(4.8, 4.2)
    if labels is None:
        axes.scatter(z[:, 0], z[:, 1], s=3, lw=0)
    else:
        classes = labels.unique().tolist()
        for i, label in enumerate(classes):
            rows = z[labels == label]
            called = "none" if label < 0 and names else names[label] if label < len(names) else f"{label}"
            axes.scatter(rows[:, 0], rows[:, 1], s=4, lw=0, label=plain(called), color=f"C{i % 10}")
        axes.legend(markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(xlabel=f"{axis_name}[0]", ylabel=f"{axis_name}[1]")
    axes.set_title(plain(title), fontsize="small")
    return figure


def plain(title: str) -> str:
    """A title as it is: a dollar sign in a folder's name begins no formula.

    Arguments:
        title: Text of a title.
    """
    return title.replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, in the format that the path's ending names, else PNG; returns the path.

    Arguments:
        figure: The figure.
        path: Where it is written; the ending names the format.
    """
    target = as_path("path", path)
    with replaced(target) as file:
        instance("figure", figure, Figure).savefig(
            file, dpi=110, bbox_inches="tight", format=target.suffix.removeprefix(".") or "png"
        )
    return target


def _all(things: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether they are a sequence, no text, of things for which all ``holds``."""
    return isinstance(things, Sequence) and not isinstance(things, str) and all(map(holds, things))


def _check_rows(name: str, rows: Tensor, least: int = 1) -> Tensor:
    """The rows, if they are a tensor of shape ``(N, D)`` with D of at least ``least``."""
    if instance(name, rows, Tensor).dim() != 2 or len(rows) == 0 or rows.shape[1] < least or rows.is_meta:
        found = f"of shape {tuple(rows.shape)}{' on the device meta' if rows.is_meta else ''}"
        raise InputError(f"{name} must be rows, (N, D) with D at least {least}, not {found}")
    return rows


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _cut_beginning(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Show the last two decades of samples: the steep beginning would flatten all the rest."""
    if points:
        begin = min(x for x, _ in points)
        end = max(x for x, _ in points)
        shown = [y for x, y in points if x >= end / 100]
        margin = 0.05 * (max(shown) - min(shown)) or 1.0
        axes.set(xlim=(max(end / 110, begin / 1.1), end * 1.1), ylim=(min(shown) - margin, max(shown) + margin))


def _tiles(images: Tensor, shape: Shape) -> np.ndarray[Any, Any]:
    """``(N, D)`` as ``(N, height, width)`` or ``(N, height, width, 3)``; a row of one dimension is one line."""
    values = _grey(images.detach().cpu().float()).view(len(images), *_picture_shape(shape))
    return values.movedim(1, -1).numpy() if values.dim() == 4 and values.shape[1] == 3 else values.numpy()


def _grey(values: Tensor) -> Tensor:
    """Values moved into [0, 1]: those within stay as they are, those beyond stretch the scale instead of being cut."""
    low = min(0.0, values.min().item())
    high = max(1.0, values.max().item())
    return (values - low) / (high - low)


def _picture_shape(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(size for size in shape if size != 1) or (1,)
    if len(sizes) == 1:
        return (1, *sizes)
    return (
        sizes
        if len(sizes) == 2 or (len(sizes) == 3 and 3 in (sizes[0], sizes[2]))
        else (sizes[0], math.prod(sizes[1:]))
    )


def _mosaic(tiles: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    missing = -len(tiles) % columns
    padded = np.pad(tiles, [(0, missing)] + [(1, 0), (1, 0)] + [(0, 0)] * (tiles.ndim - 3), constant_values=1.0)
    rows = padded.reshape(-1, columns, *padded.shape[1:])  # (rows, columns, height, width, ...)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def _size(tiles: np.ndarray[Any, Any], columns: int) -> tuple[float, float]:
    rows = math.ceil(len(tiles) / columns)
    width = min(8.0, max(2.0, columns * 0.45))
    return width, min(12.0, max(0.8, width * rows * tiles.shape[1] / (columns * tiles.shape[2])) + 0.3)


def _show(axes: Axes, picture: np.ndarray[Any, Any]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
