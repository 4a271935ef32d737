"""Figures from tensors."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_aevb import InputError, plots


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


def test_each_number_of_channels_keeps_its_place_and_aspect():
    x = torch.rand(1, 2 * 3 * 5)
    two_first = picture(plots.image_grid(x, (2, 3, 5)))  # two grey pictures, 3 by 5, side by side
    np.testing.assert_allclose(two_first[1:, 1:6], x.view(2, 3, 5)[0])
    np.testing.assert_allclose(two_first[1:, 6:], x.view(2, 3, 5)[1])
    y = torch.rand(1, 4 * 5 * 2)
    two_last = picture(plots.image_grid(y, (4, 5, 2)))
    np.testing.assert_allclose(two_last[1:, 6:], y.view(4, 5, 2)[..., 1])


@pytest.mark.parametrize("first", [True, False])
def test_colours_are_shown_as_colours(first):
    x = torch.rand(1, 3, 4, 6)
    shape, row = ((3, 4, 6), x) if first else ((4, 6, 3), x.movedim(1, -1))
    made = picture(plots.image_grid(row.reshape(1, -1), shape))
    np.testing.assert_allclose(made[1:, 1:], x[0].movedim(0, -1), atol=1e-6)


def test_pixels_are_square_whatever_the_shape():
    axes = plots.image_grid(torch.rand(6, 28 * 20), (28, 20)).axes[0]
    assert axes.get_aspect() == 1
    assert axes.images[0].get_extent() == [0, 3 * 21, 2 * 29, 0]


def test_values_beyond_the_unit_interval_stretch_the_scale():
    made = picture(plots.image_grid(torch.tensor([[-2.0, 0.0, 2.0, 6.0]]), (2, 2)))
    np.testing.assert_allclose(made[1:, 1:], [[0, 0.25], [0.5, 1]])


def test_reconstructions_stand_below_their_originals():
    x, y = torch.zeros(10, 4), torch.ones(10, 4)
    made = picture(plots.reconstructions(x, y, (2, 2)))
    assert made.shape == (4 * 3, 8 * 3)
    assert made[1:3, 1:3].max() == 0
    assert made[4:6, 1:3].min() == 1
    assert made[7:9, 1:3].max() == 0  # the ninth datum
    assert made[6:, 6:].min() == 1  # after the tenth there are none


def test_reconstructions_say_which_line_is_which():
    axes = plots.reconstructions(torch.zeros(10, 4), torch.ones(10, 4), (2, 2)).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["data", "reconstructed"] * 2
    np.testing.assert_allclose(axes.get_yticks(), [1.5, 4.5, 7.5, 10.5])  # middles of lines 3 pixels high


@pytest.mark.parametrize("side", [4, 5, 20])
def test_a_manifold_has_its_latents_on_the_axes(side):
    z = plots.latent_grid(side)
    axes = plots.manifold(torch.rand(side * side, 6), (2, 3), latents=z).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    for axis, height, numbers in ((axes.xaxis, 4, z[:side, 0]), (axes.yaxis, 3, z.view(side, side, 2)[:, 0, 1])):
        for place, text in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
            tile = int(place // height)  # the label stands in the middle of the picture of its latent
            assert float(text.get_text()) == pytest.approx(numbers[tile].item(), abs=0.06)
    assert len(axes.get_xticks()) >= 4


def test_a_manifold_of_unknown_latents_has_quantiles():
    axes = plots.manifold(torch.rand(25, 6), (2, 3)).axes[0]
    assert axes.get_xlabel() == "z[0], quantile of the prior"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    with pytest.raises(InputError, match=r"latents must be of shape \(25, 2\)"):
        plots.manifold(torch.rand(25, 6), (2, 3), latents=plots.latent_grid(4))


def test_the_manifold_of_another_prior_goes_by_its_quantiles():
    """Of N(0, I) drawn, the grid is the exact one within sampling error; of a Gamma, it stays where z is positive."""
    normal = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plots.latent_grid(7, normal), plots.latent_grid(7), rtol=0, atol=0.03)
    assert (plots.latent_grid(7, normal.exp()) > 0).all()
