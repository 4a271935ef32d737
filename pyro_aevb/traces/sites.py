"""One run of guide and replayed model: its sites, checks of them, and scaled sums over all of them."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyro.distributions.torch as pyro_torch
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair
from pyro_aevb.torch_internals import has_closed_form, set_validation, validates

__all__ = [
    "Latents",
    "Site",
    "UnknownDensityError",
    "Unvalidated",
    "analytic_kls",
    "base_of",
    "describe",
    "drawn_after_their_parents",
    "has_own_density",
    "kl_with_free_bits",
    "latent_sites",
    "layers_of",
    "log_likelihood_sum",
    "log_weight_sum",
    "observed_sites",
    "pair_trace",
    "reparameterised",
    "sample_sites",
    "site_kl",
    "site_kls",
    "subsamples",
    "without_gradient",
]

Site = Any  # Pyro's own Message: a dictionary with the site's name, fn, value, scale, mask, ...
Latents = dict[str, Tensor]

TORCHS_OWN = {kind for kind in vars(torch.distributions).values() if isinstance(kind, type)}
TORCHS_OWN |= {LogitRelaxedBernoulli, ExpRelaxedCategorical}  # bases of exported ones, not exported themselves
PYROS_OWN = {kind for kind in vars(pyro_torch).values() if isinstance(kind, type)}
"""Pyro's versions of torch's distributions, whose densities agree with those that they extend."""


class UnknownDensityError(InputError):
    """A distribution cannot tell the density of a value that it has not just drawn; a planar flow is one."""


def pair_trace(
    model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any], max_plate_nesting: float = math.inf
) -> tuple[Trace, Trace]:
    """Run the guide, replay the model on its samples, and compute every site's scaled ``log_prob``.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide, which takes the same arguments.
        args: Positional arguments of both, batch first.
        kwargs: Keyword arguments of both.
        max_plate_nesting: Number of dimensions left of the event that plates may use; infinite to let Pyro find out.

    Returns:
        The model's trace, then the guide's, the order in which Pyro returns them.
    """
    model_trace, guide_trace = get_importance_trace("flat", max_plate_nesting, model, guide, args, kwargs)
    return model_trace, guide_trace


def observed_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that carry data.

    Arguments:
        trace: Trace of a model or a guide.
    """
    return [site for site in sample_sites(trace) if site["is_observed"]]


def latent_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that were sampled.

    Arguments:
        trace: Trace of a model or a guide.
    """
    return [site for site in sample_sites(trace) if not site["is_observed"]]


def sample_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that have a density: neither plates' choices nor ``pyro.deterministic``."""
    return [site for site in trace.nodes.values() if _is_sample(site)]


def _is_sample(site: Site) -> bool:
    deterministic = site["type"] == "sample" and site["infer"].get("_deterministic")  # pyro.deterministic's sites
    return site["type"] == "sample" and not site_is_subsample(site) and not deterministic


def subsamples(trace: Trace) -> Latents:
    """The data that the plates of a trace chose, as indices, by the plate's name."""
    nodes: dict[str, Site] = dict(trace.nodes)
    return {n: site["value"] for n, site in nodes.items() if site["type"] == "sample" and site_is_subsample(site)}


class _WithoutGradient(Messenger):
    """Draw every sample as a constant.

    A copy, too: a transformed distribution remembers what it has just drawn, by identity, with what it computed on the
    way, and would tell that value's density without the gradient (measured: none reached an autoregressive flow).
    """

    def _pyro_sample(self, msg: Site) -> None:
        if msg["value"] is None and not msg["is_observed"] and not msg["done"] and not site_is_subsample(msg):
            with torch.no_grad():
                msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"]).clone()


