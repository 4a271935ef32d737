"""Figures, as objects of matplotlib that are in no window: of results, of data, of what a diagnosis found."""

from pyro_aevb.plots.curves import draw_comparison, draw_training, learning_curve
from pyro_aevb.plots.heat import heat_map
from pyro_aevb.plots.latents import latent_space, principal_axes
from pyro_aevb.plots.pictures import image_grid, latent_grid, manifold, reconstructions, save
from pyro_aevb.plots.style import plain
from pyro_aevb.plots.tables import columns, predicted_against_observed

__all__ = [
    "columns",
    "draw_comparison",
    "draw_training",
    "heat_map",
    "image_grid",
    "latent_grid",
    "latent_space",
    "learning_curve",
    "manifold",
    "plain",
    "predicted_against_observed",
    "principal_axes",
    "reconstructions",
    "save",
]
