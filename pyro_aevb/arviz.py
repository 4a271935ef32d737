r"""Draws from a posterior as ArviZ's ``DataTree``: labelled, with what ArviZ's functions need of them.

ArviZ is imported where it is used: ``pip install 'pyro_aevb[arviz]'``.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb import evidence, traces
from pyro_aevb.bayesian import BayesianGuide, BayesianModel
from pyro_aevb.bayesian.evaluation import _data, _draw_pairs
from pyro_aevb.data import Rows
from pyro_aevb.data.arguments import Called, takes_any_data
from pyro_aevb.errors import InputError, function, instance, told, whole
from pyro_aevb.evaluation import Data, map_blocks, not_nan
from pyro_aevb.evidence.importance import CHUNK, CPU_ROWS
from pyro_aevb.hmc import Samples
from pyro_aevb.pairs import Pair
from pyro_aevb.runs.origin import versions
from pyro_aevb.seeds import derive, seeded

if TYPE_CHECKING:
    import xarray

__all__ = ["to_datatree"]

Array = np.ndarray[Any, Any]
Latents = dict[str, Tensor]

SEVERAL = "log_likelihood"
"""What the log-likelihood of all observed sites together is called, where there are several."""


@dataclass
class _Groups:
    """The variables of each group of a tree, by name, and by how many dimensions of a datum each ends."""

    posterior: dict[str, Array] = field(default_factory=dict)
    prior: dict[str, Array] = field(default_factory=dict)
    sample_stats: dict[str, Array] = field(default_factory=dict)
    log_likelihood: dict[str, Array] = field(default_factory=dict)
    observed_data: dict[str, Array] = field(default_factory=dict)
    constant_data: dict[str, Array] = field(default_factory=dict)
    drawn_by: str = "guide"

    def tables(self) -> dict[str, dict[str, Array]]:
        """The groups that hold something, by name."""
        return {name: values for name, values in vars(self).items() if isinstance(values, dict) and values}


def to_datatree(
    model: Pair,
    guide: Pair | None,
    x: Data,
    samples: Samples | None = None,
    *,
    num_draws: int = 1000,
    num_prior_draws: int = 500,
    num_samples: int = 100,
    names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    attributes: Mapping[str, str | float] | None = None,
    seed: int = 0,
) -> "xarray.DataTree":
    r"""Draws from the posterior, by the guide or by Hamiltonian Monte Carlo, as ArviZ takes them.

    The draws are those of ``samples`` if it is given; else ``num_draws`` draws of the guide, which is then looked at as
    an approximation of the posterior: ``log_weight`` among the statistics says how good a one. The groups are

    * ``posterior``: the latents, ``(chain, draw, datum, latent)``;
    * ``prior``: draws from the model's prior, of the same shape, in one chain;
    * ``log_likelihood``: log p(x|z) of each datum at each draw, in nats;
    * ``sample_stats``: ``lp``, which is log p(x, z), of a sampler's draws at its unconstrained latents; of the guide's
      draws ``log_q``, which is log q(z|x), and ``log_weight``, their difference; of a sampler ``step_size``, and what
      else its transitions tell;
    * ``observed_data``; and ``constant_data``, whatever else the model is given: a condition, an exposure, labels.

    **What leave-one-out cross-validation means here.** ArviZ's ``loo`` estimates the density of each datum given all
    others by drawing from the posterior given all, each draw weighted by 1/p(x|z). Where each datum has latents of its
    own, as in a variational auto-encoder, the others say nothing of them: the density of a datum given all others is
    the evidence p(x), and the estimate of ``loo`` is the harmonic mean estimator of it, whose variance is most often
    infinite. Its k-hat tells so. Take :func:`pyro_aevb.evidence.importance_weights` for these instead. Where the
    unknowns are shared by all data, as the weights of a pair of :func:`pyro_aevb.bayesian.bayesian` are, ``loo`` is
    right: of such a pair the draws here are those of the weights, ``log_likelihood`` is log p(x|weights) with the
    latents integrated out by ``num_samples`` importance samples, and ``lp`` and ``log_q`` are what ArviZ's
    ``loo_approximate_posterior`` asks for besides, since q(weights) is not the posterior itself.

    Numbers are stored in double precision, which holds those of single precision exactly.

    Oracle: :attr:`Samples.rhat <pyro_aevb.hmc.Samples.rhat>`, the densities of :mod:`pyro_aevb.traces`, and exact
    leave-one-out densities of a linear-Gaussian pair.

    Arguments:
        model: The model, any Pyro function with its latents in one data plate, or one of
            :func:`pyro_aevb.bayesian.bayesian`.
        guide: Its guide. It may be ``None`` with ``samples``, whose draws are not the guide's.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes; or
            :class:`~pyro_aevb.data.Rows`, what :meth:`Run.read <pyro_aevb.runs.Run.read>` returns, whose rows have
            names.
        samples: Draws by :func:`pyro_aevb.hmc.sample_posterior`, of the same model and data; by default the guide is
            drawn from.
        num_draws: Number of the guide's draws for each datum; of a Bayesian pair the number of draws of the weights.
        num_prior_draws: Number of draws from the prior, 0 for none.
        num_samples: Number of importance samples by which the latents of a Bayesian pair are integrated out.
        names: Name of each datum, B of them; by default those of the rows, or numbers from 0 on.
        columns: Name of each of the D numbers of a datum, for ``observed_data``; by default numbers from 0 on.
        attributes: What else the tree is to say of itself, by name: a run's title, for one.
        seed: Seed of the draws that are made here; the caller's random state is left alone.

    Raises:
        InputError: If ArviZ is missing; if a count is not positive; if samples or names are not of these data; if there
            is neither guide nor samples; if a latent belongs to no datum and the pair is not one of ``bayesian``.
    """
    arviz_base = _arviz()
    whole("num_draws", num_draws)
    whole("num_prior_draws", num_prior_draws, least=0)
    whole("num_samples", num_samples)
    function("model", model)
    labels = x.labels if isinstance(x, Rows) else None
    if isinstance(x, Rows):
        names = x.names() if names is None else names
        x = x.arguments
    if isinstance(model, BayesianModel):
        if samples is not None:
            raise InputError("weights are drawn from their guide: leave samples out of a pair of bayesian")
        found = _of_weights(model, guide, x, num_draws, num_prior_draws, num_samples, seed)
    else:
        found = _of_latents(model, guide, x, samples, num_draws, num_prior_draws, seed)
    if labels is not None:
        found.constant_data["label"] = np.array(labels)
    dims, coords = _labelled(found, names, columns)
    told_of = {**_about(found.drawn_by, seed), **_checked_attributes(attributes)}
    return arviz_base.from_dict(found.tables(), coords=coords, dims=dims, attrs={"/": told_of})


def _arviz() -> Any:
    try:
        import arviz_base  # half a second to import, so only where it is used
    except ImportError as error:
        raise InputError("to_datatree needs arviz-base: pip install 'pyro_aevb[arviz]'") from error
    return arviz_base


# ---------------------------------------------------------------- latents of each datum


@takes_any_data
@torch.no_grad()
def _of_latents(
    model: Pair,
    guide: Pair | None,
    x: Data,
    samples: Samples | None,
    num_draws: int,
    num_prior_draws: int,
    seed: int,
) -> _Groups:
    """The groups of a pair whose latents belong to one datum each."""
    if samples is None:
        if guide is None:
            raise InputError("there is neither a guide to draw from nor samples of the posterior: give one of them")
        block: Any = _OfGuide(model, function("guide", guide), num_draws, num_prior_draws)
        beside: tuple[Tensor, ...] = ()
        chains = 1
    else:
        instance("samples", samples, Samples, "give what sample_posterior returns")
        block = _OfSamples(model, samples, num_prior_draws)
        beside = block.values(_size_of(x))
        chains = samples.position.shape[1]
    results = map_blocks(block, model, guide or model, x, seed, beside=beside)
    values = dict(zip(block.names, map(_plain, results), strict=True))
    found = _Groups(drawn_by="guide" if samples is None else "Hamiltonian Monte Carlo")
    for (group, name), value in values.items():
        getattr(found, group)[name] = (
            value
            if group in ("observed_data", "constant_data")
            else _in_chains(value, chains if group != "prior" else 1)
        )
    if samples is not None:
        found.sample_stats |= _statistics(samples)
    return found


class _Block:
    """What is told of a block of data: tensors ``(B, ...)`` each, and their names, by group, in the same order."""

    def __init__(self, model: Pair, num_prior_draws: int) -> None:
        self.model = model
        self.num_prior_draws = num_prior_draws
        self.choices = traces.Choices()
        self.names: list[tuple[str, str]] = []

    def told(self, guide: Pair | None, args: tuple[Tensor, ...], named: dict[tuple[str, str], Tensor]) -> Any:
        """The tensors of a block: those that are named, with draws first; its data; draws of the prior."""
        sites = {site.name: site.value for site in traces.observed(self.model, guide, args)}
        told_of = {key: value.transpose(0, 1) for key, value in named.items()}
        if self.num_prior_draws:
            drawn = traces.draw(self.model, args, self.num_prior_draws, self.choices)
            told_of |= {("prior", name): value.transpose(0, 1) for name, value in drawn.items()}
        told_of |= {("observed_data", name): value for name, value in sites.items()}
        others = _others(self.model, args, list(sites.values()))
        told_of |= {("constant_data", name): value for name, value in others.items()}
        self.names = [(group, _name_of(sites) if name == SEVERAL else name) for group, name in told_of]
        return tuple(told_of.values())


class _OfGuide(_Block):
    """Draws of the guide."""

    def __init__(self, model: Pair, guide: Pair, num_draws: int, num_prior_draws: int) -> None:
        super().__init__(model, num_prior_draws)
        self.guide = guide
        self.num_draws = num_draws
        self.pair = traces.Particles(model, guide)

    def __call__(self, args: tuple[Tensor, ...]) -> Any:
        latents, log_guide = self.pair.sample_guide(args, self.num_draws)
        at_once = [self.pair.log_joint(args, some, count) for some, count in _chunks(latents, args)]
        log_likelihood, log_prior = (torch.cat(part) for part in zip(*at_once, strict=True))  # (S, B) each
        log_joint = log_likelihood + log_prior
        return self.told(
            self.guide,
            args,
            {
                **{("posterior", name): value for name, value in latents.items()},
                ("log_likelihood", SEVERAL): not_nan(log_likelihood, "log p(x|z)"),
                ("sample_stats", "lp"): log_joint,
                ("sample_stats", "log_q"): log_guide,
                ("sample_stats", "log_weight"): log_joint - log_guide,
            },
        )


class _OfSamples(_Block):
    """Draws of a sampler, whose rows come with the data."""

    def __init__(self, model: Pair, samples: Samples, num_prior_draws: int) -> None:
        super().__init__(model, num_prior_draws)
        position = samples.position.transpose(0, 1)  # (C, S, B, K)
        self.latents = samples.space.latents(position.flatten(0, 1))[0]  # (C S, B, ...) each

    def values(self, size: int) -> tuple[Tensor, ...]:
        """The latents, one row a datum, ``(B, C S, ...)`` each.

        Raises:
            InputError: If they are of another number of data.
        """
        found = tuple(value.transpose(0, 1) for value in self.latents.values())
        if len(found[0]) != size:
            raise InputError(
                f"the samples are of {len(found[0])} data, and x has {size}: give the data that they are of"
            )
        return found

    def __call__(self, block: tuple[Tensor, ...]) -> Any:
        args = block[: -len(self.latents)]
        rows = block[-len(self.latents) :]
        latents = {name: value.transpose(0, 1) for name, value in zip(self.latents, rows, strict=True)}
        log_likelihood = torch.cat(
            [
                traces.log_joint_of(self.model, args, some, count, self.choices)[0]
                for some, count in _chunks(latents, args)
            ]
        )
        named = {("posterior", name): value for name, value in latents.items()}
        return self.told(None, args, {**named, ("log_likelihood", SEVERAL): not_nan(log_likelihood, "log p(x|z)")})


def _chunks(latents: Latents, args: tuple[Tensor, ...]) -> Iterator[tuple[Latents, int]]:
    """Latents, ``(S, B, ...)`` each, so many draws at once as suit the processor, and their number."""
    count = len(next(iter(latents.values())))
    at_once = max(1, CPU_ROWS // len(args[0])) if args[0].device.type == "cpu" else CHUNK
    for rows in torch.arange(count).split(at_once):
        yield {name: value[rows] for name, value in latents.items()}, len(rows)


def _size_of(x: Any) -> int:
    """Number of data; ``x`` is one tensor, or several."""
    return len(x[0] if isinstance(x, tuple) else x)


def _name_of(sites: Mapping[str, Any]) -> str:
    """What a log-likelihood is called: as the site that it is of, if there is one alone."""
    return next(iter(sites)) if len(sites) == 1 else SEVERAL


def _others(model: Pair, args: tuple[Tensor, ...], observed: list[Tensor]) -> Latents:
    """What a model is given besides what it observes, by the names of its parameters."""
    positional, keywords = model.form.arguments(args) if isinstance(model, Called) else (args, {})
    inner: Any = model.func if isinstance(model, Called) else model
    try:
        bound = inspect.signature(getattr(inner, "forward", inner)).bind(*positional, **keywords).arguments
    except (TypeError, ValueError):  # whatever else takes them
        bound = {f"argument_{i}": value for i, value in enumerate(positional)}
    given = {name: value for name, value in bound.items() if isinstance(value, Tensor) and value.dim()}
    return {name: value for name, value in given.items() if not any(_same(value, site) for site in observed)}


def _same(value: Tensor, site: Tensor) -> bool:
    """Whether two tensors hold the same numbers, in whatever shape and precision."""
    if value.numel() != site.numel():
        return False
    return torch.equal(value.flatten().to(site).nan_to_num(), site.flatten().nan_to_num())


def _statistics(samples: Samples) -> dict[str, Array]:
    """What a sampler tells of its transitions, ``(C, S, B)`` each, in the names that ArviZ has for them."""
    found = {"lp": samples.log_joint}  # (S, C, B)
    found["step_size"] = samples.step_size.expand_as(samples.log_joint)
    found["acceptance_rate"] = samples.info.acceptance
    found["energy"] = samples.info.energy
    found["energy_error"] = samples.info.energy_error
    found["diverging"] = samples.info.diverging
    return {name: _plain(value.transpose(0, 1)) for name, value in found.items()}


def _in_chains(values: Array, chains: int) -> Array:
    """Draws in chains, ``(C, S, B, ...)``, from one row a datum, ``(B, C S, ...)``."""
    first = np.moveaxis(values, 0, 1)  # (C S, B, ...)
    return first.reshape(chains, -1, *first.shape[1:])


def _plain(value: Tensor) -> Array:
    """A tensor's numbers, those with a point in double precision."""
    kept = value.detach().double() if value.is_floating_point() else value.detach()
    return kept.cpu().numpy()


