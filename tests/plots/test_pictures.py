"""Figures from tensors."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_aevb import plots


def test_latent_grid_is_the_papers():
    z = plots.latent_grid(5)
    expected = stats.norm.ppf((np.arange(5) + 0.5) / 5)
    np.testing.assert_allclose(z[:5, 0], expected, atol=1e-6)  # to the right
    np.testing.assert_allclose(z[::5, 1], expected[::-1], atol=1e-6)  # upwards: the first line is the top one


def picture(figure):
    return figure.axes[0].images[0].get_array()


def test_image_grid_puts_each_pixel_where_it_belongs():
    images = torch.arange(24.0).view(4, 6) / 24
    made = picture(plots.image_grid(images, (2, 3), columns=2))
    assert made.shape == (2 * 3, 2 * 4)  # each tile has a white line above and to the left
    np.testing.assert_allclose(made[1:3, 1:4], images[0].view(2, 3), atol=1e-6)
    np.testing.assert_allclose(made[4:6, 5:8], images[3].view(2, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "dim"), [((8, 8), 64), ((1, 8, 8), 64), ((8, 8, 3), 192), ((3, 8, 8), 192), ((7,), 7), ((4, 3, 2, 2), 48)]
)
def test_any_shape_makes_a_picture(shape, dim, tmp_path):
    path = plots.save(plots.image_grid(torch.rand(7, dim), shape), tmp_path / "a.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_values_beyond_the_unit_interval_stretch_the_scale():
    made = picture(plots.image_grid(torch.tensor([[-2.0, 0.0, 2.0, 6.0]]), (2, 2)))
    np.testing.assert_allclose(made[1:, 1:], [[0, 0.25], [0.5, 1]])


def test_reconstructions_stand_below_their_originals():
    x, y = torch.zeros(10, 4), torch.ones(10, 4)
    made = picture(plots.reconstructions(x, y, (2, 2)))
    assert made.shape == (4 * 3, 8 * 3)
    assert made[1:3, 1:3].max() == 0
    assert made[4:6, 1:3].min() == 1


def test_learning_curve_shows_train_and_test():
    records = [{"samples_seen": 10**i, "bound": -200.0 / i} for i in range(1, 7)]
    records += [{"samples_seen": 10**i, "test_bound": -210.0 / i, "test_se": 0.5} for i in range(2, 7)]
    axes = plots.learning_curve(records).axes[0]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-200.0 / i for i in range(1, 7)])
    assert len(axes.get_legend().get_texts()) == 2
    plots.learning_curve([])  # a run killed before its first report


def test_latent_space_colours_by_label():
    axes = plots.latent_space(torch.randn(50, 2), torch.arange(50) % 5).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["0", "1", "2", "3", "4"]
    assert plots.latent_space(torch.randn(50, 2)).axes[0].get_legend() is None


def test_no_global_state_of_matplotlib():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.image_grid(torch.rand(3, 4), (2, 2))
    assert dict(mpl.rcParams) == before


def test_the_manifold_of_another_prior_goes_by_its_quantiles():
    """Of N(0, I) drawn, the grid is the exact one within sampling error; of a Gamma, it stays where z is positive."""
    normal = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plots.latent_grid(7, normal), plots.latent_grid(7), rtol=0, atol=0.03)
    assert (plots.latent_grid(7, normal.exp()) > 0).all()
