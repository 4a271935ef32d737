"""The first run of a training: every check on, parameters found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.traces.sites import Pair, Site, latent_sites, observed_sites, pair_trace
from pyro_aevb.traces.supports import check_latent_supports

__all__ = ["FirstRun", "check_guide", "first_run", "met_parameters"]


def _check_scales(model_trace: Trace, guide_trace: Trace) -> None:
    """A plate of another size in the guide would scale log q alone: neither a bound nor its multiple."""
    for site in latent_sites(guide_trace):
        other: Site = model_trace.nodes.get(site["name"], site)
        scale = other["scale"]
        if abs(float(scale) - float(site["scale"])) > 1e-6 * abs(float(scale)):
            raise InputError(
                f"site {site['name']!r} is scaled by {float(scale):g} in the model and by {float(site['scale']):g} in "
                "the guide: give both the same size"
            )


class FirstRun(NamedTuple):
    """What one validated run tells of a pair."""

    loss: Tensor
    """The estimator's loss."""
    parameters: dict[str, Tensor]
    """Every parameter site's unconstrained leaf, by its name in the store."""
    scale: float
    """The observed data's scale, N/M under a subsampling plate."""
    global_latents: list[str]
    """Latent sites outside every plate: the same for all data, as Appendix F's weights are."""


def first_run(
    loss: Pair, model: Pair, guide: Pair, args: tuple[Any, ...], check_supports: Callable[[dict[int, Any]], None]
) -> FirstRun:
    """Run a loss once with every check on, whatever the caller's setting, and look at what it used.

    Arguments:
        loss: Called with model, guide and ``args``.
        check_supports: Called before the loss with the supports of what is observed, to refuse the data in its words.

    Raises:
        InputError: If Pyro refuses the pair; its reason is in the message.
    """
    try:
        with pyro.validation_enabled(False), poutine.block(), torch.no_grad():
            model_trace, guide_trace = pair_trace(model, guide, args, {})
        sites = observed_sites(model_trace)
        _check_scales(model_trace, guide_trace)
        check_latent_supports(model_trace, guide_trace)
        check_supports({i: site["fn"].support for site in sites for i, a in enumerate(args) if site["value"] is a})
        with pyro.validation_enabled(True), poutine.trace(param_only=True) as params:
            value = loss(model, guide, *args)
    except InputError:
        raise
    except (ValueError, KeyError, RuntimeError, NotImplementedError, AssertionError) as error:
        raise InputError(f"the first run of model and guide failed: {error}") from error
    sites_of_parameters: dict[str, Site] = dict(params.trace.nodes)
    leaves = {name: site["value"].unconstrained() for name, site in sites_of_parameters.items()}
    shared = [s["name"] for s in latent_sites(guide_trace) if not any(f.vectorized for f in s["cond_indep_stack"])]
    return FirstRun(value, leaves, float(sites[0]["scale"]) if sites else 1.0, shared)


@torch.no_grad()
def check_guide(model: Pair, guide: Pair, args: tuple[Any, ...]) -> None:
    """Refuse a guide with other supports than the model's latents have.

    Raises:
        InputError: Names the site, both distributions and both supports.
    """
    with pyro.validation_enabled(False), poutine.block():
        check_latent_supports(*pair_trace(model, guide, args, {}))


@torch.no_grad()
def met_parameters(functions: tuple[Pair, ...], args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The unconstrained leaves behind what ``pyro.param`` gives some functions when they run, by name."""
    with poutine.trace(param_only=True) as params:
        for function in functions:
            function(*args)
    sites: dict[str, Site] = dict(params.trace.nodes)
    return {name: site["value"].unconstrained() for name, site in sites.items()}