# ---------------------------------------------------------------- weights that all data share


@torch.no_grad()
def _of_weights(
    model: BayesianModel,
    guide: Pair | None,
    x: Data,
    num_draws: int,
    num_prior_draws: int,
    num_samples: int,
    seed: int,
) -> _Groups:
    """The groups of a Bayesian pair: its weights, and log p(x|weights)."""
    if not isinstance(guide, BayesianGuide):
        raise InputError(f"guide must be a BayesianGuide, not {told(guide)}: give what bayesian(model, guide) returns")
    if guide.posterior.is_point_mass:
        raise InputError("a point mass over the weights has no draws that differ: make the pair with point_mass=False")
    data, form = _data(model, guide, x)
    prior = model.prior()
    posterior = guide.posterior()
    found = _Groups(drawn_by="guide of the weights")
    weights: dict[str, list[Tensor]] = {site: [] for site in prior}
    log_likelihood = []
    log_prior = []
    log_guide = []
    sites: dict[str, Tensor] = {}
    for drawn, at, local, noise in _draw_pairs(model, guide, form, num_draws, seed):
        sites = sites or {site.name: site.value for site in traces.observed(at, local, data)}
        log_likelihood.append(evidence.importance_sampling(at, local, data, num_samples, seed=noise))
        log_prior.append(_total(prior, drawn))
        log_guide.append(_total(posterior, drawn))
        for site, value in drawn.items():
            weights[site].append(value)
    densities = _plain(torch.stack(log_likelihood))[None]  # (1, S, B)
    found.posterior = {site: _plain(torch.stack(values))[None] for site, values in weights.items()}
    found.log_likelihood = {_name_of(sites): densities}
    log_q = _plain(torch.stack(log_guide))[None]  # (1, S)
    lp = densities.sum(-1) + _plain(torch.stack(log_prior))[None]
    found.sample_stats = {"lp": lp, "log_q": log_q, "log_weight": lp - log_q}
    found.observed_data = {name: _plain(value) for name, value in sites.items()}
    found.prior = _prior_weights(prior, num_prior_draws, seed)
    return found


