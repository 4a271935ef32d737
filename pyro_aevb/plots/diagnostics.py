"""One figure of a pair's diagnostics: what each dimension carries, where q(z) lies, and what the bound misses."""

import textwrap

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from pyro_aevb.diagnostics import AggregatePosterior, Diagnostics, Gaps, LatentKL, mean_of
from pyro_aevb.diagnostics.latents import name_of
from pyro_aevb.errors import instance
from pyro_aevb.plots.style import COLORS, SMALL, WIDEST, color, entitle, in_style, panels_of, with_error

__all__ = ["draw_diagnostics"]

SHOWN = 4
"""Number of dimensions whose aggregate posterior is shown."""


@in_style
def draw_diagnostics(found: Diagnostics, title: str = "") -> Figure:
    """What a diagnosis found, in one figure.

    Above, the KL of each latent dimension, the largest first, and beside it, where the gaps were measured, the steps
    from the bound to log p(x). Below, for the four dimensions of the largest KL, a histogram of draws from the
    aggregate posterior q(z), the mean of q(z|x) over data, with the outline of draws from the prior, and the
    Kolmogorov-Smirnov (KS) distance of the two, the largest difference of their CDFs, in [0, 1]. Dimensions are counted
    from 0 and called ``z[0]``, ``z[1]``, ... as in the ``dimensions`` of :class:`pyro_aevb.diagnostics.LatentKL`.

    Arguments:
        found: What :func:`pyro_aevb.diagnostics.diagnose` returned.
        title: Text printed above the figure; by default none.

    Raises:
        InputError: If ``found`` is not what ``diagnose`` returns.
    """
    instance("found", found, Diagnostics, "give what diagnose returned")
    heights = [2.4, *[2.3] * (found.gaps is not None), 2.2]
    figure = Figure(figsize=(WIDEST, sum(heights) + 0.5), layout="constrained")
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    _show_kl(panels_of(parts[0])[0], found.kl)
    if found.gaps is not None:
        _show_gaps(panels_of(parts[1])[0], found.gaps)
    if found.aggregate is None:
        parts[-1].text(0.5, 0.5, textwrap.fill("; ".join(found.notes), 70), ha="center", va="center", fontsize=SMALL)
    else:
        _show_aggregates(parts[-1], found.aggregate, found.kl)
    entitle(figure, title, WIDEST)
    return figure


def _show_aggregates(place: SubFigure, aggregate: AggregatePosterior, kl: LatentKL) -> None:
    """The aggregate posterior of the dimensions with the highest bars, side by side."""
    chosen = _order(kl)[:SHOWN].tolist()
    panels = panels_of(place, 1, len(chosen))
    for axes, dimension in zip(panels, chosen, strict=True):
        _show_aggregate(axes, aggregate, dimension, name_of(kl, dimension))
    panels[0].set_ylabel("density")
    handles, labels = panels[0].get_legend_handles_labels()
    place.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL)


def _heights(kl: LatentKL) -> Tensor:
    """What the bars show: KL by dimension, or where it has no parts, how much the posterior mean varies; ``(K,)``."""
    return (kl.activity if kl.per_dimension is None else kl.per_dimension.mean(0)).cpu()


def _order(kl: LatentKL) -> Tensor:
    """Dimensions, the highest bar first."""
    return _heights(kl).argsort(descending=True)


def _show_kl(axes: Axes, kl: LatentKL) -> None:
    order = _order(kl)
    heights = _heights(kl)[order]
    active = kl.active.cpu()[order]
    positions = torch.arange(len(order))
    for chosen, shade, words in ((active, COLORS[0], "active"), (~active, "0.75", "not active")):
        if chosen.any():
            label = f"{words}: {int(chosen.sum())} of {len(order)}"
            axes.bar(positions[chosen].tolist(), heights[chosen].tolist(), color=shade, label=label)
    names = [name_of(kl, k) for k in order.tolist()]
    if len(order) <= 30:
        axes.set_xticks(positions.tolist(), names, rotation=90 if len(order) > 10 else 0)
    else:
        axes.set_xticks([])
    axes.set_xlabel("latent dimensions, the highest bar first")
    total = mean_of(kl.total)
    in_all = rf"KL$(q(z|x)\,\|\,p(z))$ in all {total.mean:.2f} ± {total.se:.2f} nats per datum"
    if kl.per_dimension is None:
        axes.set_title(f"how much each dimension varies; {in_all}")
        axes.set_ylabel("variance over data\nof the posterior mean")
    else:
        axes.set_title(f"KL of each dimension; {in_all}")
        axes.set_ylabel("KL, nats per datum")
    axes.legend(fontsize=SMALL)


def _show_aggregate(axes: Axes, aggregate: AggregatePosterior, dimension: int, name: str) -> None:
    q, p = (draws[:, dimension].cpu() for draws in (aggregate.draws, aggregate.prior_draws))
    both = torch.cat([q, p]).double()
    ends = torch.tensor([0.001, 0.999], dtype=torch.float64)
    low, high = (both.sort().values[(ends * (len(both) - 1)).long()]).tolist()  # quantile() refuses many values
    bins = torch.linspace(low, high if high > low else low + 1, 41).tolist()
    axes.hist(q.numpy(), bins, density=True, color=COLORS[5], label="q(z), the aggregate posterior")
    axes.hist(p.numpy(), bins, density=True, color="black", histtype="step", lw=1.4, label="p(z), the prior")
    axes.set_title(f"{name}:\nKS distance {aggregate.distances[dimension]:.2f}", fontsize=SMALL)
    axes.set_xlabel(name)
    axes.set_yticks([])


def _show_gaps(axes: Axes, gaps: Gaps) -> None:
    """Three levels as steps, each gap with the error of its own: data differ far more than their gaps do."""
    levels = [values.mean().item() for values in (gaps.bound, gaps.optimised_bound, gaps.log_likelihood)]
    steps = (("amortisation", gaps.amortisation, color(1)), ("approximation", gaps.approximation, color(2)))
    for i, (name, values, shade) in enumerate(steps):
        gap = mean_of(values)
        axes.bar(i + 0.5, gap.mean, 0.5, bottom=levels[i], color=shade, alpha=0.7)
        axes.errorbar(i + 0.5, levels[i + 1], gap.se, color="black", capsize=4)
        axes.annotate(
            f"{name}\n{with_error(gap.mean, gap.se)}",
            (i + 0.5, min(levels[i : i + 2])),
            (0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=SMALL,
        )
    for i, level in enumerate(levels):
        axes.plot([i - 0.25, i + 0.25], [level, level], color="black", lw=2)
    span = max(levels) - min(levels) or 1.0
    axes.set_ylim(min(levels) - 0.35 * span, max(levels) + 0.15 * span)
    axes.set_xticks([0, 1, 2], ["bound", "bound, with q(z|x)\noptimised for each datum", "log p(x)"])
    axes.set_ylabel("nats per datum")
    axes.set_title(f"from the bound to log p(x), {len(gaps.bound)} data; gap ± its standard error")
