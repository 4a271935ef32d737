"""How a pair's particles are run: chosen once for each shape of the data, by a check against one particle at a time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_aevb.distributions.supports import support_of
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, without_a_trace
from pyro_aevb.seeds import seeded
from pyro_aevb.torch_internals import BATCH_NORMALISATION
from pyro_aevb.traces.agreement import (
    check_agreement,
    check_densities,
    check_no_factors,
    check_no_point_masses,
    check_one_plate_scale,
    check_one_scale,
)
from pyro_aevb.traces.particles import ParticleRun, Way, rows_of, run
from pyro_aevb.traces.parts import device_of, untouched
from pyro_aevb.traces.plates import (
    JOINT,
    SIMPLE,
    Layout,
    check_not_subsampled,
    in_other_plates,
    layout_of,
    may_look,
    nesting_of,
    outside,
)
from pyro_aevb.traces.sites import Latents, Site, UnknownDensityError, latent_sites

__all__ = ["Choices", "Ways"]

FEW = 2  # particles, which are enough to tell one way from another
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative, of log densities: far above rounding
COARSE = 1e-2  # the tolerance for numbers of fewer bits
MOST_KEPT = 100  # pairs and shapes that a choice is remembered for
DRAWS_UNTIL_ANOTHER = 20  # of a discrete latent, most of which may be the same
SHAKE = 0.1  # how far weights are moved, of their usual size


class Ways(NamedTuple):
    """How many particles of guide and model are run at once, and what the plates scale the sum over data by."""

    guide: Way = "loop"
    model: Way = "loop"
    plate_scale: float = 1.0
    layout: Layout = SIMPLE
    """What log densities are for."""
    scaled_differently: str = ""
    """Message of the refusal where sites are scaled differently, so that no one scale holds for a sum; else empty."""


class _Choice(NamedTuple):
    ways: Ways
    of: tuple[Any, ...]
    """The pair, kept alive, so that no other object can have its identity."""
    modules: list[nn.Module]
    """The modules that took part, and their submodules."""
    training: list[bool]
    """Whether each module was in training: the choice holds for these switches."""

    def holds(self) -> bool:
        """Are the switches what they were? Asked before each run, so without a call for each module."""
        return [module.training for module in self.modules] == self.training


class Choices:
    """The ways that were chosen for pairs, by the shape of their arguments.

    Broadcasting is chosen where it gives what one particle at a time does, since it computes least: a guide's network
    sees each datum once. Then folding; else a loop.
    """

    def __init__(self) -> None:
        self._known: dict[Any, list[_Choice]] = {}

    def ways(
        self, model: Pair, guide: Pair | None, args: tuple[Any, ...], count: int, of: tuple[Any, ...] | None = None
    ) -> Ways:
        """How to run so many particles on these arguments.

        For one particle there is nothing to choose, but the pair is checked all the same.

        Arguments:
            model: The model, any Pyro function.
            guide: Its guide; ``None`` to draw latents from the model.
            args: Arguments of both, batch first.
            count: Number S of particles.
            of: What tells the pair from others, where its functions are made anew for each call: both functions, and
                keyword arguments. By default model and guide themselves.

        Raises:
            InputError: If model and guide do not agree, a latent has no density, or lies outside the data plate.
        """
        of = of or (model, guide)
        key = (count > 1, *map(_identity, of[:2]), *map(_shape, (*args, *of[2:])))
        if len(self._known) > MOST_KEPT:  # functions made anew for each call
            self._known.clear()
        known = self._known.setdefault(key, [])  # one for evaluation, one for training, say
        found = next((choice for choice in known if choice.holds()), None)
        if found is None and not may_look():  # a recording must not depend on what is found: a loop is always right
            return Ways()
        if found is None:
            found = _choose(model, guide, args, count > 1, of)
            known.append(found)
        return found.ways


def _identity(function: Any) -> tuple[int, int]:
    """The identity of a function; of a method, a new object at each look-up, that of its owner and its function."""
    owner = getattr(function, "__self__", None)
    return (id(function), 0) if owner is None else (id(owner), id(function.__func__))


def _shape(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.shape, arg.dtype, arg.device
    if isinstance(arg, tuple):
        return tuple(map(_shape, arg))
    return arg if isinstance(arg, (bool, int, float, str, type(None))) else type(arg)


def _choose(model: Pair, guide: Pair | None, args: tuple[Any, ...], several: bool, of: tuple[Any, ...]) -> _Choice:
    with untouched(args), torch.no_grad(), without_a_trace() as seen:
        ways = _look(model, guide, args)
        weights: list[Tensor] = [p for module in seen.values() for p in module.parameters(recurse=False)]
        weights += [p for _, p in pyro.get_param_store().named_parameters()]
        if several:
            with _shaken(weights):
                ways = _evaluated(model, guide, args, ways)
    parts = (part for module in seen.values() for part in module.modules())
    modules = [part for part in parts if getattr(part, "training", None) is not None]
    training = [module.training for module in modules]
    if several and any(training):
        with untouched(args), _shaken(weights):
            ways = _trained(model, guide, args, ways)
    return _Choice(ways, of, modules, training)


def _look(model: Pair, guide: Pair | None, args: tuple[Any, ...]) -> Ways:
    """One particle of the pair; refuses what has no numbers per datum."""
    if guide is None:
        found = run(model, args, 1, "loop")
        check_densities(latent_sites(found.trace))
        if site := _is_global(
            model, args, found, {s["name"]: found.value(s["name"]) for s in latent_sites(found.trace)}
        ):
            raise InputError(
                f"site {site!r} lies in another plate than the data, which all depend on it: a global latent, not one "
                "for each datum; numbers per datum need every site in the data's plate"
            )
        return Ways(plate_scale=found.plate_scale())
    drawn = run(guide, args, 1, "loop", layout=JOINT)
    check_no_factors(drawn.trace, "a log-weight per datum")
    check_densities(drawn.sites.values())
    check_no_point_masses(drawn.sites.values())
    latents = {n: drawn.value(n) for n, site in drawn.sites.items() if not site["infer"].get("is_auxiliary")}
    found = run(model, args, 1, "loop", latents, drawn.rows(), layout=JOINT)
    for name in latents.keys() & found.sites.keys():
        found.sites[name]["is_observed"] = False  # what was given is a latent all the same
    check_agreement(found.trace, drawn.trace, look=True)
    for name in latents.keys() & found.sites.keys():
        _check_proper(found.sites[name])
    layout = _layout(model, args, found, drawn, latents)
    ways = Ways(plate_scale=found.plate_scale(), layout=layout)
    drawn.laid_out(layout)  # refuses a guide's site that lies elsewhere
    try:
        check_one_scale([*found.sites.values(), *drawn.sites.values()], look=True)
    except InputError as error:
        return ways._replace(scaled_differently=str(error))
    return ways


def _layout(model: Pair, args: tuple[Any, ...], found: ParticleRun, drawn: ParticleRun, latents: Latents) -> Layout:
    """What log-weights are for: each datum, if every latent belongs to one, else all together."""
    layout = layout_of(found.trace, rows_of(args))
    nesting = nesting_of([*found.sites.values(), *drawn.sites.values()])
    if layout.is_simple and _is_global(model, args, found.laid_out(SIMPLE), latents):
        layout = JOINT
    if layout.dim is None:
        check_not_subsampled(found.sites.values(), outside(found.trace, rows_of(args)))
    elif not layout.is_simple:
        check_one_plate_scale(found.sites.values())
    return layout if layout.is_simple else layout._replace(nesting=nesting)


def _check_proper(site: Site) -> None:
    try:
        support_of(site["fn"])  # which refuses what integrates to no number
    except NotImplementedError:
        return


def _is_global(model: Pair, args: tuple[Any, ...], found: ParticleRun, latents: Latents) -> str | None:
    """The name of a latent in another plate than the data's, though of its size, that other data depend on."""
    for name in in_other_plates(found.sites.values()):
        if name not in latents:
            continue
        moved = _with_another_first(found.sites[name], latents[name])
        with pyro.validation_enabled(False):
            again = run(model, args, 1, "loop", {**latents, name: moved}, found.rows())
            numbers = ((found.log_prob(other)[:, 1:], again.log_prob(other)[:, 1:]) for other in found.sites)
            if all(torch.equal(before, after) for before, after in numbers):
                continue
        return name
    return None


