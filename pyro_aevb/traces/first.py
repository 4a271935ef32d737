"""The first run of a training: every check on, parameters found."""

from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb.errors import REFUSALS, InputError, in_one_line
from pyro_aevb.pairs import Pair, without_a_trace
from pyro_aevb.traces.agreement import check_observes, check_scales
from pyro_aevb.traces.particles import rows_of
from pyro_aevb.traces.plates import DataPlate, common_scale, data_plate, global_latents
from pyro_aevb.traces.sites import Site, observed_sites, pair_trace
from pyro_aevb.traces.supports import check_latent_supports
from pyro_aevb.traces.ways import Choices

__all__ = ["FirstRun", "check_guide", "first_run", "met_parameters"]


class FirstRun(NamedTuple):
    """What one validated run tells of a pair."""

    loss: Tensor
    """The estimator's loss, a scalar."""
    parameters: dict[str, Tensor]
    """The unconstrained leaf tensor behind each parameter, by its name in Pyro's parameter store."""
    plate: DataPlate | None
    """The plate of the data; ``None`` where the observed sites lie in none."""
    divisor: float
    """What the loss is divided by to be nats per datum: how many data it is the sum over, and what scales it all."""
    global_latents: list[str]
    """Latents outside of the data's plate: the same for all data, as Appendix F's weights are."""


def first_run(loss: Pair, model: Pair, guide: Pair, args: tuple[Any, ...]) -> FirstRun:
    """Run a loss once with every check on, whatever the caller's setting, and look at what it used.

    Buffers and training switches of modules are afterwards what they were.

    Arguments:
        loss: Function that computes an estimator's loss when it is called with ``model``, ``guide`` and ``*args``.
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first: a minibatch.

    Raises:
        InputError: If Pyro refuses the pair; its reason is in the message. If the model observes nothing.
    """
    try:
        with without_a_trace(evaluate=False):
            with pyro.validation_enabled(True), poutine.block(), torch.no_grad():
                guide_trace = poutine.trace(guide).get_trace(*args)
                model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
            check_observes(observed_sites(model_trace))
            check_scales(model_trace, guide_trace, look=True)
            check_latent_supports(model_trace, guide_trace)
            with pyro.validation_enabled(True), poutine.trace(param_only=True) as params:
                value = loss(model, guide, *args)
    except InputError:
        raise
    except REFUSALS as error:
        raise InputError(f"the first run of model and guide failed: {in_one_line(error)}") from error
    sites_of_parameters: dict[str, Site] = dict(params.trace.nodes)
    leaves = {name: site["value"].unconstrained() for name, site in sites_of_parameters.items()}
    rows = rows_of(args)
    plate = data_plate(model_trace, rows)
    size = plate.full_size if plate else rows or 1
    divisor = size * common_scale(model_trace, guide_trace)
    return FirstRun(value, leaves, plate, divisor, _shared(model, guide, args, model_trace, guide_trace, plate))


def _shared(
    model: Pair, guide: Pair, args: tuple[Any, ...], model_trace: Trace, guide_trace: Trace, plate: DataPlate | None
) -> list[str]:
    """Global latents, less those in a plate of another name in which each belongs to one datum all the same."""
    names = global_latents(model_trace, guide_trace, plate)
    if not names:
        return []
    try:
        return [] if Choices().ways(model, guide, args, 1).layout.is_simple else names
    except InputError:  # of a pair that has no log-weights
        return names


@torch.no_grad()
def check_guide(model: Pair, guide: Pair, args: tuple[Any, ...]) -> None:
    """Refuse a guide with other supports than the model's latents have.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.

    Raises:
        InputError: Names the site, both distributions and both supports.
    """
    with pyro.validation_enabled(False), poutine.block():
        check_latent_supports(*pair_trace(model, guide, args, {}))


@torch.no_grad()
def met_parameters(functions: tuple[Pair, ...], args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The unconstrained leaf tensors behind what ``pyro.param`` gives some functions when they run, by name.

    Arguments:
        functions: Pyro functions that take the same arguments, a model and its guide say.
        args: Their arguments, batch first.
    """
    with poutine.trace(param_only=True) as params:
        for function in functions:
            function(*args)
    sites: dict[str, Site] = dict(params.trace.nodes)
    return {name: site["value"].unconstrained() for name, site in sites.items()}
