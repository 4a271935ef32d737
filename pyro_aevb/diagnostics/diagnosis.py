"""All diagnostics of a trained pair at once, and in words what is wrong with it."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.diagnostics.aggregate import AggregatePosterior, aggregate_posterior
from pyro_aevb.diagnostics.gaps import Evidence, Gaps, inference_gaps
from pyro_aevb.diagnostics.latents import LatentKL, latent_kl, local_latents, name_of
from pyro_aevb.errors import InputError, function, whole
from pyro_aevb.evaluation import DATA_BLOCK, AfterBlock, Data, map_blocks, mean_of, not_nan
from pyro_aevb.pairs import Pair, evaluating, own_module
from pyro_aevb.seeds import generator
from pyro_aevb.views import NATS, html_table, mean_row

__all__ = ["Diagnostics", "decoder_use", "diagnose"]

NO_NATS = 0.1
"""Nats per datum, below which a latent or a decoder does nothing."""

FAR = 0.1
"""Kolmogorov-Smirnov distance, above which a dimension of the aggregate posterior is far from the prior's."""

LARGE_MARGINAL_KL = 1.0
"""Nats of KL(q(z) || p(z)), above which samples from the prior are not those that the decoder was trained on."""

LARGE_GAP = (2.0, 0.2)
"""A gap is large above the first, in nats, and above the second, a share of KL(q(z|x) || p(z))."""


class Diagnostics(NamedTuple):
    """What :func:`diagnose` found."""

    kl: LatentKL
    """KL(q(z|x) || p(z)) of each datum, whole and by latent dimension"""
    aggregate: AggregatePosterior | None
    """The aggregate posterior q(z) against the prior; ``None`` where there is none, and a note tells why"""
    decoder_use: Tensor
    """How much log p(x|z) each datum loses with another datum's z, from :func:`decoder_use`, ``(B,)``, in nats"""
    gaps: Gaps | None
    """The approximation and amortisation gaps of the first ``gap_count`` data; ``None`` where ``gap_count`` is 0, or
    where they cannot be had, for which a note gives the reason"""
    notes: list[str]
    """What a reader must know about the numbers."""
    warnings: list[str]
    """What is wrong with the pair."""

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data, dimensions with the largest KL first, notes and warnings."""
        size = len(self.kl.total)
        active = f"active units: {int(self.kl.active.sum())} of {len(self.kl.active)}"
        told = [*(f"note: {note}" for note in self.notes), *(f"warning: {each}" for each in self.warnings or ["none"])]
        means = html_table(_mean_rows(self), NATS, f"Diagnosis of {size:,} data", [active, *told])
        return means + html_table(_dimension_rows(self), DIMENSIONS, "Latent dimensions")


DIMENSIONS = ("dimension", "KL, nats per datum", "variance of the posterior mean", "active")


def _mean_rows(found: Diagnostics) -> list[tuple[Any, ...]]:
    rows = [mean_row("KL(q(z|x) || p(z))", found.kl.total)]
    if (aggregate := found.aggregate) is not None:
        rows.append(mean_row("mutual information I(x; z)", aggregate.mutual_information))
        rows += [] if aggregate.marginal_kl is None else [mean_row("KL(q(z) || p(z))", aggregate.marginal_kl)]
    rows.append(mean_row("log p(x|z) lost with another datum's z", found.decoder_use))
    if (gaps := found.gaps) is None:
        return rows
    parts = {"bound": gaps.bound, "amortisation gap": gaps.amortisation, "approximation gap": gaps.approximation}
    of = f"of the first {len(gaps.bound)}"
    return [*rows, *(mean_row(f"{name} {of}", part) for name, part in parts.items())]


def _dimension_rows(found: Diagnostics) -> list[tuple[Any, ...]]:
    """Name, KL where it is known, activity of each dimension; those that carry most first."""
    kl = found.kl
    means = None if kl.per_dimension is None else kl.per_dimension.mean(0)
    order = (kl.activity if means is None else means).argsort(descending=True).tolist()
    return [
        (name_of(kl, k), None if means is None else means[k].item(), kl.activity[k].item(), bool(kl.active[k]))
        for k in order
    ]


@takes_any_data
@torch.no_grad()
def decoder_use(model: Pair, guide: Pair, x: Data, num_samples: int = 10, *, seed: int = 0) -> Tensor:
    r"""How much log p(x|z) each datum loses when the decoder is given another datum's z, ``(B,)``, in nats.

    .. math:: \mathbb E_{q(z|x_i)}[\log p(x_i \mid z)] - \mathbb E_{q(z|x_{\pi(i)})}[\log p(x_i \mid z)]

    with a random permutation that leaves no datum in its place. It is 0 for a decoder that ignores z.

    Oracle: its closed form for a linear decoder and a narrow guide.

    Arguments:
        model: The model, any Pyro function whose latent sites have a value for each datum.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws of the latent per datum.
        seed: Seed of draws and permutation; the caller's random state is left alone.

    Raises:
        InputError: If there are fewer than 2 data, or a latent is not one for each datum.
    """
    whole("num_samples", num_samples)
    pair = traces.Particles(model, guide)
    names: list[str] = []
    own, *z = map_blocks(partial(_own_latents, pair, num_samples, names), model, guide, x, seed)
    if len(own) < 2:
        raise InputError("diagnostics compare data with one another: give at least 2")
    order = torch.randperm(len(own), generator=generator(seed, "permutation")).to(own.device)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one cycle: no datum keeps its own
    at_others = partial(_log_likelihood_at, pair, names)
    (strange,) = map_blocks(at_others, model, guide, x, seed, beside=tuple(each[other] for each in z))
    return own - strange


def _own_latents(
    pair: traces.Particles, num_samples: int, names: list[str], args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """log p(x|z) at a datum's own latents, ``(B,)``, and these, ``(B, S, ...)`` each, whose names are told beside."""
    names[:] = [latent.name for latent in local_latents(pair, args)]
    latents, _ = pair.sample_guide(args, num_samples)
    log_likelihood, _ = pair.log_joint(args, latents, num_samples)
    not_nan(log_likelihood, "log p(x|z)")
    return log_likelihood.mean(0), *(latents[name].transpose(0, 1) for name in names)


