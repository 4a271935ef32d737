r"""Gradients of a bound where a latent has no path: its score, weighed by the terms that its draw can influence.

.. math:: \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)]
          = \mathbb{E}\big[(f(z) - b)\, \nabla_\phi \log q_\phi(z) + \nabla_\phi f(z)\big]
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import MultiFrameTensor
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.traces.sites import Site, analytic_kls, latent_sites, observed_sites, sample_sites

__all__ = ["Score", "Term", "Tracked", "analytic_terms", "has_baseline", "sampled_terms", "scores", "untracked"]


class Term(NamedTuple):
    """A summand of a bound, in nats, for each place of the plates that it lies in: scaled and masked."""

    site: Site
    """The site that it belongs to, with the plates."""
    value: Tensor
    """What the bound counts."""
    path: Tensor | float
    """The term without what has a gradient of zero on average: log q of a latent without a path."""
    is_kl: bool
    """Whether it belongs to log q(z) - log p(z) rather than to log p(x|z)."""
    closed_form: bool = False
    """Whether it is a KL in closed form, which its own latent's draw does not influence."""


class Score(NamedTuple):
    """What one latent adds to a gradient by its score."""

    site: Site
    """The latent's site in the guide."""
    log_prob: Tensor
    """log q(z), unscaled, for each place of its plates."""
    cost: Tensor
    """Sum of those of the bound's terms that weigh it, for the same places, without a gradient."""
    shared: bool
    """Whether there are terms among them that lie outside its innermost plate, and so belong to other draws too."""


# ---------------------------------------------------------------- terms of a bound


def sampled_terms(model_trace: Trace, guide_trace: Trace, without_paths: bool = False) -> Iterator[Term]:
    """The terms of log p(x, z) - log q(z), all by sampling (6).

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
        without_paths: Whether all latents were drawn as constants, those that have a path too.
    """
    for site in sample_sites(model_trace):
        yield Term(site, site["log_prob"], site["log_prob"], not site["is_observed"])
    for site in sample_sites(guide_trace):
        yield Term(site, -site["log_prob"], -_entropy_of(site, without_paths), True)


def analytic_terms(model_trace: Trace, guide_trace: Trace) -> Iterator[Term]:
    """The terms of log p(x|z) - KL(q || p), the KL in closed form where there is one (7).

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.

    Raises:
        InputError: If no closed form is registered for a site's two distributions.
    """
    for site in observed_sites(model_trace):
        yield Term(site, site["log_prob"], site["log_prob"], False)
    closed_forms = analytic_kls(model_trace, guide_trace)
    for site in latent_sites(guide_trace):
        if site["name"] in closed_forms:
            kl = closed_forms[site["name"]]
            yield Term(site, -kl, -kl, True, closed_form=True)
        else:
            prior = model_trace.nodes[site["name"]]["log_prob"] if site["name"] in model_trace.nodes else 0.0
            yield Term(site, prior - site["log_prob"], prior - _entropy_of(site, False), True)


def _entropy_of(site: Site, without_paths: bool) -> Any:
    """log q(z) as far as its gradient is not zero on average."""
    return 0.0 if without_paths and not site["is_observed"] else site["score_parts"].entropy_term


# ---------------------------------------------------------------- scores


def scores(
    guide_trace: Trace,
    terms: Iterable[Term],
    beta: Tensor | None = None,
    downstream: bool = False,
    without_paths: bool = False,
) -> list[Score]:
    """The scores of all sites of a guide that have no path, or of which it was switched off.

    Arguments:
        guide_trace: Trace of the guide.
        terms: Of the bound.
        beta: Weight of the KL's terms; ``None`` for 1.
        downstream: Whether scores are weighed by those terms alone that the latent's value was seen to reach, rather
            than by all in the same plates, as they are at a site with a baseline of its own anyway.
        without_paths: Whether all latents were drawn as constants.
    """
    sites = [(site, _score_of(site, without_paths)) for site in sample_sites(guide_trace)]
    scored = [(site, score) for site, score in sites if not is_identically_zero(score)]
    terms = list(terms) if scored else []
    return [_scored(site, score, terms, beta, downstream) for site, score in scored]


def _score_of(site: Site, without_paths: bool) -> Any:
    if without_paths and not site["is_observed"]:
        return site["unscaled_log_prob"]
    return site["score_parts"].score_function


def _scored(site: Site, score: Tensor, terms: list[Term], beta: Tensor | None, downstream: bool) -> Score:
    reached = [term for term in terms if not (term.closed_form and term.site["name"] == site["name"])]
    if downstream or has_baseline(site):
        reached = [term for term in reached if site["name"] in get_provenance(term.value)]
    cost = MultiFrameTensor()
    for term in reached:
        value = detach_provenance(term.value.detach())
        cost.add((term.site["cond_indep_stack"], value if beta is None or not term.is_kl else beta * value))
    score = detach_provenance(score)
    total = torch.zeros_like(score) + cost.sum_to(site["cond_indep_stack"])
    innermost = {frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.dim == -1}
    shared = not innermost or any(innermost.isdisjoint(term.site["cond_indep_stack"]) for term in reached)
    return Score(site, score, total.detach(), shared)


def has_baseline(site: Site) -> bool:
    """Whether a latent's site says what its score is to be compared with, as Pyro's ``TraceGraph_ELBO`` reads it.

    Arguments:
        site: A latent site of the guide's trace.
    """
    return "baseline" in site["infer"]


class Tracked(Messenger):
    """A block, around runs of guide and model, in which values without a path mark all that is computed from them.

    Arguments:
        downstream: Whether all latents without a path do, or those with a baseline of their own alone.
        without_paths: Whether all latents are drawn as constants, and none has a path.
    """

    def __init__(self, downstream: bool, without_paths: bool = False) -> None:
        super().__init__()
        self.downstream = downstream
        self.without_paths = without_paths

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        pathless = self.without_paths or not msg["fn"].has_rsample
        if pathless and (self.downstream or has_baseline(msg)):
            msg["value"] = track_provenance(msg["value"], frozenset({msg["name"]}))


def untracked(value: Tensor) -> Tensor:
    """A tensor without the marks of :class:`Tracked`.

    Arguments:
        value: A tensor that was computed inside such a block.
    """
    return detach_provenance(value)
