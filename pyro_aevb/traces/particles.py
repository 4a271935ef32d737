"""Many draws of a pair at once, so that particles do not change what a network sees.

There are three ways to run a Pyro function for S particles of B data. ``broadcast``: in a plate of particles left of
all others, at ``dim=-2`` beside one plate, where networks meet ``(S, B, K)``; a layer that gives dimension 1 a meaning
would take data for channels. ``fold``: on S times B rows, each datum S times, since arguments are batch first; a
closure over B rows would not fit. ``loop``: S runs, which always work. Shapes: ``S`` particles, ``B`` data.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, repeated
from pyro_aevb.traces.parts import device_of
from pyro_aevb.traces.plates import (
    PARTICLES,
    SIMPLE,
    Layout,
    own_scale,
    plate_scale,
    size_at,
    size_of_data_plate,
    summed,
)
from pyro_aevb.traces.sites import Latents, Site, UnknownDensityError, describe, sample_sites, subsamples

__all__ = ["Around", "ParticleRun", "Way", "rows_of", "run"]

Way = Literal["broadcast", "fold", "loop"]
Around = Callable[[Pair], Pair]
"""A handler to put outside of the plate of particles: inside, it would draw once, before the plate asks for many."""


class ParticleRun:
    """A Pyro function, run for S particles: its sites' values and log densities for each.

    Arguments:
        traces: Traces of the runs: one for each particle in a loop, else a single one of all particles.
        count: Number S of particles.
        way: How the particles were run.
        rows: Number B of data; ``None`` where the arguments do not tell it.
        device: Device that the data lie on.
        layout: How the log densities of a run are laid out.

    Raises:
        InputError: If a site does not lie where the layout has it, or not every run draws the same sites.
    """

    sizes: dict[str, int]
    """Number of data that each site is for, by the site's name."""
    size: int
    """Number of data that the function is for: its largest site's, or ``rows`` where it has no site."""

    def __init__(
        self,
        traces: list[Trace],
        count: int,
        way: Way,
        rows: int | None,
        device: torch.device,
        layout: Layout = SIMPLE,
    ) -> None:
        self.count = count
        self.way = way
        self.device = device
        self.layout = layout
        self.traces = traces
        self._rows = rows
        of_pair = ([s for s in sample_sites(trace) if s["name"] != PARTICLES] for trace in traces)
        self.parts: list[dict[str, Site]] = [{site["name"]: site for site in sites} for sites in of_pair]
        self.sites = self.parts[0]
        self.trace = traces[0]
        self._check_same_sites()
        if not layout.is_simple:
            whole = rows or 1
            self.sizes = {n: whole if layout.dim is None else size_at(s, layout.dim) for n, s in self.sites.items()}
            self.size = 1 if layout.dim is None else max(self.sizes.values(), default=whole)
            return
        copies = count if way == "fold" else 1
        in_run = None if rows is None else rows * copies
        self._in_run = {name: size_of_data_plate(site, in_run) for name, site in self.sites.items()}
        self.sizes = {name: size // copies for name, size in self._in_run.items()}
        self.size = max(self.sizes.values(), default=rows or 0)

    def laid_out(self, layout: Layout) -> "ParticleRun":
        """The same run, whose log densities are for something else."""
        return ParticleRun(self.traces, self.count, self.way, self._rows, self.device, layout)

    def _check_same_sites(self) -> None:
        for part in self.parts[1:]:
            if other := part.keys() ^ self.sites.keys():
                raise InputError(
                    f"site {min(other)!r} is there in some runs and not in others: log-weights of several samples need "
                    "the same sites in each; train by SGVB, which takes each run by itself"
                )

    def value(self, name: str) -> Tensor:
        """A site's values, ``(S, B, ...)``; in other plates than the data's ``(S, ...)``, as they are in one run, or
        where they were broadcast with a dimension for each plate.
        """
        values = [part[name]["value"] for part in self.parts]
        return self._for_each(values)

    def log_prob(self, name: str) -> Tensor:
        """A site's log densities, masked and unscaled, ``(S, B)``, in nats.

        Raises:
            UnknownDensityError: If its distribution cannot tell the density of a value that it has not just drawn.
        """
        try:
            if not self.layout.is_simple and self.way == "broadcast":
                return summed(_log_prob(self.sites[name]), self.sites[name], self.layout.dim)
            if not self.layout.is_simple:
                return torch.stack([summed(_log_prob(part[name]), part[name], self.layout.dim) for part in self.parts])
            size = self._in_run[name]
            shape = (self.count, size) if self.way == "broadcast" else (size,)
            return self._for_each([_log_prob(part[name]).expand(shape) for part in self.parts])
        except (KeyError, NotImplementedError) as error:
            raise UnknownDensityError(
                f"{describe(self.sites[name]['fn'])} cannot tell the density of a given value ({error}), which is "
                "needed here: use SGVB or IWAE, or a guide that can be inverted"
            ) from error

    def rows(self) -> Latents:
        """Indices of the data that the pair's plates chose, by the name of the plate."""
        chosen = {name: value for name, value in subsamples(self.trace).items() if name != PARTICLES}
        if self.way != "fold":
            return chosen
        return {name: v[: len(v) // self.count] if len(v) % self.count == 0 else v for name, v in chosen.items()}

    def scale(self, of_plates: float) -> float | Tensor:
        """What scales the sum over data: a number, or one for each datum, ``(B,)``.

        Arguments:
            of_plates: What the plates alone scale it by in a run without particles, which folded rows hide.
        """
        if self.way != "fold":
            scale = next((site["scale"] for site in self.sites.values()), 1.0)
            return scale if self.layout.is_simple else self._of_each(scale)
        own = next((own_scale(site) for site in self.sites.values()), 1.0)
        of_each = self.count * next(iter(self.sizes.values()), 1)
        if isinstance(own, Tensor) and own.numel() == of_each:  # a weight for each datum, repeated; one kept is not
            own = own.reshape(self.count, -1)[0]
        return of_plates * own

    def _of_each(self, scale: Any) -> float | Tensor:
        """A scale as a number, or one for each datum, ``(B,)``, from one that has the dimensions of all plates."""
        if not isinstance(scale, Tensor) or scale.numel() == 1:
            return scale.reshape(()) if isinstance(scale, Tensor) else float(scale)
        dim = self.layout.dim
        if dim is None or scale.dim() < -dim or scale.shape[dim] != scale.numel():
            raise InputError(
                f"sites are scaled by a tensor of shape {tuple(scale.shape)}, not by one number for each log-weight: "
                "train by SGVB, which takes any"
            )
        return scale.reshape(-1)

    def plate_scale(self) -> float:
        """What the plates alone scale the sum over data by."""
        return next((plate_scale(site) for site in self.sites.values()), 1.0)

    def _for_each(self, parts: list[Tensor]) -> Tensor:
        if self.way == "broadcast":
            return parts[0]
        return parts[0].unflatten(0, (self.count, -1)) if self.way == "fold" else torch.stack(parts)


def run(
    function: Pair,
    args: tuple[Any, ...],
    count: int,
    way: Way,
    given: Latents | None = None,
    rows: Latents | None = None,
    around: Around | None = None,
    layout: Layout = SIMPLE,
) -> ParticleRun:
    """Run a Pyro function for so many particles; one particle is one run, whatever the way.

    Arguments:
        function: A model or a guide, any Pyro function.
        args: Its arguments, batch first.
        count: Number S of particles.
        way: How the particles are run: in a plate of their own, as further rows of data, or one after another.
        given: Values that sites are given instead of being drawn, ``(S, B, ...)`` each, by site; by default none.
        rows: Indices of the data that plates are given instead of choosing them, by plate; by default none.
        around: Handler put around the function and the plate of particles; by default none.
        layout: What log densities are for: of another than the simple one rows cannot be folded.
    """
    given = given or {}
    rows = rows or {}
    if count == 1:
        way = "loop"
    if way == "broadcast":
        plated = pyro.plate(PARTICLES, count, dim=-1 - layout.nesting)(function)
        traces = [_trace(plated, args, {**given, **rows}, around)]
    elif way == "fold":
        many = tuple(arg.repeat(count, *[1] * (arg.dim() - 1)) for arg in args)
        folded = _Repeated(count, rows, len(many[0]))(function)
        with repeated(count):
            traces = [_trace(folded, many, {name: value.flatten(0, 1) for name, value in given.items()}, around)]
    else:
        traces = []
        for s in range(count):
            traces.append(_trace(function, args, {**{n: v[s] for n, v in given.items()}, **rows}, around))
            if count > 1:  # a transform remembers what it has drawn last, not what it drew for the particle before
                _remember_log_probs(traces[-1])
            rows = rows or subsamples(traces[0])  # later particles are of the rows that the first one's plates chose
    return ParticleRun(traces, count, way, rows_of(args), device_of(args), layout)


def _trace(function: Pair, args: tuple[Any, ...], data: Latents, around: Around | None) -> Trace:
    around = around or (lambda inner: inner)
    handled = around(function) if not data else around(poutine.condition(function, data=data))
    return poutine.trace(handled).get_trace(*args)


def rows_of(args: tuple[Any, ...]) -> int | None:
    """Number B of data: the length that all arguments share; ``None`` where they are no tensors, batch first."""
    lengths = {len(arg) if isinstance(arg, Tensor) and arg.dim() else None for arg in args}
    return lengths.pop() if len(lengths) == 1 else None


class _Repeated(Messenger):
    """Plates over folded rows choose the same data for each particle."""

    def __init__(self, count: int, rows: Latents, size: int) -> None:
        super().__init__()
        self.count = count
        self.rows = rows
        self.size = size

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        fn = msg["fn"]
        if (fn.subsample_size or fn.size) != self.size:
            return
        if msg["name"] in self.rows:
            chosen = self.rows[msg["name"]]
        elif fn.size == self.size:  # all there are
            chosen = torch.arange(self.size // self.count, device=fn.device)
        else:
            chosen = type(fn)(fn.size, self.size // self.count, device=fn.device)()
        msg["value"] = chosen.repeat(self.count)


def _remember_log_probs(trace: Trace) -> None:
    for site in sample_sites(trace):
        try:
            site["unscaled_log_prob"] = _log_prob(site)
        except (KeyError, NotImplementedError):  # asked for again where it is needed
            continue


def _log_prob(site: Site) -> Tensor:
    if "unscaled_log_prob" in site:
        return cast(Tensor, site["unscaled_log_prob"])
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, mask=site["mask"])
