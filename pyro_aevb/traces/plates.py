"""Which data a site is for, and how often its terms count: the plates that it lies in, and the scales around it."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.traces.sites import Site, latent_sites, observed_sites, sample_sites

__all__ = [
    "JOINT",
    "PARTICLES",
    "SIMPLE",
    "DataPlate",
    "Layout",
    "check_not_subsampled",
    "common_scale",
    "data_plate",
    "global_latents",
    "in_other_plates",
    "layout_of",
    "may_look",
    "nesting_of",
    "outside",
    "own_scale",
    "plate_scale",
    "same_scale",
    "size_at",
    "size_of_data_plate",
    "summed",
    "without_looking",
]

PARTICLES = "pyro_aevb particles"
"""The plate that particles are drawn in, which is none of the pair's own."""

Scale = float | Tensor


class DataPlate(NamedTuple):
    """The plate of the observed sites that runs over the rows of a minibatch."""

    name: str
    size: int
    """Number M of the minibatch's data that are in it: all, or those that the pair chose."""
    full_size: int
    """Number N of data that these stand for."""


class Layout(NamedTuple):
    """What a log-weight of a pair is for: each datum, all sites in one plate or in more; or all data together."""

    dim: int | None
    """Dimension of the data's plate; ``None`` for one log-weight of all data, as of a pair with global latents."""
    is_simple: bool = False
    """Whether all sites lie in the data's plate alone, at ``dim=-1``."""
    nesting: int = 1
    """How many dimensions plates use, left of which a plate of particles has its own."""


SIMPLE = Layout(-1, True)
JOINT = Layout(None)


# ---------------------------------------------------------------- plates


def _data_frame(model_trace: Trace, rows: int | None) -> Any:
    """The frame of a model's plate of data; ``None`` where there is none.

    It is one that observed sites lie in, of as many places as there are rows, and runs along the first dimension of
    what is observed: data come batch first. Else it is one that chooses among data that the functions know themselves.

    Raises:
        InputError: If two plates could be it.
    """
    sites = observed_sites(model_trace)
    frames = {f: site for site in sites for f in site["cond_indep_stack"] if f.name != PARTICLES}
    fitting = [f for f in frames if rows in (f.size, f.full_size)] or [f for f in frames if f.size == -1]
    if not fitting:  # data that the functions know themselves, of which a plate chooses some, or no rows to tell by
        fitting = [f for f in frames if f.vectorized and (rows is None or f.full_size not in (None, f.size))]
    first = [f for f in fitting if f.vectorized and -f.dim == len(frames[f]["fn"].batch_shape)]
    chosen = first or fitting
    together = [f for f in chosen if all(f in site["cond_indep_stack"] for site in sites)]
    if len(chosen) > 1 and len(together) > 1:
        names = sorted(f.name for f in together)
        raise InputError(
            f"plates {names[0]!r} and {names[1]!r} could both be the plate of the data, with {rows} places each: data "
            "come batch first, so give them another number of rows, or write the inner plate as an event, to_event(1)"
        )
    return max(chosen, key=lambda f: (f in together, f.dim if f.vectorized else -math.inf), default=None)


def data_plate(model_trace: Trace, rows: int | None) -> DataPlate | None:
    """The plate of a model's observed sites over the ``rows`` of a minibatch; ``None`` where there is none.

    Raises:
        InputError: If two plates could be it.
    """
    frame = None if rows is None else _data_frame(model_trace, rows)
    if frame is None:
        return None
    if frame.size == -1:  # plate("data") without a size takes as many as there are
        return DataPlate(frame.name, rows or 1, rows or 1)
    return DataPlate(frame.name, int(frame.size), int(frame.full_size or frame.size))


def global_latents(model_trace: Trace, guide_trace: Trace, plate: DataPlate | None) -> list[str]:
    """Latents that are the same for all data, as Appendix F's weights are: those outside the plate of the data."""

    def is_global(site: Site) -> bool:
        """Whether a latent is the same for all data, by the model's plates: a guide may name its own otherwise."""
        of_model: Site = model_trace.nodes.get(site["name"], site)
        frames = of_model["cond_indep_stack"]
        if plate is None:
            return not any(f.vectorized for f in frames)
        return not any(f.name == plate.name for f in frames)

    return [str(site["name"]) for site in latent_sites(guide_trace) if is_global(site)]


def layout_of(model_trace: Trace, rows: int | None) -> Layout:
    """What log-weights of a pair are for, by the frames of its model's sites.

    Arguments:
        model_trace: Trace of the model, replayed on the guide's samples.
        rows: Number of rows of the arguments; ``None`` where they tell none.

    Raises:
        InputError: If two plates could be that of the data.
    """
    sites = sample_sites(model_trace)
    if all(_dims(site) == {-1} for site in sites):
        return SIMPLE
    frame = _data_frame(model_trace, rows)
    if frame is None or not frame.vectorized or not all(frame in site["cond_indep_stack"] for site in sites):
        return JOINT
    return Layout(frame.dim)


def _dims(site: Site) -> set[int]:
    return {f.dim for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES}


def outside(model_trace: Trace, rows: int | None) -> str:
    """The name of a site that does not lie in the plate of the data, a latent if there is one."""
    frame = _data_frame(model_trace, rows)
    found = [site for site in sample_sites(model_trace) if frame not in site["cond_indep_stack"]]
    return min(found, key=lambda site: site["is_observed"])["name"] if found else ""


