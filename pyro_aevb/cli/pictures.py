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
from pyro_aevb.data import Rows
from pyro_aevb.data.schema import Column
from pyro_aevb.errors import InputError
from pyro_aevb.plots.checked import is_image
from pyro_aevb.priors import StandardNormal
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.run import Run
from pyro_aevb.runs.tables import condition_of, sampled
from pyro_aevb.seeds import derive, seeded

MOST_ROWS = 5000  # that histograms of columns are of
HEAT_ROWS = 30  # of the heat map
PREDICTED_ROWS = 1000  # that predictions are compared with
LATENT_ROWS = 20_000  # in latent space
REDRAWN = 200  # draws of each row that its predictive interval is of
LEVEL = 0.9  # of values that it is to cover

__all__ = ["PlotOptions", "SampleOptions", "figures_of", "plot", "sample"]


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

    Of a table, or of rows that are no pictures, it draws in place of pictures the columns beside those that the model
    draws, rows beside their reconstructions as a heat map, and what the model predicts of each column against what was
    observed.

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
    for name, draw in figures_of(run, config).items():
        print(plots.save(draw(), run.folder.figure(name)))


def _check_memory(option: str, value: int, run: Run, pictures: int | None = None) -> None:
    """Refuse what this machine cannot hold: Linux would promise the memory, and kill the process that uses it."""
    needed = 4 * (pictures or value) * (run.data.dim + run.config.latent_dim)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise InputError(f"--{option} {value} takes {needed / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.0f}")


def figures_of(run: Run, config: PlotOptions) -> dict[str, Callable[[], Figure]]:
    """What ``plot`` draws of a run: by the name of each figure, a function that draws it.

    Arguments:
        run: The run.
        config: How many data, and how they are shown.
    """
    if run.data.schema.columns or not is_image(run.data.shape):
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
        figures["manifold"] = lambda: _manifold_figure(run, config)
    return figures


def _figures_of_table(run: Run, config: PlotOptions) -> dict[str, Callable[[], Figure]]:
    """The figures of a table: of its columns and rows beside those that the model makes, in place of pictures."""
    return {
        "learning_curve": lambda: plots.learning_curve(run.metrics, run.title),
        "columns": lambda: _columns(run, config.seed),
        "heat_map": lambda: _heat_map(run, config.seed),
        "predicted_against_observed": lambda: _predicted(run, config.seed),
        "latent_space": lambda: _latent_space(run),
    }


def _known(run: Run) -> tuple[Column, ...]:
    """The columns of the data; of an array numbered ones, binary where they have no numbers but 0 and 1."""
    if run.data.schema.columns:
        return run.data.schema.columns
    rows = run.data.rows("test").x
    binary = ((rows == 0) | (rows == 1) | rows.isnan()).all(0).tolist()
    return tuple(Column(f"x{i}", "binary" if each else "real") for i, each in enumerate(binary))


def _columns(run: Run, seed: int) -> Figure:
    """Each training row beside one drawn with the same condition and exposure."""
    rows = run.data.rows("train").first(MOST_ROWS)
    known = _known(run)
    names = [column.name for column in known]
    return plots.columns(rows.x, _drawn(run, rows, seed), names, [column.categories for column in known], run.title)


def _drawn(run: Run, rows: Rows, seed: int) -> Tensor:
    """As many rows as there are, drawn from the model with their conditions and exposures, ``(N, D)``."""
    beside = rows.beside
    drawn = predictions.sample(run.model, len(rows.x), condition=beside.condition, exposure=beside.exposure, seed=seed)
    return drawn.cpu()


def _heat_map(run: Run, seed: int) -> Figure:
    """The first test rows, their reconstructions, and rows drawn from the model."""
    rows = run.data.rows("test").first(HEAT_ROWS)
    tables = {
        "data": rows.x,
        "reconstructions": predictions.reconstruct(run.model, run.guide, rows.arguments).cpu(),
        "drawn from the model": _drawn(run, rows, seed),
    }
    return plots.heat_map(tables, [column.name for column in _known(run)], f"{run.title}; test data")


