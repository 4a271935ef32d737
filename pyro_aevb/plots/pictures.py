"""Pictures from rows of pixels; no display needed, no global state of matplotlib touched."""

import math
from collections.abc import Sequence
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
from pyro_aevb.plots.checked import is_image, rows_checked
from pyro_aevb.plots.curves import draw_comparison
from pyro_aevb.plots.heat import heat_map
from pyro_aevb.plots.style import DPI, SMALL, blank, entitle, in_style, plain, styled

__all__ = [
    "draw_comparison",
    "image_grid",
    "latent_grid",
    "manifold",
    "plain",
    "reconstructions",
    "save",
]

Shape = Sequence[int]
Pixels = np.ndarray[Any, Any]

TICKS = 4  # numbers at a side of the manifold, without the middle


@in_style
def image_grid(images: Tensor, shape: Shape, columns: int | None = None, title: str = "") -> Figure:
    """Rows of pixels as pictures, side by side, black at 0 and white at 1 (or at the extremes beyond).

    Rows of one dimension, which are no pictures, are drawn as :func:`pyro_aevb.plots.heat_map` does.

    Arguments:
        images: The pictures, a row of pixels each, ``(N, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours. Any
            other number of channels is shown as so many grey pictures side by side.
        columns: Number of pictures in a line; by default as many as there are lines, or one more.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``images`` are not rows of as many numbers as ``shape`` holds.
    """
    _check_pixels("images", images, shape)
    across = math.ceil(math.sqrt(len(images))) if columns is None else whole("columns", columns)
    if not is_image(shape):
        return heat_map({"": images}, [str(i) for i in range(images.shape[1])], title=title)
    figure, axes = _mosaic_figure(_tiles(images, shape), across, title)
    axes.set_axis_off()
    return figure


@in_style
def reconstructions(originals: Tensor, means: Tensor, shape: Shape, title: str = "") -> Figure:
    """Data, and below them their reconstructions: two lines per eight data, named at the left.

    Arguments:
        originals: The data, a row of pixels each, ``(N, D)``.
        means: Mean of p(x|z) for each datum, with z from q(z|x), ``(N, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If the two are not rows of one shape, as many numbers each as ``shape`` holds.
    """
    _check_pixels("originals", originals, shape)
    if rows_checked("means", means).shape != originals.shape:
        shapes = f"{tuple(means.shape)} and {tuple(originals.shape)}"
        raise InputError(f"means and originals must have one shape, they have {shapes}")
    if not is_image(shape):
        names = [str(i) for i in range(originals.shape[1])]
        return heat_map({"data": originals, "reconstructions": means}, names, title=title)
    across = min(8, len(originals))
    both = _tiles(torch.cat([originals, means]), shape)
    data, made = (_padded(part, across) for part in np.split(both, 2))
    lines = [line for pair in zip(data, made, strict=True) for line in pair]  # data, reconstructions, data, ...
    figure, axes = _mosaic_figure(np.concatenate(lines), across, title, least=3.8)
    height = 1 + both.shape[1]
    places = [height * (i + 0.5) for i in range(len(lines))]
    axes.set_yticks(places, ["data", "reconstructed"] * len(data))
    _no_frame(axes)
    axes.set_xticks([])
    return figure


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
    u = _linear(whole("side", side))
    down, right = torch.meshgrid(u.flip(0), u, indexing="ij")
    if draws is None:
        return torch.special.ndtri(torch.stack([right, down], dim=-1)).view(-1, 2)  # (side * side, 2)
    rows_checked("draws", draws, least=2)
    quantiles = [torch.quantile(draws[:, k], grid.flatten().to(draws)) for k, grid in enumerate((right, down))]
    return torch.stack(quantiles, dim=-1).cpu()  # (side * side, 2)


