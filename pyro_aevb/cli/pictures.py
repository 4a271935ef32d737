"""``pyro-aevb sample`` and ``pyro-aevb plot``: pictures of a saved run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb import evidence, plots, predictions
from pyro_aevb.cli.options import RunOptions, check_count, check_table, opened
from pyro_aevb.cli.outputs import ARRAYS, write_values
from pyro_aevb.errors import InputError
from pyro_aevb.priors import StandardNormal
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.run import Run
from pyro_aevb.runs.tables import condition_of, sampled
from pyro_aevb.seeds import derive, seeded

MOST_ROWS = 5000  # that the picture of a table is of

__all__ = ["PlotOptions", "SampleOptions", "plot", "sample"]


@dataclass(frozen=True)
class SampleOptions(RunOptions):
    """Draw from a saved run's model: z from its own prior, then p(x|z).

    Arguments:
        count: Number of samples.
        draw: What to show of each p(x|z): its mean, as the paper does, or a draw x.
        condition: What to condition on, a category or the value of each column of the condition, separated by commas;
            by default each category in turn.
        exposure: Exposure of each sample, where the model was trained with one; by default 1.
        out: A new .png file; .csv, .parquet or .npy for the values; by default sample_mean.png or sample_x.png among
            the run's figures, of a table sample_mean.csv or sample_x.csv, which replaces that of an earlier call.
    """

    count: int = 100
    draw: Literal["mean", "x"] = "mean"
    condition: str | None = None
    exposure: float | None = None
    out: str | None = None


@dataclass(frozen=True)
class PlotOptions(RunOptions):
    """Draw all figures of a saved run: learning curve, samples, reconstructions, latent space, manifold.

    Of a table it draws its columns, beside those that the model draws, in place of pictures.

    They go to the folder figures of the run, where they replace those of an earlier call.

    Arguments:
        count: Number of samples shown.
        side: Pictures in a row and in a column of the manifold, which only two latent dimensions have.
        condition: What samples and manifold are conditioned on, a category or the value of each column of the
            condition, separated by commas; by default samples of each category in turn, and the manifold of the first.
    """

    count: int = 100
    side: int = 20
    condition: str | None = None


def sample(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb sample``."""
    config = read_options(SampleOptions, "sample", arguments)
    check_count("count", config.count)
    out: Path | None = None
    if config.out:
        out = check_table(config.out, ARRAYS)
    run = opened(config)
    _check_memory("count", config.count, run)
    mean = config.draw == "mean"
    values, rows = sampled(run, config.count, config.condition, config.exposure, mean, config.seed)
    place = run.folder.figure(f"sample_{config.draw}")
    path = out or (place.with_suffix(".csv") if run.data.schema.columns else place)
    write_values(run, values, path, rows)
    print(path)