def _total(densities: Mapping[str, Any], values: Latents) -> Tensor:
    """The log density of all weights together, a scalar, in nats."""
    return torch.stack([densities[site].log_prob(value) for site, value in values.items()]).sum()


def _prior_weights(prior: Mapping[str, Any], count: int, seed: int) -> dict[str, Array]:
    if not count:
        return {}
    device = next(iter(prior.values())).mean.device
    with seeded(derive(seed, "theta"), device):
        return {site: _plain(p.sample((count,)))[None] for site, p in prior.items()}


# ---------------------------------------------------------------- labels


def _labelled(
    found: _Groups, names: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Names of the dimensions of each variable, and coordinates of each dimension.

    Raises:
        InputError: If there is not one name for each datum or column.
    """
    observed = next(iter(found.observed_data.values()))
    coords: dict[str, Any] = {"datum": _names_of("names", names, len(observed))}
    dims = {name: ["datum"] for group in (found.sample_stats, found.log_likelihood) for name in group}
    for site, values in found.posterior.items():
        if values.ndim < 3 or "weights" in found.drawn_by:
            continue  # what all data share has dimensions of its own, which ArviZ names
        dims[site] = ["datum", *_dims_of(site, values.shape[3:], "latent", len(found.posterior) == 1, coords)]
    for group, word in ((found.observed_data, "column"), (found.constant_data, "value")):
        for name, values in group.items():
            dims[name] = [
                "datum",
                *_dims_of(name, values.shape[1:], word, word == "column" and len(group) == 1, coords),
            ]
    if "weights" in found.drawn_by:
        dims |= {name: [] for name in found.sample_stats}
    if columns is not None:
        coords["column"] = _names_of("columns", columns, len(coords.get("column", ())))
    return dims, coords


def _dims_of(site: str, shape: tuple[int, ...], word: str, alone: bool, coords: dict[str, Any]) -> list[str]:
    """Names of the dimensions of one datum's values, whose coordinates are added."""
    if len(shape) != 1:
        return [f"{site}_dim_{i}" for i in range(len(shape))]
    name = word if alone else f"{word}_of_{site}"
    coords[name] = [f"{site}[{k}]" for k in range(shape[0])] if word == "latent" else list(range(shape[0]))
    return [name]


def _names_of(what: str, names: Sequence[str] | None, count: int) -> list[Any]:
    if names is None:
        return list(range(count))
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what} must be a list of text, not {told(names)}")
    if len(names) != count:
        raise InputError(f"{what} has {len(names)} names, and there are {count}: give one for each")
    return list(names)


def _about(drawn_by: str, seed: int) -> dict[str, Any]:
    """What a tree says of how it came about."""
    found = versions()
    return {
        "inference_library": "pyro_aevb",
        "inference_library_version": found.get("pyro_aevb", "not installed"),
        "torch_version": found["torch"],
        "pyro_version": found["pyro"],
        "drawn_by": drawn_by,
        "seed": seed,
    }


def _checked_attributes(attributes: Mapping[str, str | float] | None) -> dict[str, str | float]:
    """Attributes that a netCDF file can hold: texts and numbers, by name."""
    given = {} if attributes is None else attributes
    if not isinstance(given, Mapping):
        raise InputError(f"attributes must be a dictionary of texts and numbers, not {told(attributes)}")
    for name, value in given.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"attributes must be texts and numbers by name, and {told(name)} is {told(value)}")
    return dict(given)
