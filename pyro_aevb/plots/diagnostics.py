"""One figure of a pair's diagnostics: what each dimension carries, where q(z) lies, and what the bound misses."""

import textwrap

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_aevb.diagnostics import AggregatePosterior, Diagnostics, Gaps, LatentKL, mean_of
from pyro_aevb.diagnostics.latents import name_of
from pyro_aevb.errors import instance
from pyro_aevb.plots.pictures import plain

__all__ = ["draw_diagnostics"]

SHOWN = 4
"""Number of dimensions whose aggregate posterior is shown."""


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
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 0.9])[:, 0]
    figure.suptitle(plain(title), fontsize="small")
    if found.gaps is None:
        _show_kl(above.subplots(), found.kl)
    else:
        left, right = above.subplots(1, 2, width_ratios=[1.7, 1])
        _show_kl(left, found.kl)
        _show_gaps(right, found.gaps)
    if found.aggregate is None:
        below.text(0.5, 0.5, textwrap.fill("; ".join(found.notes), 100), ha="center", va="center", fontsize="small")
        return figure
    chosen = _order(found.kl)[:SHOWN].tolist()
    panels = below.subplots(1, len(chosen), squeeze=False)[0]
    for axes, dimension in zip(panels, chosen, strict=True):
        _show_aggregate(axes, found.aggregate, dimension, name_of(found.kl, dimension))
    panels[0].set_ylabel("density")
    handles, labels = panels[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


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
    for chosen, color, words in ((active, "C0", "active"), (~active, "0.75", "not active")):
        if chosen.any():
            label = f"{words}: {int(chosen.sum())} of {len(order)}"
            axes.bar(positions[chosen].tolist(), heights[chosen].tolist(), color=color, label=label)
    if len(order) <= 30:
        axes.set_xticks(positions.tolist(), [name_of(kl, k) for k in order.tolist()], fontsize="small")
    axes.set_xlabel("latent dimensions, the highest bar first")
    total = mean_of(kl.total)
    in_all = rf"KL$(q(z|x)\,\|\,p(z))$ in all {total.mean:.2f} ± {total.se:.2f} nats per datum"
    if kl.per_dimension is None:
        axes.set_title(f"how much each dimension varies; {in_all}", fontsize="medium")
        axes.set_ylabel("variance over data\nof the posterior mean")
    else:
        axes.set_title(f"KL of each dimension; {in_all}", fontsize="medium")
        axes.set_ylabel("KL, nats per datum")
    axes.legend(fontsize="small", frameon=False)


def _show_aggregate(axes: Axes, aggregate: AggregatePosterior, dimension: int, name: str) -> None:
    q, p = (draws[:, dimension].cpu() for draws in (aggregate.draws, aggregate.prior_draws))
    both = torch.cat([q, p]).double()
    ends = torch.tensor([0.001, 0.999], dtype=torch.float64)
    low, high = (both.sort().values[(ends * (len(both) - 1)).long()]).tolist()  # quantile() refuses many values
    bins = torch.linspace(low, high if high > low else low + 1, 41).tolist()
    axes.hist(q.numpy(), bins, density=True, color="C0", alpha=0.45, label="q(z), the aggregate posterior")
    axes.hist(p.numpy(), bins, density=True, color="black", histtype="step", label="p(z), the prior")
    axes.set_title(f"{name}: KS distance {aggregate.distances[dimension]:.2f}", fontsize="medium")
    axes.set_xlabel(name)
    axes.set_yticks([])


def _show_gaps(axes: Axes, gaps: Gaps) -> None:
    """Three levels as steps, each gap with the error of its own: data differ far more than their gaps do."""
    levels = [values.mean().item() for values in (gaps.bound, gaps.optimised_bound, gaps.log_likelihood)]
    steps = (("amortisation", gaps.amortisation, "C1"), ("approximation", gaps.approximation, "C2"))
    for i, (name, values, color) in enumerate(steps):
        gap = mean_of(values)
        axes.bar(i + 0.5, gap.mean, 0.5, bottom=levels[i], color=color, alpha=0.7)
        axes.errorbar(i + 0.5, levels[i + 1], gap.se, color="black", capsize=4)
        axes.annotate(
            f"{name}\n{gap.mean:.2f} ± {gap.se:.2f}",
            (i + 0.5, min(levels[i : i + 2])),
            (0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize="small",
        )
    for i, level in enumerate(levels):
        axes.plot([i - 0.25, i + 0.25], [level, level], color="black", lw=2)
    span = max(levels) - min(levels) or 1.0
    axes.set_ylim(min(levels) - 0.35 * span, max(levels) + 0.15 * span)
    axes.set_xticks([0, 1, 2], ["bound", "bound, q\noptimised", "log p(x)"])
    axes.set_ylabel("nats per datum")
    axes.set_title(f"from the bound to log p(x), {len(gaps.bound)} data", fontsize="medium")