class Unvalidated(Messenger):
    """A block in which no distribution looks at its values, those made before it neither: a recording cannot read them.

    A prior of a ``PyroSample`` is made with its module, while validation was on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._switched: list[Distribution] = []

    def _pyro_sample(self, msg: Site) -> None:
        for part in _parts_of(msg["fn"]):
            if validates(part):
                self._switched.append(part)
                set_validation(part, False)

    def __exit__(self, *error: Any) -> None:
        while self._switched:
            set_validation(self._switched.pop(), True)
        super().__exit__(*error)


def _parts_of(distribution: Any) -> Iterator[Distribution]:
    """A distribution and those that it is made of: its base, a mixture's components."""
    if isinstance(distribution, Distribution):
        yield distribution
        for part in vars(distribution).values():
            yield from _parts_of(part)


def without_gradient(function: Pair) -> Pair:
    """The same Pyro function, whose samples are constants: no gradient passes through them.

    Arguments:
        function: A model or a guide.
    """
    return _WithoutGradient()(function)


class _Reparameterised(Messenger):
    """Check each sample as it is drawn."""

    def _pyro_post_sample(self, msg: Site) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            _check_site(msg)


def reparameterised(guide: Pair) -> Pair:
    """The same guide, refused at a site that has no reparameterisation.

    Arguments:
        guide: The guide, any Pyro function.

    Raises:
        InputError: When run: names the site and the estimator that serves.
    """
    return _Reparameterised()(guide)


def _check_site(site: Site) -> None:
    if not site["fn"].has_rsample:
        raise InputError(
            f"guide site {site['name']!r} ({describe(site['fn'])}) cannot be reparameterised, so a pathwise "
            "gradient does not exist: use SGVB, which takes its score, or VIMCO for a multi-sample bound"
        )


# ---------------------------------------------------------------- scaled sums over all sites: the objectives' terms


def log_likelihood_sum(model_trace: Trace) -> Tensor:
    r"""Scaled sum of the observed sites' log densities, :math:`\frac NM \sum_i \log p(x_i \mid z_i)`.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
    """
    return _sum(site["log_prob_sum"] for site in observed_sites(model_trace))


def log_weight_sum(model_trace: Trace, guide_trace: Trace) -> Tensor:
    r"""Scaled sum of all sites' log densities, :math:`\frac NM \sum_i \log p(x_i, z_i) - \log q(z_i \mid x_i)`.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
    """
    return torch.as_tensor(model_trace.log_prob_sum() - guide_trace.log_prob_sum())