def size_at(site: Site, dim: int) -> int:
    """How many places the plate at a dimension has that a site lies in.

    Raises:
        InputError: If the site lies in none.
    """
    sizes = [int(f.size) for f in site["cond_indep_stack"] if f.vectorized and f.dim == dim]
    if not sizes:
        raise InputError(
            f"site {site['name']!r} lies outside the plate of the data at dim={dim}, in which the model has it: put it "
            "there in the guide too"
        )
    return sizes[0]


def nesting_of(sites: Iterable[Site]) -> int:
    """How many dimensions the plates of some sites use, at least 1."""
    return max((-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized), default=1)


def summed(log_prob: Tensor, site: Site, dim: int | None) -> Tensor:
    """A site's log densities, summed over all plates but that at one dimension, ``(B,)``; over all, ``(1,)``.

    Where it was run in a plate of S particles, ``(S, B)`` and ``(S, 1)``.
    """
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    depth = max([*(-f.dim for f in frames), log_prob.dim()], default=0)
    sizes = {f.dim: int(f.size) for f in frames}
    known = (1,) * (depth - log_prob.dim()) + tuple(log_prob.shape)
    shape = [sizes.get(i - depth, known[i]) if known[i] == 1 else known[i] for i in range(depth)]
    whole = log_prob.expand(shape)
    kept = {dim, *(f.dim for f in frames if f.name == PARTICLES)}
    others = [i for i in range(-depth, 0) if i not in kept]
    if dim is not None:
        size_at(site, dim)
    each = whole.sum(others) if others else whole
    return each.unsqueeze(-1) if dim is None else each


def check_not_subsampled(sites: Iterable[Site], shared: str) -> None:
    """Refuse one log-weight for all data where only some of them are there.

    Arguments:
        sites: Sites of the model.
        shared: Name of a site that belongs to no datum.

    Raises:
        InputError: Names a site, and its plate.
    """
    for site in sites:
        chosen = [f for f in site["cond_indep_stack"] if f.full_size and f.full_size != f.size]
        if chosen:
            raise InputError(
                f"site {shared!r} lies outside the plate of the data, so that there is one log-weight for all, and "
                f"plate {chosen[0].name!r} of site {site['name']!r} holds {chosen[0].size} of {chosen[0].full_size}: "
                "give all data at once, or train by SGVB, which takes any plates"
            )


def size_of_data_plate(site: Site, rows: int | None) -> int:
    """How many data a site is for, which must lie in one plate at ``dim=-1``.

    Arguments:
        site: A sample site.
        rows: Number of rows of the arguments, which is the size of a plate without one; ``None`` where they tell none.

    Raises:
        InputError: If it lies outside, or in more plates.
    """
    sizes = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES}
    if set(sizes) != {-1}:
        where = "outside the data plate, a global latent" if not sizes else f"in plates at dims {sorted(sizes)}"
        raise InputError(
            f"site {site['name']!r} lies {where}: numbers per datum need every site in one plate at dim=-1"
        )
    if sizes[-1] != -1:
        return int(sizes[-1])
    return len(site["value"]) if rows is None else rows  # plate("data") without a size


def in_other_plates(sites: Iterable[Site]) -> dict[str, str]:
    """A model's sites that lie in another plate at ``dim=-1`` than its data, though of equal size, and that plate."""
    sites = list(sites)
    names = {site["name"]: [f.name for f in site["cond_indep_stack"] if f.dim == -1] for site in sites}
    of_data = next((names[site["name"]] for site in sites if site["is_observed"]), None)
    return {name: plates[0] for name, plates in names.items() if of_data is not None and plates != of_data}


# ---------------------------------------------------------------- scales

_LOOKING: ContextVar[bool] = ContextVar("looking", default=True)


@contextmanager
def without_looking() -> Iterator[None]:
    """A block in which no tensor's values are compared: a step is being recorded, which must not depend on them."""
    token = _LOOKING.set(False)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def may_look() -> bool:
    """May scales and masks that are tensors be compared by their values?"""
    return _LOOKING.get()


def plate_scale(site: Site) -> float:
    """What a site's plates scale it by: N/M under a subsampling plate."""
    return math.prod(float(f.full_size) / float(f.size) for f in site["cond_indep_stack"] if f.full_size)


def own_scale(site: Site) -> Scale:
    """What ``poutine.scale`` makes of a site, without its plates: a number, or one for each datum."""
    scale: Scale = site["scale"]
    of_plates = plate_scale(site)
    if not isinstance(scale, Tensor) and math.isclose(scale, of_plates, rel_tol=1e-9):
        return 1.0
    return scale / of_plates


def same_scale(one: Scale, other: Scale, look: bool) -> bool:
    """Do two scales agree?

    Arguments:
        one: A number, or a tensor with one for each datum.
        other: What it is compared with.
        look: Whether to compare tensors by their values, which a step that is being recorded must not read; where not,
            a tensor is taken to agree.
    """
    if not isinstance(one, Tensor) and not isinstance(other, Tensor):
        return math.isclose(one, other, rel_tol=1e-6)
    if not look:
        return True
    a, b = torch.broadcast_tensors(torch.as_tensor(one).double().cpu(), torch.as_tensor(other).double().cpu())
    return torch.allclose(a, b, rtol=1e-5)


def common_scale(model_trace: Trace, guide_trace: Trace) -> float:
    """The number that ``poutine.scale`` multiplies all terms of an objective by; 1 where they differ."""
    scales: list[Any] = [own_scale(site) for trace in (model_trace, guide_trace) for site in sample_sites(trace)]
    if not scales or any(isinstance(scale, Tensor) for scale in scales):  # a tensor may move: what it was is no unit
        return 1.0
    numbers = {float(scale) for scale in scales}
    highest = max(numbers)
    return highest if math.isclose(min(numbers), highest, rel_tol=1e-6) else 1.0