def _log_likelihood_at(pair: traces.Particles, names: list[str], args: tuple[Tensor, ...]) -> tuple[Tensor]:
    data = args[: -len(names)]
    z = args[-len(names) :]
    latents = {name: each.transpose(0, 1) for name, each in zip(names, z, strict=True)}
    log_likelihood, _ = pair.log_joint(data, latents, z[0].shape[1])
    return (log_likelihood.mean(0),)


@takes_any_data
def diagnose(
    model: Pair,
    guide: Pair,
    x: Data,
    *,
    num_samples: int = 10,
    gap_count: int = 100,
    log_evidence: Evidence | None = None,
    seed: int = 0,
    progress: AfterBlock | None = None,
) -> Diagnostics:
    """Everything that this package can say of a trained pair: KL, aggregate posterior, gaps, and warnings in words.

    Arguments:
        model: The model, any Pyro function whose latent sites have a value for each datum.
        guide: Its guide.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number of draws per datum from the guide, for the aggregate posterior and for
            :func:`~pyro_aevb.diagnostics.decoder_use`.
        gap_count: Number of data, the first ones, whose gaps are computed, at least 2; 0 computes none.
        log_evidence: Function that estimates log p(x) of these data, called with model, guide and data, whose result
            has ``.log_likelihood`` and ``.standard_error``; by default annealed importance sampling.
        seed: Seed of all draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data whose q was optimised in it;
            by default nothing is called.

    Raises:
        InputError: If there are fewer than 2 data, a latent is not one for each datum, or ``gap_count`` is 1 or
            negative.
    """
    if whole("gap_count", gap_count, least=0) == 1:
        raise InputError(f"gap_count must be 0, or at least 2 for a standard error, not {gap_count}")
    for name, called in {"log_evidence": log_evidence, "progress": progress}.items():
        if called is not None:
            function(name, called)
    kl = latent_kl(model, guide, x, seed=seed)
    use = decoder_use(model, guide, x, num_samples, seed=seed)
    notes = [kl.note] if kl.note else []
    aggregate = None
    try:
        aggregate = aggregate_posterior(model, guide, x, num_samples, seed=seed)
        notes += [aggregate.note] if aggregate.note else []
    except InputError as error:
        notes.append(f"no aggregate posterior: {error}")
    gaps = None
    if gap_count:
        given: Any = x  # tensors or arrays by now
        first = tuple(d[:gap_count] for d in given) if isinstance(given, tuple) else given[:gap_count]
        try:
            gaps = inference_gaps(model, guide, first, log_evidence=log_evidence, seed=seed, progress=progress)
        except InputError as error:
            notes.append(f"no gaps: {error}")
    found = [*_collapse(kl, use), *_far_from_prior(kl, aggregate), *_gap_warnings(kl, gaps)]
    if aggregate is not None and len(kl.by_site) == 1:
        found += _of_likelihood(model, aggregate, num_samples)
    return Diagnostics(kl, aggregate, use, gaps, notes, found)