def _with_another_first(site: Site, values: Tensor) -> Tensor:
    """Values ``(1, B, ...)``, the first datum's by another draw; of a discrete latent a few draws may be the same."""
    moved = values.clone()
    for _ in range(DRAWS_UNTIL_ANOTHER):
        moved[:, 0] = site["fn"].sample()[0]
        if not torch.equal(moved, values):
            break
    return moved


@contextmanager
def _shaken(weights: Iterable[Tensor]) -> Iterator[None]:
    """Weights a little off, and put back: what initial zeros switch off must not hide what it would do."""
    before = [(w, w.detach().clone()) for w in {id(w): w for w in weights}.values() if w.is_floating_point()]
    try:
        for weight, value in before:
            usual = value.square().mean().sqrt() + SHAKE if value.numel() else 0
            weight.detach().add_(SHAKE * usual * torch.randn_like(value))
        yield
    finally:
        for weight, value in before:
            weight.detach().copy_(value)


# ---------------------------------------------------------------- what one particle at a time gives


def _evaluated(model: Pair, guide: Pair | None, args: tuple[Any, ...], ways: Ways) -> Ways:
    """The ways found in evaluation, where a datum's numbers depend on it alone and must equal those of a loop."""
    if guide is not None and not ways.layout.is_simple:
        return _in_plates(model, guide, args, ways)
    if guide is None:
        drawn = run(model, args, FEW, "loop")
        latents = {site["name"]: drawn.value(site["name"]) for site in latent_sites(drawn.trace)}
        rows = drawn.rows()
    else:
        way, latents, rows = _way_of_guide(guide, args)
        ways = ways._replace(guide=way)
    return ways._replace(model=_first_equal(model, args, latents, rows, _possible(args)))