def analytic_kls(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    r"""The closed-form :math:`\mathrm{KL}(q \,\|\, p)` of latents, scaled and masked, by their names.

    A closed form holds at fixed values of all latents that either distribution depends on, which must therefore have
    been drawn before. A latent whose prior may depend on one that the guide draws later, as in a guide from the bottom
    up, has none: log q - log p at the draw stands for it.

    Raises:
        InputError: If no closed form is registered for a site's two distributions.
    """
    kls = {}
    for name in drawn_after_their_parents(model_trace, guide_trace):
        site = guide_trace.nodes[name]
        kl = site_kl(model_trace.nodes[name], site)
        kls[name] = torch.as_tensor(scale_and_mask(kl, scale=site["scale"], mask=site["mask"]))
    return kls


def kl_with_free_bits(model_trace: Trace, guide_trace: Trace, free: float) -> Tensor:
    r"""Scaled sum of latents' KLs in closed form, each dimension's at least ``free`` in its mean over the minibatch.

    .. math:: \frac NM \sum_k \max\Big(M \lambda, \sum_{i=1}^M \mathrm{KL}_{ik}\Big)

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
        free: The free nats :math:`\lambda` of a dimension, at least 0.

    Raises:
        InputError: If a latent's KL has no closed form, or is not known for each of its dimensions by itself.
    """
    closed = drawn_after_their_parents(model_trace, guide_trace)
    total = torch.zeros(())
    for site in latent_sites(guide_trace):
        if site["name"] not in closed:
            raise InputError(
                f"free_bits need the KL of each latent in closed form, and that of site {site['name']!r} is sampled, "
                "since the guide draws it before what its prior depends on: leave free_bits out"
            )
        kl = _kl_by_dimension(model_trace.nodes[site["name"]], site).movedim(-1, 0)  # (K, ..., B)
        counts = torch.as_tensor(scale_and_mask(torch.ones_like(kl[0]), scale=site["scale"], mask=site["mask"])).sum()
        sums = torch.as_tensor(scale_and_mask(kl, scale=site["scale"], mask=site["mask"])).flatten(1).sum(1)  # (K,)
        total = total + sums.clamp(min=free * counts).sum()
    return total


def _kl_by_dimension(model_site: Site, guide_site: Site) -> Tensor:
    """The closed-form KL(q || p) of each dimension of one latent, ``(..., B, K)``, unscaled and unmasked, in nats."""
    q = guide_site["fn"]
    p = model_site["fn"]
    if not q.event_shape:
        return site_kl(model_site, guide_site).unsqueeze(-1)
    for each in (q, p):
        independent = isinstance(each, Independent) and len(each.event_shape) == each.reinterpreted_batch_ndims
        if not independent:
            raise InputError(
                f"free_bits need latents that are independent of each other, and site {model_site['name']!r} is "
                f"{describe(each)} in {'the guide' if each is q else 'the model'}: leave free_bits out"
            )
    kl = site_kl({**model_site, "fn": p.base_dist}, {**guide_site, "fn": q.base_dist})
    return kl.flatten(-len(q.event_shape))


def drawn_after_their_parents(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Latents of which all that come before them in the model come before them in the guide too.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        guide_trace: Trace of the guide.
    """
    order = {site["name"]: place for place, site in enumerate(latent_sites(guide_trace))}
    names = [site["name"] for site in latent_sites(model_trace)]
    return [name for i, name in enumerate(names) if all(order[before] < order[name] for before in names[:i])]


def site_kls(model_trace: Trace, guide_trace: Trace) -> Iterable[tuple[Site, Tensor]]:
    """Each latent's guide site, and its closed-form KL(q || p) in nats, unscaled and unmasked.

    Raises:
        InputError: If no closed form is registered for a site's two distributions.
    """
    for site in latent_sites(model_trace):
        guide_site = guide_trace.nodes[site["name"]]
        yield guide_site, site_kl(site, guide_site)


def site_kl(model_site: Site, guide_site: Site) -> Tensor:
    """The closed-form KL(q || p) of one latent's two sites, unscaled and unmasked, in nats.

    Arguments:
        model_site: The latent's site in the model's trace.
        guide_site: The latent's site in the guide's trace.

    Raises:
        InputError: If none is registered for their distributions.
    """
    try:
        if has_own_density(guide_site["fn"]) or has_own_density(model_site["fn"]):
            raise NotImplementedError  # what is registered is of the classes that they extend
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        raise InputError(
            f"no closed form of KL(q || p) is registered for site {model_site['name']!r}, with "
            f"q = {describe(guide_site['fn'])} and p = {describe(model_site['fn'])}: "
            "use estimator A (SGVB), which needs none"
        ) from None


def has_own_density(distribution: Any) -> bool:
    """Whether its class, less what wraps it, has another density than the class of torch that it extends.

    Arguments:
        distribution: A distribution of torch or Pyro, or of a class that extends one.
    """
    kind: Any = type(base_of(distribution))
    extended: Any = next((parent for parent in kind.__mro__ if parent in TORCHS_OWN), kind)
    return kind.log_prob is not extended.log_prob and kind not in PYROS_OWN and not has_closed_form(kind)


def describe(distribution: Any) -> str:
    """A distribution in words, without the wrappers around it."""
    return f"{type(base_of(distribution)).__name__} with event shape {tuple(distribution.event_shape)}"


def base_of(distribution: Any) -> Any:
    """A distribution without the wrappers and transforms around it."""
    *_, innermost = layers_of(distribution)
    return innermost


def layers_of(distribution: Any) -> Iterator[Any]:
    """A distribution, then what it wraps or transforms, and so on inwards."""
    yield distribution
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
        yield distribution


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return sum(terms, torch.zeros(()))
