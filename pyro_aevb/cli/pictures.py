"""``pyro-aevb sample`` and ``pyro-aevb plot``: pictures of a saved run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb import evidence, plots
from pyro_aevb.cli.options import RunOptions, check_count, opened
from pyro_aevb.errors import InputError
from pyro_aevb.files import check_place, refuse_existing, replaced
from pyro_aevb.priors import StandardNormal
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.run import Run
from pyro_aevb.seeds import derive, seeded

__all__ = ["PlotOptions", "SampleOptions", "plot", "sample"]


@dataclass(frozen=True)
class SampleOptions(RunOptions):
    """Draw from a saved run's model: z from its own prior, then p(x|z).

    Arguments:
        count: Number of samples.
        draw: What to show of each p(x|z): its mean, as the paper does, or a draw x.
        out: A new .png file, or .npy for the values; by default sample_mean.png or sample_x.png among the run's
            figures, which replaces that of an earlier call.
    """

    count: int = 100
    draw: Literal["mean", "x"] = "mean"
    out: str | None = None


@dataclass(frozen=True)
class PlotOptions(RunOptions):
    """Draw all figures of a saved run: learning curve, samples, reconstructions, latent space, manifold.

    They go to the folder figures of the run, where they replace those of an earlier call.

    Arguments:
        count: Number of samples shown.
        side: Pictures in a row and in a column of the manifold, which only two latent dimensions have.
    """

    count: int = 100
    side: int = 20


def sample(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb sample``."""
    config = read_options(SampleOptions, "sample", arguments)
    check_count("count", config.count)
    out = Path(config.out) if config.out else None
    if out is not None:
        _check_out(out)
    run = opened(config)
    _check_memory("count", config.count, run)
    values = draw_samples(run, config.count, config.seed, mean=config.draw == "mean")
    path = out or run.folder.figure(f"sample_{config.draw}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        with replaced(path) as file:
            np.save(file, values.view(-1, *run.data.shape).numpy())
    else:
        plots.save(plots.image_grid(values, run.data.shape, title=run.title), path)
    print(path)


def _check_out(out: Path) -> None:
    """A new file of a kind that can be written."""
    check_place("out", out)
    refuse_existing(out)
    if out.suffix not in (".png", ".npy"):
        raise InputError(f"--out {out}: give a file that ends in .png or .npy")


def plot(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb plot``."""
    config = read_options(PlotOptions, "plot", arguments)
    check_count("count", config.count)
    check_count("side", config.side)
    run = opened(config)
    _check_memory("count", config.count, run)
    _check_memory("side", config.side, run, config.side**2)
    for name, draw in _figures(run, config.count, config.side, config.seed).items():
        print(plots.save(draw(), run.folder.figure(name)))


def _check_memory(option: str, value: int, run: Run, pictures: int | None = None) -> None:
    """Refuse what this machine cannot hold: Linux would promise the memory, and kill the process that uses it."""
    needed = 4 * (pictures or value) * (run.data.dim + run.config.latent_dim)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise InputError(f"--{option} {value} takes {needed / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.0f}")


def _figures(run: Run, count: int, side: int, seed: int) -> dict[str, Callable[[], Figure]]:
    shape = run.data.shape
    title = run.title
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curve": lambda: plots.learning_curve(run.metrics, title),
        "samples": lambda: plots.image_grid(draw_samples(run, count, seed), shape, title=title),
        "reconstructions": lambda: plots.reconstructions(*reconstruct(run, 32), shape, title=title),
        "latent_space": lambda: _latent_space(run),
    }
    if run.config.latent_dim == 2:
        figures["manifold"] = lambda: plots.manifold(_means(run, _manifold_latents(run, side)), shape, title)
    return figures


@torch.no_grad()
def _manifold_latents(run: Run, side: int) -> Tensor:
    prior = run.model.prior
    if isinstance(prior, StandardNormal):
        return plots.latent_grid(side)
    with seeded(derive(0, "evaluation"), run.device):
        return plots.latent_grid(side, prior().sample((10_000,)))


@torch.no_grad()
def draw_samples(run: Run, count: int, seed: int, mean: bool = True) -> Tensor:
    """Samples of the model from its own prior: mean of p(x|z), or x itself, ``(count, D)``."""
    with seeded(derive(seed, "evaluation"), run.device):
        z = run.model.prior().expand((count,)).sample()
        distribution = run.model.likelihood(z)
        return (distribution.mean if mean else distribution.sample()).cpu()


def reconstruct(run: Run, count: int) -> tuple[Tensor, Tensor]:
    """The first test data, and the mean of p(x|z) at their posterior means, ``(count, D)`` each."""
    x = run.data.test[:count]
    return x, _means(run, evidence.posterior_means(run.guide, x))


@torch.no_grad()
def _means(run: Run, z: Tensor) -> Tensor:
    return run.model.likelihood(z.to(run.device)).mean.cpu()


def _latent_space(run: Run) -> Figure:
    """Posterior means of the test data; their first two principal components where there are more than two."""
    z = evidence.posterior_means(run.guide, run.data.test[:5000]).cpu()
    axis_name = "posterior mean, latent"
    if z.shape[1] > 2 and len(z) > 1:
        from sklearn.decomposition import PCA  # a second to import, so only where it is used

        z = torch.from_numpy(PCA(2).fit_transform(z.numpy()))
        axis_name = "posterior mean, principal component"
    if z.shape[1] == 1:
        z = torch.cat([z, torch.zeros_like(z)], dim=1)
    labels = run.data.labels_test
    return plots.latent_space(z, None if labels is None else labels[: len(z)], run.title, axis_name)
