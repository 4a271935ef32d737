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
    "PARTICLES",
    "DataPlate",
    "common_scale",
    "data_plate",
    "global_latents",
    "in_other_plates",
    "may_look",
    "own_scale",
    "plate_scale",
    "same_scale",
    "size_of_data_plate",
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


# ---------------------------------------------------------------- plates


def data_plate(model_trace: Trace, rows: int | None) -> DataPlate | None:
    """The plate of a model's observed sites over the ``rows`` of a minibatch; ``None`` where there is none."""
    frames = [f for site in observed_sites(model_trace) for f in site["cond_indep_stack"] if f.name != PARTICLES]
    fitting = [f for f in frames if rows in (f.size, f.full_size)] or [f for f in frames if f.size == -1]
    if not fitting:
        return None
    frame = max(fitting, key=lambda f: (f.dim == -1, f.dim if f.vectorized else -math.inf))
    if frame.size == -1:  # plate("data") without a size takes as many as there are
        return DataPlate(frame.name, rows or 1, rows or 1)
    return DataPlate(frame.name, int(frame.size), int(frame.full_size or frame.size))


def global_latents(model_trace: Trace, guide_trace: Trace, plate: DataPlate | None) -> list[str]:
    """Latents that are the same for all data, as Appendix F's weights are: those outside the plate of the data."""

    def is_global(site: Site) -> bool:
        """By the model's plates, since a guide may name its own otherwise."""
        of_model: Site = model_trace.nodes.get(site["name"], site)
        frames = of_model["cond_indep_stack"]
        if plate is None:
            return not any(f.vectorized for f in frames)
        return not any(f.name == plate.name or (f.vectorized and f.size == plate.size) for f in frames)

    return [str(site["name"]) for site in latent_sites(guide_trace) if is_global(site)]


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