def _in_plates(model: Pair, guide: Pair, args: tuple[Any, ...], ways: Ways) -> Ways:
    """Both functions in a plate of particles left of all others, if they tell there what one at a time tells."""
    equal = _equal_in_plates(model, guide, args, ways.layout)
    way: Way = "broadcast" if equal else "loop"
    return ways._replace(guide=way, model=way)


def _equal_in_plates(model: Pair, guide: Pair, args: tuple[Any, ...], layout: Layout) -> bool:
    """Does a plate of particles left of all others give what one particle at a time does, in both functions?"""
    try:
        with _same_ranks() as ranks:
            drawn = _of_different_particles(guide, args, layout)
            values = {name: drawn.value(name) for name in drawn.sites}
            latents = {n: v for n, v in values.items() if not drawn.sites[n]["infer"].get("is_auxiliary")}
            found = run(model, args, FEW, "broadcast", latents, drawn.rows(), layout=layout)
            ranks.other()
            one = run(guide, args, 1, "loop", rows=drawn.rows(), layout=layout)
            alone = {name: value.reshape(FEW, *one.value(name).shape[1:]) for name, value in values.items()}
            of_guide = run(guide, args, FEW, "loop", alone, drawn.rows(), layout=layout)
            given = {name: alone[name] for name in latents}
            of_model = run(model, args, FEW, "loop", given, drawn.rows(), layout=layout)
            same = _equal(_numbers(drawn), _numbers(of_guide)) and _equal(_numbers(found), _numbers(of_model))
            return same and ranks.same
    except Exception:  # whatever a pair raises where it meets what it was not made for
        return False


def _of_different_particles(guide: Pair, args: tuple[Any, ...], layout: Layout) -> ParticleRun:
    """Draws that differ between particles in each latent: where they are the same nothing tells them apart.

    Raises:
        InputError: If they never do.
    """
    for _ in range(DRAWS_UNTIL_ANOTHER):
        drawn = run(guide, args, FEW, "broadcast", layout=layout)
        if not any(torch.equal(drawn.value(name)[0], drawn.value(name)[1]) for name in drawn.sites):
            return drawn
    raise InputError("the guide draws the same for all particles")


def _way_of_guide(guide: Pair, args: tuple[Any, ...]) -> tuple[Way, Latents, Latents]:
    """How to run a guide, with draws of that way and the indices that its plates chose.

    The densities that it tells of its draws must be those that it has there when it is run one particle at a time.
    """
    for way in _possible(args):
        try:
            with _same_ranks() as ranks:
                drawn = run(guide, args, FEW, way)
                latents = {name: drawn.value(name) for name in drawn.sites}
                ranks.other()
                expected = run(guide, args, FEW, "loop", latents, drawn.rows())
                if ranks.same and (_cannot_tell(drawn, expected) or _equal(_numbers(drawn), _numbers(expected))):
                    return way, latents, drawn.rows()
        except Exception:  # whatever a network raises where it meets what it was not made for
            continue
    drawn = run(guide, args, FEW, "loop")
    return "loop", {name: drawn.value(name) for name in drawn.sites}, drawn.rows()


