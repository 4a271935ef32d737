"""``pyro-aevb sample`` and ``pyro-aevb plot``: pictures of a saved run."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb import evidence, plots
from pyro_aevb.errors import InputError
from pyro_aevb.files import refuse_existing, replaced
from pyro_aevb.priors import StandardNormal
from pyro_aevb.runs.build import Loaded, load_run
from pyro_aevb.runs.parser import Parser
from pyro_aevb.seeds import derive, seeded

__all__ = ["plot", "plot_options", "plot_parser", "sample", "sample_options", "sample_parser"]


def sample_options(
    run: str,
    count: int = 100,
    draw: Literal["mean", "x"] = "mean",
    checkpoint: Literal["last", "best"] = "last",
    seed: int = 0,
    device: str = "auto",
    data_root: str | None = None,
    out: str | None = None,
    trust: str | None = None,
) -> None:
    """Draw from a saved run's model: z from its own prior, then p(x|z).

    Args:
        run: Folder of the run, which train made.
        count: Number of samples.
        draw: What to show of each p(x|z): its mean, as the paper does, or a draw x.
        checkpoint: Which of the run's two saved states: the last one, or the one with the best bound on test data.
        seed: Seed of the draws.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        out: A new .png file, or .npy for the values; by default samples.png among the run's figures.
        trust: Modules of your own, separated by commas, whose classes the run's configuration may name.
    """


def plot_options(
    run: str,
    checkpoint: Literal["last", "best"] = "last",
    count: int = 100,
    side: int = 20,
    seed: int = 0,
    device: str = "auto",
    data_root: str | None = None,
    trust: str | None = None,
) -> None:
    """Draw all figures of a saved run: learning curve, samples, reconstructions, latent space, manifold.

    Args:
        run: Folder of the run, which train made.
        checkpoint: Which of the run's two saved states: the last one, or the one with the best bound on test data.
        count: Number of samples shown.
        side: Pictures in a row and in a column of the manifold, which only two latent dimensions have.
        seed: Seed of the samples.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        trust: Modules of your own, separated by commas, whose classes the run's configuration may name.
    """


def sample_parser() -> Parser:
    """The parser of ``pyro-aevb sample``."""
    return Parser.of(sample_options, "pyro-aevb sample")


def plot_parser() -> Parser:
    """The parser of ``pyro-aevb plot``."""
    return Parser.of(plot_options, "pyro-aevb plot")


def sample(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb sample``."""
    config = sample_parser().parse(arguments)
    _check_count("count", config.count)
    out = Path(config.out) if config.out else None
    if out is not None:
        refuse_existing(out)
        if out.suffix not in (".png", ".npy"):
            raise InputError(f"--out {out}: give a file that ends in .png or .npy")
    loaded = load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)
    _check_memory(config.count, loaded)
    values = draw_samples(loaded, config.count, config.seed, mean=config.draw == "mean")
    path = out or loaded.run.figure("samples")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        with replaced(path) as file:
            np.save(file, values.view(-1, *loaded.data.shape).numpy())
    else:
        plots.save(plots.image_grid(values, loaded.data.shape, title=loaded.title), path)
    print(path)


def plot(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb plot``."""
    config = plot_parser().parse(arguments)
    _check_count("count", config.count)
    _check_count("side", config.side)
    loaded = load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)
    _check_memory(max(config.count, config.side**2), loaded)
    for name, draw in _figures(loaded, config.count, config.side, config.seed).items():
        print(plots.save(draw(), loaded.run.figure(name)))


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"--{name} must be at least 1, not {value}")


def _check_memory(count: int, loaded: Loaded) -> None:
    """Refuse what this machine cannot hold: Linux would promise the memory, and kill the process that uses it."""
    needed = 4 * count * (loaded.data.dim + loaded.config.latent_dim)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise InputError(f"--count={count} takes {needed / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.0f}")


def _figures(loaded: Loaded, count: int, side: int, seed: int) -> dict[str, Callable[[], Figure]]:
    shape = loaded.data.shape
    title = loaded.title
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curve": lambda: plots.learning_curve(loaded.run.metrics(), title),
        "samples": lambda: plots.image_grid(draw_samples(loaded, count, seed), shape, title=title),
        "reconstructions": lambda: plots.reconstructions(*reconstruct(loaded, 32), shape, title=title),
        "latent_space": lambda: _latent_space(loaded),
    }
    if loaded.config.latent_dim == 2:
        figures["manifold"] = lambda: plots.manifold(_means(loaded, _manifold_latents(loaded, side)), shape, title)
    return figures


@torch.no_grad()
def _manifold_latents(loaded: Loaded, side: int) -> Tensor:
    prior = loaded.pair.model.prior
    if isinstance(prior, StandardNormal):
        return plots.latent_grid(side)
    with seeded(derive(0, "evaluation"), loaded.device):
        return plots.latent_grid(side, prior().sample((10_000,)))


@torch.no_grad()
def draw_samples(loaded: Loaded, count: int, seed: int, mean: bool = True) -> Tensor:
    """Samples of the model from its own prior: mean of p(x|z), or x itself, ``(count, D)``."""
    with seeded(derive(seed, "evaluation"), loaded.device):
        z = loaded.pair.model.prior().expand((count,)).sample()
        distribution = loaded.pair.model.likelihood(z)
        return (distribution.mean if mean else distribution.sample()).cpu()


def reconstruct(loaded: Loaded, count: int) -> tuple[Tensor, Tensor]:
    """The first test data, and the mean of p(x|z) at their posterior means, ``(count, D)`` each."""
    x = loaded.data.test[:count]
    return x, _means(loaded, evidence.posterior_means(loaded.pair.guide, x))


@torch.no_grad()
def _means(loaded: Loaded, z: Tensor) -> Tensor:
    return loaded.pair.model.likelihood(z.to(loaded.device)).mean.cpu()


def _latent_space(loaded: Loaded) -> Figure:
    """Posterior means of the test data; their first two principal components where there are more than two."""
    z = evidence.posterior_means(loaded.pair.guide, loaded.data.test[:5000]).cpu()
    axis_name = "posterior mean, latent"
    if z.shape[1] > 2 and len(z) > 1:
        from sklearn.decomposition import PCA  # a second to import, so only where it is used

        z = torch.from_numpy(PCA(2).fit_transform(z.numpy()))
        axis_name = "posterior mean, principal component"
    if z.shape[1] == 1:
        z = torch.cat([z, torch.zeros_like(z)], dim=1)
    labels = loaded.data.labels_test
    return plots.latent_space(z, None if labels is None else labels[: len(z)], loaded.title, axis_name)