@in_style
def manifold(means: Tensor, shape: Shape, title: str = "", latents: Tensor | None = None) -> Figure:
    """Mean of p(x|z) over a grid of latents, the paper's Figure 4, with the two latents along its sides.

    Arguments:
        means: Mean of p(x|z) at each latent of :func:`latent_grid`, ``(side * side, D)``.
        shape: Shape of a picture, the product of which is D: height and width, and 3 first or last for colours.
        title: Text printed above the figure; by default none.
        latents: The latents of the grid, ``(side * side, 2)``, the values of which stand along the sides; by default
            the sides have the prior's quantiles, which are the same for every prior.

    Raises:
        InputError: If ``means`` are not rows of as many numbers as ``shape`` holds, or there is not one latent for
            each.
    """
    _check_pixels("means", means, shape)
    side = math.isqrt(len(means))
    if latents is not None and rows_checked("latents", latents, least=2).shape != (len(means), 2):
        raise InputError(f"latents must be of shape {(len(means), 2)}, one for each picture, not {_shape(latents)}")
    if side * side != len(means) or not is_image(shape):
        return image_grid(means, shape, columns=side, title=title)
    tiles = _tiles(means, shape)
    figure, axes = _mosaic_figure(tiles, side, title, least=4.2)
    height, width = (1 + size for size in tiles.shape[1:3])
    count = TICKS + side % 2  # as many on both sides of the middle, and the middle where there is one
    chosen = sorted({round(i * (side - 1) / (count - 1)) for i in range(count)})
    u = _linear(side)
    right = u if latents is None else latents[:side, 0]
    up = u if latents is None else latents.view(side, side, 2)[:, 0, 1].flip(0)
    axes.set_xticks([1 + (i + 0.5) * width for i in chosen], [_number(right[i]) for i in chosen])
    axes.set_yticks([1 + (side - i - 0.5) * height for i in chosen], [_number(up[i]) for i in chosen])
    of = "" if latents is not None else ", quantile of the prior"
    axes.set(xlabel=f"z[0]{of}", ylabel=f"z[1]{of}")
    _no_frame(axes)
    axes.tick_params(length=3)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, in the format that the path's ending names, else PNG; returns the path.

    Arguments:
        figure: The figure.
        path: Where it is written; the ending names the format.
    """
    target = as_path("path", path)
    with replaced(target) as file, styled():
        instance("figure", figure, Figure).savefig(
            file, dpi=DPI, bbox_inches="tight", format=target.suffix.removeprefix(".") or "png"
        )
    return target


def _check_pixels(name: str, rows: Tensor, shape: Shape) -> None:
    """Refuse rows that do not have as many numbers as a picture of this shape."""
    rows_checked(name, rows)
    pixels = math.prod(wholes("shape", shape))
    if rows.shape[1] != pixels:
        raise InputError(f"shape {told(shape)} holds {pixels} pixels, the rows {rows.shape[1]}: give their own shape")


def _shape(rows: Tensor) -> str:
    return str(tuple(rows.shape))


def _linear(side: int) -> Tensor:
    """Middles of the cells of a grid of the unit interval, ``(side,)``."""
    return (torch.arange(side) + 0.5) / side


def _number(value: Tensor) -> str:
    """A latent's value in two digits, zero without a sign."""
    return f"{value.item():.2g}" if abs(value.item()) > 1e-6 else "0"


def _no_frame(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=SMALL)


def _tiles(images: Tensor, shape: Shape) -> Pixels:
    """``(N, D)`` as ``(N, height, width)`` or ``(N, height, width, 3)``."""
    values = _grey(images.detach().cpu().float())
    sizes = [size for size in shape if size != 1]
    if len(sizes) != 3:
        return values.view(len(images), sizes[0], -1).numpy()
    tiles = values.view(len(images), *sizes)
    if sizes[0] != 3 and (sizes[2] == 3 or sizes[2] < sizes[0]):  # channels last
        tiles = tiles.movedim(-1, 1)
    if tiles.shape[1] == 3:
        return tiles.movedim(1, -1).numpy()
    return tiles.movedim(1, 2).flatten(2).numpy()  # (N, height, channels * width): channels side by side


def _grey(values: Tensor) -> Tensor:
    """Values moved into [0, 1]: those within stay as they are, those beyond stretch the scale instead of being cut."""
    low = min(0.0, values.min().item())
    high = max(1.0, values.max().item())
    return (values - low) / (high - low)


def _padded(tiles: Pixels, columns: int) -> list[Pixels]:
    """Lines of so many tiles, the last one filled up with white ones."""
    missing = -len(tiles) % columns
    padded = np.pad(tiles, [(0, missing)] + [(0, 0)] * (tiles.ndim - 1), constant_values=1.0)
    return list(padded.reshape(-1, columns, *tiles.shape[1:]))  # (columns, height, width, ...) each


def _mosaic(tiles: Pixels, columns: int) -> Pixels:
    """All tiles in one picture, a white line above and to the left of each."""
    framed = np.pad(tiles, [(0, 0), (1, 0), (1, 0)] + [(0, 0)] * (tiles.ndim - 3), constant_values=1.0)
    return np.concatenate([np.concatenate(list(line), axis=1) for line in _padded(framed, columns)], axis=0)


def _mosaic_figure(tiles: Pixels, columns: int, title: str, least: float = 2.0) -> tuple[Figure, Axes]:
    """A figure of tiles, each as high and as wide as its pixels say."""
    picture = _mosaic(tiles, columns)
    width = min(7.0, max(least, columns * 0.45))
    height = min(12.0, max(0.6, width * picture.shape[0] / picture.shape[1]))
    figure, axes = blank(width, height + 0.35)
    extent = (0.0, float(picture.shape[1]), float(picture.shape[0]), 0.0)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    entitle(axes, title, max(width, 5.0))
    return figure, axes