def plot(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb plot``."""
    config = read_options(PlotOptions, "plot", arguments)
    check_count("count", config.count)
    check_count("side", config.side)
    run = opened(config)
    _check_memory("count", config.count, run)
    _check_memory("side", config.side, run, config.side**2)
    run.data.rows("test")  # without which nothing is drawn
    for name, draw in _figures(run, config).items():
        print(plots.save(draw(), run.folder.figure(name)))


def _check_memory(option: str, value: int, run: Run, pictures: int | None = None) -> None:
    """Refuse what this machine cannot hold: Linux would promise the memory, and kill the process that uses it."""
    needed = 4 * (pictures or value) * (run.data.dim + run.config.latent_dim)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise InputError(f"--{option} {value} takes {needed / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.0f}")


def _figures(run: Run, config: PlotOptions) -> dict[str, Callable[[], Figure]]:
    if run.data.schema.columns:
        return _figures_of_table(run, config)
    shape = run.data.shape
    title = run.title
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curve": lambda: plots.learning_curve(run.metrics, title),
        "samples": lambda: plots.image_grid(_samples(run, config), shape, title=f"{title}{_in_turn(run, config)}"),
        "reconstructions": lambda: plots.reconstructions(*_reconstructions(run, 32), shape, title=title),
        "latent_space": lambda: _latent_space(run),
    }
    if run.config.latent_dim == 2:
        figures["manifold"] = lambda: plots.manifold(_manifold(run, config), shape, title)
    return figures


def _figures_of_table(run: Run, config: PlotOptions) -> dict[str, Callable[[], Figure]]:
    """The figures of a table: histograms of its columns beside those that the model draws, in place of pictures."""
    return {
        "learning_curve": lambda: plots.learning_curve(run.metrics, run.title),
        "columns": lambda: _columns(run, config.seed),
        "latent_space": lambda: _latent_space(run),
    }


def _columns(run: Run, seed: int) -> Figure:
    """Each training row beside one drawn with the same condition and exposure."""
    rows = run.data.rows("train").first(MOST_ROWS)
    made = predictions.sample(
        run.model, len(rows.x), condition=rows.beside.condition, exposure=rows.beside.exposure, seed=seed
    )
    drawn = made.cpu()
    known = run.data.schema.columns
    names = [column.name for column in known]
    return plots.columns(rows.x, drawn, names, [column.categories for column in known], run.title)


def _in_turn(run: Run, config: PlotOptions) -> str:
    """Which class stands where."""
    condition = run.data.schema.condition
    if config.condition or len(condition) != 1 or condition[0].kind != "category":
        return "" if config.condition is None else f"; {config.condition}"
    names = condition[0].categories
    return f"\n{condition[0].name} in turn: {', '.join(names[:10])}{' ...' * (len(names) > 10)}"


def _samples(run: Run, config: PlotOptions) -> Tensor:
    """Means of p(x|z,c) at draws from the prior, ``(count, D)``, each category in turn or at the condition given."""
    given = _beside(run, config.condition, config.count)
    return predictions.sample(run.model, config.count, **given, mean=True, seed=config.seed).cpu()


def _beside(run: Run, condition: str | None, count: int) -> dict[str, Tensor | None]:
    """Condition and exposure of so many samples; exposures, and covariates not given, are the test data's."""
    rows = run.data.rows("test")
    again = torch.arange(count) % len(rows.x)
    covariates = rows.beside.condition is not None and rows.beside.condition.is_floating_point()
    chosen = None if rows.beside.condition is None or not covariates or condition else rows.beside.condition[again]
    given = condition_of(run.data.schema, condition, count) if chosen is None else chosen
    return {"condition": given, "exposure": None if rows.beside.exposure is None else rows.beside.exposure[again]}


def _reconstructions(run: Run, count: int) -> tuple[Tensor, Tensor]:
    """The first test data, and the mean of p(x|z) at their posterior means, ``(count, D)`` each; a gap is zero."""
    rows = run.data.rows("test").first(count)
    made = predictions.reconstruct(run.model, run.guide, rows.arguments)
    return rows.x.nan_to_num(0.0), made.cpu()


@torch.no_grad()
def _manifold(run: Run, config: PlotOptions) -> Tensor:
    """Means of p(x|z,c) over the grid of latents, ``(side * side, D)``, at one condition: by default the first."""
    beside = _beside(run, config.condition, 1)
    one = {name: None if part is None else part.to(run.device) for name, part in beside.items()}
    z = _manifold_latents(run, config.side, one["condition"]).to(run.device)
    each = {name: None if part is None else part.expand(len(z), *part.shape[1:]) for name, part in one.items()}
    return run.model.likelihood_at(z, **each).mean.cpu()


def _manifold_latents(run: Run, side: int, condition: Tensor | None) -> Tensor:
    prior = run.model.prior
    if isinstance(prior, StandardNormal):
        return plots.latent_grid(side)
    with seeded(derive(0, "evaluation"), run.device):
        made = run.model.prior_at(condition, torch.zeros((), device=run.device))
        return plots.latent_grid(side, made.sample((10_000,)).reshape(-1, prior.latent_dim))


def _latent_space(run: Run) -> Figure:
    """Posterior means of the test data; their two leading principal components where z has more dimensions than two."""
    z = evidence.posterior_means(run.guide, run.data.rows("test").first(5000).arguments).cpu()
    axes: dict[str, str | list[float]] = {}
    if z.shape[1] > 2 and len(z) > 1:
        from sklearn.decomposition import PCA  # a second to import, so only where it is used

        z = torch.from_numpy(PCA(2).fit_transform(z.numpy()))
        axes = {f"{axis}label": f"{which} principal component" for axis, which in (("x", "first"), ("y", "second"))}
    if z.shape[1] == 1:
        z = torch.cat([z, torch.zeros_like(z)], dim=1)
        axes = {"ylabel": "", "yticks": []}
    labels = None if run.data.labels_test is None else run.data.labels_test[: len(z)]
    column = run.data.schema.labels
    coloured = "" if labels is None else f", coloured by {'label' if column in (None, 'labels') else column}"
    title = f"{run.title}\nposterior means of {len(z):,} test data{coloured}"
    figure = plots.latent_space(z, labels, title, "posterior mean of z", run.data.label_names)
    figure.axes[0].set(**axes)
    return figure