def _collapse(kl: LatentKL, use: Tensor) -> Iterator[str]:
    active = int(kl.active.sum())
    dims = len(kl.active)
    total = mean_of(kl.total)
    told = mean_of(use)
    if active == 0:
        yield f"posterior collapse: none of {dims} latent dimensions is active, q(z|x) is the same for all data"
    elif 2 * active < dims:
        yield f"only {active} of {dims} latent dimensions are active: the others do nothing"
    if total.mean < NO_NATS:
        yield f"posterior collapse: KL(q(z|x) || p(z)) is {total.mean:.3f} nats per datum, so that z tells nothing of x"
    if told.mean < NO_NATS:
        yield (
            "posterior collapse: the decoder ignores z: with another datum's z it loses only "
            f"{told.mean:.3f} ± {told.se:.3f} nats per datum of log p(x|z)"
        )


def _far_from_prior(kl: LatentKL, aggregate: AggregatePosterior | None) -> Iterator[str]:
    if aggregate is None:
        return
    if aggregate.at_ceiling:
        yield (
            f"the mutual information is within 1 nat of its ceiling log N = {aggregate.ceiling:.2f}: it is a lower "
            "bound only, and KL(q(z) || p(z)) an upper bound; give more data"
        )
    elif aggregate.marginal_kl is not None and (far := mean_of(aggregate.marginal_kl)).mean > LARGE_MARGINAL_KL:
        yield (
            "the aggregate posterior is far from the prior: KL(q(z) || p(z)) is "
            f"{far.mean:.2f} ± {far.se:.2f} nats per datum; samples from the prior are not like what the decoder was "
            "trained on"
        )
    noise = 1.63 / aggregate.size**0.5  # what one in a hundred Kolmogorov-Smirnov distances of N data exceeds
    dims = (aggregate.distances > FAR + noise).nonzero().flatten().tolist()
    if dims:
        worst = int(aggregate.distances.argmax())
        yield (
            f"the aggregate posterior is far from the prior in {len(dims)} of {len(aggregate.distances)} dimensions, "
            f"most in {name_of(kl, worst)} (Kolmogorov-Smirnov distance {aggregate.distances[worst]:.2f})"
        )


def _gap_warnings(kl: LatentKL, gaps: Gaps | None) -> Iterator[str]:
    if gaps is None:
        return
    large = max(LARGE_GAP[0], LARGE_GAP[1] * mean_of(kl.total).mean)
    approximation = mean_of(gaps.approximation)
    amortisation = mean_of(gaps.amortisation)
    if amortisation.mean > large:
        yield (
            f"the amortisation gap is large, {amortisation.mean:.2f} nats per datum: the guide's network is too small "
            "or not trained enough for these data"
        )
    if approximation.mean > large:
        yield (
            f"the approximation gap is large, {approximation.mean:.2f} nats per datum: the guide's family is far from "
            "the posterior; a more flexible one would raise the bound"
        )
    if not gaps.converged:
        yield (
            f"the optimisation of q has not converged: its last round still raised the bound by "
            f"{gaps.last_improvement.mean():.2f} nats per datum; the amortisation gap is larger than told"
        )
    error = (gaps.approximation_error**2).sum().sqrt().item() / len(gaps.bound)
    if approximation.mean < -max(4 * error, gaps.tolerance):
        yield "log p(x) is below the optimised bound, which cannot be: estimate it with more steps or samples"


@torch.no_grad()
def _of_likelihood(model: Pair, aggregate: AggregatePosterior, num_samples: int) -> list[str]:
    """What the likelihood itself warns of, if it has a ``warning``: that its scales lie at their least value, say."""
    likelihood: Any = getattr(own_module(model), "likelihood", None)
    if not hasattr(likelihood, "warning"):
        return []
    with evaluating([likelihood]):
        found = likelihood.warning(aggregate.draws[: DATA_BLOCK * num_samples])
    return [found] if found else []