def _cannot_tell(drawn: ParticleRun, expected: ParticleRun) -> bool:
    """A planar flow's densities of given values cannot be compared; one site is only expanded, which changes none."""
    try:
        _numbers(expected)
    except UnknownDensityError:
        return len(drawn.sites) == 1 and all(
            drawn.log_prob(n).shape == expected.value(n).shape[:2] for n in drawn.sites
        )
    return False


def _first_equal(function: Pair, args: tuple[Any, ...], latents: Latents, rows: Latents, among: list[Way]) -> Way:
    """The first of some ways that tells the densities at given latents that one particle at a time does."""
    for way in among:
        try:
            with _same_ranks() as ranks:
                expected = _numbers(run(function, args, FEW, "loop", latents, rows))
                ranks.other()
                found = _numbers(run(function, args, FEW, way, latents, rows))
            if ranks.same and _equal(found, expected):
                return way
        except Exception:  # as above
            continue
    return "loop"


def _possible(args: tuple[Any, ...]) -> list[Way]:
    return ["broadcast"] if rows_of(args) is None else ["broadcast", "fold"]


def _numbers(found: ParticleRun) -> dict[str, Tensor]:
    return {name: found.log_prob(name) for name in found.sites}


def _equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(_close(found[name], expected[name]) for name in expected)


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = TOLERANCES.get(expected.dtype, COARSE)
    finite = expected[expected.isfinite()].abs()
    largest = finite.max().item() if len(finite) else 0.0
    same = found.shape == expected.shape
    return same and torch.allclose(found, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


# ---------------------------------------------------------------- where data meet in training


def _trained(model: Pair, guide: Pair | None, args: tuple[Any, ...], ways: Ways) -> Ways:
    """The ways that also hold in training, where a batch normalisation sees all rows at once.

    What is broadcast must be what is folded.

    Of particles that see each other it makes no sense to ask for what one at a time gives; but those that a layer
    takes for data are wrong. Where rows cannot be folded, broadcasting must equal the loop.
    """
    if guide is not None and not ways.layout.is_simple:
        if ways.model == "loop":
            return ways
        with untouched(args), torch.no_grad(), without_a_trace(evaluate=False):  # with dropout one at a time
            return _in_plates(model, guide, args, ways)
    with untouched(args), torch.no_grad(), without_a_trace():
        drawn = run(guide or model, args, FEW, ways.guide if guide else "loop")
        latents = {site["name"]: drawn.value(site["name"]) for site in latent_sites(drawn.trace)}
    if ways.model == "broadcast":
        ways = ways._replace(model=_way_in_training(model, args, latents, drawn.rows()))
    if guide and ways.guide == "broadcast" and len(latents) > 1:  # a first latent's network sees each datum once
        ways = ways._replace(guide=_way_in_training(guide, args, latents, drawn.rows()))
    return ways


def _way_in_training(function: Pair, args: tuple[Any, ...], latents: Latents, rows: Latents) -> Way:
    """The way in training of a function that may be broadcast in evaluation."""
    with untouched(args), torch.no_grad(), without_a_trace():
        other = _first_equal(function, args, latents, rows, ["fold"] if "fold" in _possible(args) else [])
    ways: tuple[Way, Way] = ("broadcast", other)
    both = []
    for way in ways:
        with untouched(args), torch.no_grad(), without_a_trace(evaluate=False), seeded(0, device_of(args)):
            both.append(_numbers(run(function, args, FEW, way, latents, rows)))
    return "broadcast" if _equal(*both) else other


class _Ranks:
    """Numbers of dimensions of what layers with running statistics were given, in one run and in another."""

    def __init__(self) -> None:
        self.runs: list[dict[int, set[int]]] = [{}]

    def meet(self, module: nn.Module, inputs: Any) -> None:
        """Remember how many dimensions a batch normalisation's input has; torch calls this before each module."""
        if isinstance(module, BATCH_NORMALISATION) and inputs and isinstance(inputs[0], Tensor):
            self.runs[-1].setdefault(id(module), set()).add(inputs[0].dim())

    def other(self) -> None:
        """Begin the second run, whose numbers of dimensions are to be compared with the first one's."""
        self.runs.append({})

    @property
    def same(self) -> bool:
        """Whether all layers met the same numbers of dimensions in both runs."""
        return all(ranks == self.runs[0] for ranks in self.runs)


@contextmanager
def _same_ranks() -> Iterator[_Ranks]:
    """Watch batch normalisations: fresh ones treat all channels alike, so that their results hide what they met."""
    ranks = _Ranks()
    handle = register_module_forward_pre_hook(ranks.meet)
    try:
        yield ranks
    finally:
        handle.remove()
