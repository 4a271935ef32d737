"""``pyro-aevb plot``: which figures there are, and what they show of a run."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import pyro_aevb as aevb
from pyro_aevb.cli import pictures
from tests.commands import train


def figures(run, **options):
    """The run's figures by name, drawn."""
    made = pictures.figures_of(run, pictures.PlotOptions(str(run.path), **options))
    return {name: draw() for name, draw in made.items()}


def test_principal_axes_say_how_much_of_the_variance_they_have(cli):
    train(cli, "--latent_dim=5")
    run = aevb.load_run("run")
    axes = figures(run, count=4)["latent_space"].axes[0]
    z = aevb.evidence.posterior_means(run.guide, run.data.test).double()
    first, second = PCA(2).fit(z.numpy()).explained_variance_ratio_
    assert axes.get_xlabel() == f"first principal axis of z, {first:.0%} of the variance"
    assert axes.get_ylabel() == f"second principal axis of z, {second:.0%} of the variance"
    assert "5 latents along the two axes in which they vary most" in axes.get_title().replace("\n", " ")
    assert sum(len(part.get_offsets()) for part in axes.collections) == len(z)


def test_one_and_two_latents_are_shown_as_they_are(cli):
    train(cli, "--latent_dim=1", out="one")
    assert figures(aevb.load_run("one"), count=4)["latent_space"].axes[0].get_xlabel() == "posterior mean of z[0]"
    train(cli, "--latent_dim=2", out="two")
    drawn = figures(aevb.load_run("two"), count=4, side=4)
    assert drawn["latent_space"].axes[0].get_ylabel() == "posterior mean of z[1]"
    right = [float(text.get_text()) for text in drawn["manifold"].axes[0].get_xticklabels()]
    np.testing.assert_allclose(right, aevb.plots.latent_grid(4)[:4, 0], atol=0.06)


def test_a_manifold_of_another_prior_has_that_priors_latents(cli):
    train(cli, "--prior=Laplace", "--latent_dim=2")
    axes = figures(aevb.load_run("run"), count=4, side=5)["manifold"].axes[0]
    right = [float(text.get_text()) for text in axes.get_xticklabels()]
    scale = aevb.load_run("run").model.prior().base_dist.scale[0].item()
    expected = scale * np.sign([-4, -2, 0, 2, 4]) * -np.log1p(-np.abs([-0.8, -0.4, 0, 0.4, 0.8]))
    np.testing.assert_allclose(right, expected, atol=0.15 * scale)  # the quantiles of 10,000 draws


def test_rows_that_are_no_pictures_are_drawn_as_a_table(cli, tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3))
    x[:, 2] = x[:, 2] > 0
    np.save(tmp_path / "mine.npy", x)
    train(cli, "--data=mine.npy", "--likelihood=Gaussian", "--hidden=4")
    drawn = figures(aevb.load_run("run"), count=4)
    assert list(drawn) == ["learning_curve", "columns", "heat_map", "predicted_against_observed", "latent_space"]
    assert [axes.get_title() for axes in drawn["heat_map"].axes[:3]] == [
        "data",
        "reconstructions",
        "drawn from the model",
    ]
    titles = [axes.get_title().split("\n") for axes in drawn["predicted_against_observed"].axes]
    assert [title[0] for title in titles] == ["x0", "x1", "x2"]
    assert titles[2][1] == "calibration"


def test_predictions_of_a_table_are_reconstructions_with_intervals_of_draws(cli, tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 2))
    np.save(tmp_path / "mine.npy", x)
    train(cli, "--data=mine.npy", "--likelihood=Gaussian", "--hidden=4")
    run = aevb.load_run("run")
    axes = figures(run, count=4)["predicted_against_observed"].axes[0]
    lines, dots = axes.collections
    made = aevb.predictions.reconstruct(run.model, run.guide, run.data.test)
    np.testing.assert_allclose(dots.get_offsets(), torch.stack([run.data.test[:, 0], made[:, 0]], 1), rtol=1e-5)
    with torch.no_grad():
        z = aevb.predictions.encode(run.guide, run.data.test, 4000, seed=5).draws
        drawn = run.model.likelihood_at(z.flatten(0, 1)).sample().view(4000, -1, 2)[..., 0]
    for q, end in ((0.05, 0), (0.95, 1)):
        ends = [segment[end, 1] for segment in lines.get_segments()]
        error = np.abs(ends - drawn.quantile(q, dim=0).numpy()) / drawn.std(0).numpy()
        assert error.mean() < 0.2  # the quantile of 200 draws has a standard error of 0.15 standard deviations


def test_arrays_with_channels_are_pictures(cli, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random(size=(100, 3, 4, 6)).astype(np.float32))
    train(cli, "--data=mine.npy", "--likelihood=Gaussian", "--hidden=4", "--latent_dim=3")
    drawn = figures(aevb.load_run("run"), count=4)
    shown = drawn["samples"].axes[0].images[0].get_array()
    assert shown.shape == (2 * 5, 2 * 7, 3)
    assert drawn["samples"].axes[0].get_aspect() == 1


@pytest.mark.parametrize("command", ["plot", "diagnose"])
def test_figures_of_a_run_are_written(command, cli, tmp_path):
    train(cli)
    words = ["--count=4", "--side=2"] if command == "plot" else ["--count=20", "--gap_count=0"]
    assert cli(command, "run", *words)[0] == 0
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (tmp_path / "run/figures").iterdir())