def _predicted(run: Run, seed: int) -> Figure:
    """Each test row's values against what the model makes of the row: p(x'|x), with z from q(z|x)."""
    rows = run.data.rows("test").first(PREDICTED_ROWS)
    draws = _redrawn(run, rows, seed)  # (S, B, D)
    known = _known(run)
    tail = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=draws.dtype)
    low, high = draws.quantile(tail, dim=0)
    probability = torch.tensor([column.kind == "binary" for column in known])
    made = predictions.reconstruct(run.model, run.guide, rows.arguments).cpu()
    return plots.predicted_against_observed(
        rows.x,
        torch.where(probability, draws.mean(0).to(made), made),
        [column.name for column in known],
        kinds=[column.kind for column in known],
        categories=[column.categories for column in known],
        interval=(low, high),
        level=LEVEL,
        title=f"{run.title}\neach of {len(rows.x):,} test rows as the model reconstructs it from the row itself",
    )


@torch.no_grad()
def _redrawn(run: Run, rows: Rows, seed: int) -> Tensor:
    """Draws of each row anew, x' from p(x|z) with z from q(z|x), ``(S, B, D)``."""
    z = predictions.encode(run.guide, rows.arguments, REDRAWN, seed=seed).draws.to(run.device)  # (S, B, K)
    beside = {name: part.to(run.device) for name, part in rows.beside.tensors().items()}
    with seeded(derive(seed, "evaluation"), run.device):
        return torch.stack([run.model.likelihood_at(each, **beside).sample().cpu() for each in z])


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


def _manifold_figure(run: Run, config: PlotOptions) -> Figure:
    means, z = _manifold(run, config)
    return plots.manifold(means, run.data.shape, run.title, z)


@torch.no_grad()
def _manifold(run: Run, config: PlotOptions) -> tuple[Tensor, Tensor]:
    """Means of p(x|z,c) over the grid of latents, ``(side * side, D)``, at one condition, by default the first; z."""
    beside = _beside(run, config.condition, 1)
    one = {name: None if part is None else part.to(run.device) for name, part in beside.items()}
    z = _manifold_latents(run, config.side, one["condition"]).to(run.device)
    each = {name: None if part is None else part.expand(len(z), *part.shape[1:]) for name, part in one.items()}
    return run.model.likelihood_at(z, **each).mean.cpu(), z.cpu()


def _manifold_latents(run: Run, side: int, condition: Tensor | None) -> Tensor:
    prior = run.model.prior
    if isinstance(prior, StandardNormal):
        return plots.latent_grid(side)
    with seeded(derive(0, "evaluation"), run.device):
        made = run.model.prior_at(condition, torch.zeros((), device=run.device))
        return plots.latent_grid(side, made.sample((10_000,)).reshape(-1, prior.latent_dim))


def _latent_space(run: Run) -> Figure:
    """Posterior means of the test data; along their two principal axes where z has more dimensions than two."""
    z = evidence.posterior_means(run.guide, run.data.rows("test").first(LATENT_ROWS).arguments).cpu()
    labels = None if run.data.labels_test is None else run.data.labels_test[: len(z)]
    column = run.data.schema.labels
    coloured = "" if labels is None else f", coloured by {'label' if column in (None, 'labels') else column}"
    title = f"{run.title}\nposterior means of {len(z):,} test data{coloured}"
    axes: list[str] = []
    if z.shape[1] > 2 and len(z) > 1:
        count = z.shape[1]
        z, shares = plots.principal_axes(z)
        words = zip(("first", "second"), shares, strict=True)
        axes = [f"{which} principal axis of z, {share:.0%} of the variance" for which, share in words]
        title += f", {count} latents along the two axes in which they vary most"
    return plots.latent_space(z, labels, title, "posterior mean of z", run.data.label_names, axes)
