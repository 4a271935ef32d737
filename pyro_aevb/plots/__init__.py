"""Figures, as objects of matplotlib that are in no window: of results, of data, of what a diagnosis found."""

from pyro_aevb.plots.pictures import (
    draw_comparison,
    image_grid,
    latent_grid,
    latent_space,
    learning_curve,
    manifold,
    plain,
    reconstructions,
    save,
)
from pyro_aevb.plots.tables import columns

__all__ = [
    "columns",
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
