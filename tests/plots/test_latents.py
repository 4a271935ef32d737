"""Data in latent space: dots, densities, names at the means, one dimension, and principal axes."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import StepPatch
from sklearn.decomposition import PCA

from pyro_aevb import plots
from pyro_aevb.plots import latents
from pyro_aevb.plots.style import COLORS


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dots(axes):
    return [part for part in axes.collections if isinstance(part, PathCollection)]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_class_has_its_colour_its_dots_and_its_name_at_their_mean():
    z, labels = normal(60, 2), torch.arange(60) % 3
    centres = torch.tensor([[-9.0, 0.0], [0.0, 9.0], [9.0, 0.0]], dtype=torch.float64)
    axes = plots.latent_space(z + centres[labels], labels, names=["ash", "beech", "cedar"]).axes[0]
    assert legend(axes) == ["ash", "beech", "cedar"]
    for i, (drawn, text) in enumerate(zip(dots(axes), axes.texts, strict=True)):
        own = (z + centres[labels])[labels == i]
        np.testing.assert_allclose(drawn.get_offsets(), own)
        assert to_rgb(drawn.get_facecolor()[0]) == pytest.approx(to_rgb(COLORS[i]))
        assert text.get_text() == ["ash", "beech", "cedar"][i]
        np.testing.assert_allclose(text.get_position(), own.mean(0), atol=1e-9)


def test_names_at_one_place_are_moved_apart():
    z = normal(400, 2)
    axes = plots.latent_space(z, torch.arange(400) % 4).axes[0]
    low, high = z.amin(0).numpy(), z.amax(0).numpy()
    places = np.array([(np.array(text.get_position()) - low) / (high - low) for text in axes.texts])
    for i in range(4):
        for j in range(i):
            apart = abs(places[i] - places[j])
            assert apart[0] >= latents.NAME_WIDTH - 1e-6 or apart[1] >= latents.NAME_HEIGHT - 1e-6


def test_few_data_have_larger_dots():
    sizes = [dots(plots.latent_space(normal(n, 2)).axes[0])[0].get_sizes()[0] for n in (100, 2000, 5000)]
    assert sizes[0] > sizes[1] >= sizes[2] >= 7


def test_many_data_are_a_density_in_the_colour_of_the_most_frequent_class():
    z = torch.cat([normal(3000, 2), normal(4000, 2, seed=1) + 20])
    labels = torch.cat([torch.zeros(3000), torch.ones(4000)]).long()
    axes = plots.latent_space(z, labels).axes[0]
    assert not dots(axes)
    picture = np.asarray(axes.images[0].get_array())  # (up, right, 4), the lowest line first
    expected = np.histogram2d(z[:, 0].numpy(), z[:, 1].numpy(), latents.CELLS)[0].T
    assert ((picture[..., 3] > 0) == (expected > 0)).all()
    np.testing.assert_allclose(picture[np.unravel_index(expected[:30, :30].argmax(), (30, 30))][:3], to_rgb(COLORS[0]))
    assert picture[..., 3].flatten()[expected.argmax()] == 1  # the fullest cell
    np.testing.assert_allclose(picture[30:, 30:][picture[30:, 30:, 3] > 0][:, :3].mean(0), to_rgb(COLORS[1]))


def test_many_data_without_labels_are_counted_in_cells():
    figure = plots.latent_space(normal(6000, 2))
    cells = [part for part in figure.axes[0].collections if isinstance(part, PolyCollection)]
    assert cells[0].get_array().sum() == 6000
    assert figure.axes[1].get_ylabel() == "data in each cell"


@pytest.mark.parametrize("count", [200, 6000])
def test_numbers_have_a_scale(count):
    labels = torch.linspace(0, 30, count)
    figure = plots.latent_space(normal(count, 2), labels)
    drawn = figure.axes[0].collections[0]
    assert drawn.get_cmap().name == latents.SCALE
    assert len(figure.axes) == 2
    assert drawn.get_array().min() >= 0
    assert drawn.get_array().max() <= 30
    assert figure.axes[0].get_legend() is None


def test_of_many_classes_the_most_frequent_are_named():
    labels = torch.cat([torch.arange(30), torch.arange(20)])
    axes = plots.latent_space(normal(50, 2), labels, names=[f"class {i}" for i in range(30)]).axes[0]
    assert legend(axes) == [f"class {i}" for i in range(20)]
    assert "20 most frequent" in axes.get_legend().get_title().get_text()
    assert sum(len(part.get_offsets()) for part in dots(axes)) == 50
    assert "none" in legend(plots.latent_space(normal(3, 2), torch.tensor([-1, 0, 1]), names=["a", "b"]).axes[0])


def test_one_dimension_is_a_histogram_of_each_class():
    z, labels = normal(300, 1), torch.arange(300) % 3
    axes = plots.latent_space(z, labels, names=["a", "b", "c"]).axes[0]
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "b", "a"]
    for line, (patch, i) in enumerate(zip(steps, (2, 1, 0), strict=True)):
        values, edges, baseline = patch.get_data()
        expected = np.histogram(z[labels == i, 0].numpy(), edges)[0]
        np.testing.assert_allclose((values - line) / 0.85, expected / expected.max())
        assert baseline == line
    plain = plots.latent_space(z).axes[0]
    area = sum(patch.get_height() * patch.get_width() for patch in plain.patches)
    assert area == pytest.approx(1)
    assert plain.get_xlabel() == "z[0]"


def test_principal_axes_are_those_of_scikit_learn():
    z = normal(50, 6) @ normal(6, 6, seed=1)
    ours, shares = plots.principal_axes(z, 3)
    theirs = PCA(3).fit(z.numpy())
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(ours.abs(), np.abs(theirs.transform(z.numpy())), rtol=1e-8)
    again, _ = plots.principal_axes(-z, 3)
    torch.testing.assert_close(again, -ours)  # the sign is fixed by the axes, which are the same
    assert plots.principal_axes(torch.ones(4, 3))[1] == [0, 0]


def test_axes_are_called_as_they_are_told():
    axes = plots.latent_space(normal(9, 2), axis_labels=["first principal axis of z, 80% of the variance"]).axes[0]
    assert axes.get_xlabel() == "first principal axis of z, 80% of the variance"
    assert axes.get_ylabel() == "z[1]"
