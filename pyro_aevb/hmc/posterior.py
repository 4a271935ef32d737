"""Draws from the posterior of each datum, by Hamiltonian Monte Carlo in the model's unconstrained latent space."""

import math
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.data.given import as_tensors
from pyro_aevb.errors import InputError, choice, function, positive, whole
from pyro_aevb.hmc.kernel import Info, LogDensity, State, adapted, init, jittered, step
from pyro_aevb.pairs import Pair, evaluating
from pyro_aevb.traces import LatentSpace

__all__ = ["Samples", "check_counts", "sample_posterior"]

Adaptation = Literal["global", "datum"]

FAILED = "the posterior cannot be sampled with these data"


class Samples(NamedTuple):
    """Draws from the posterior of each datum, and how far they can be trusted."""

    position: Tensor
    """Unconstrained latents u after each transition, ``(S, C, B, K)``"""
    log_joint: Tensor
    """log p(x, u) at these, ``(S, C, B)``, in nats"""
    acceptance: Tensor
    """Mean acceptance rate of each datum's chains after burn-in, ``(B,)``, between 0 and 1"""
    step_size: Tensor
    """The adapted step size: one for all, ``()``, or one for each datum, ``(B,)``"""
    space: LatentSpace
    """The map from u to the latents, ``space.latents(u)``."""
    state: State
    """Where the chains ended, from which they can go on."""
    info: Info
    """What each transition after burn-in did, ``(S, C, B)`` each"""

    @property
    def rhat(self) -> Tensor:
        """Rank-normalised split R-hat of each datum and latent, ``(B, K)``; near 1 where the chains agree."""
        return self._diagnosed("rhat")

    @property
    def effective_samples(self) -> Tensor:
        """Bulk effective sample size of each datum and latent over all chains, ``(B, K)``."""
        return self._diagnosed("ess")

    def _diagnosed(self, name: str) -> Tensor:
        from arviz_stats.base import array_stats  # a second to import, so only where it is used

        position = self.position
        half = len(position) // 2
        if position.shape[1] == 1:  # one chain is compared with itself, its first half with its second
            position = torch.cat([position[:half], position[half : 2 * half]], dim=1)
        with np.errstate(all="ignore"):  # a chain that stood still has no spread: NaN tells it
            values = getattr(array_stats, name)(position.double().cpu().numpy(), chain_axis=1, draw_axis=0)
        return torch.as_tensor(values)


@takes_any_data
def sample_posterior(
    model: Pair,
    args: tuple[Tensor, ...],
    num_samples: int,
    *,
    guide: Pair | None = None,
    chains: int = 1,
    burn_in: int = 100,
    leapfrog_steps: int = 10,
    target_acceptance: float = 0.9,
    adaptation: Adaptation = "global",
    step_size: float = 0.1,
) -> Samples:
    r"""Draws from p(z|x) of each datum by Hamiltonian Monte Carlo, with torch's global generator.

    During burn-in the step size adapts to the acceptance rate, ever less; afterwards it is fixed at the geometric mean
    of its values in the second half of burn-in.

    Oracle: the exact posterior of a linear-Gaussian pair.

    Arguments:
        model: The model, any Pyro function with continuous latents in one data plate.
        args: Its data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        num_samples: Number S of draws that are kept of each chain, one after each transition.
        guide: Guide at whose draws the chains begin; by default they begin at draws from the prior.
        chains: Number C of chains of each datum.
        burn_in: Number of transitions before the first draw that is kept, during which the step size adapts.
        leapfrog_steps: Number of leapfrog steps in each transition.
        target_acceptance: Acceptance rate that the step size is adapted to reach, between 0 and 1.
        adaptation: Whose acceptance a step size is adapted to: ``global`` for one step size for all data, as the
            paper's author had it, or ``datum`` for one of each datum's own.
        step_size: Size of the leapfrog steps at the beginning of burn-in, in unconstrained space.

    Raises:
        InputError: If a count is not positive; if a latent is discrete or global; if the log joint density is not
            finite at the beginning; if after burn-in no chain moves.

    References:
        | Auto-Encoding Variational Bayes, appendices D and E (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """
    check_counts(num_samples, chains, burn_in, leapfrog_steps)
    if positive("target_acceptance", target_acceptance) >= 1:
        raise InputError(f"target_acceptance must lie between 0 and 1, not {target_acceptance}")
    choice("adaptation", adaptation, ("global", "datum"))
    positive("step_size", step_size)
    function("model", model)
    if guide is not None:
        function("guide", guide)
    args = _fixed(args)
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(traces.refused_in_one_line(FAILED, args, model, guide or model))
        stack.enter_context(evaluating(traces.modules_of(model, guide or model, args).values()))
        traces.check_observed(model, guide, args, torch.arange(len(args[0])))
        space = traces.latent_space(model, args)
        log_density = partial(_log_joint, model, args, space)
        if guide is not None:
            traces.check_guide(model, guide, args)
        state = init(log_density, space.draw(guide or model, args, chains))
        shape = () if adaptation == "global" else state.position.shape[1:2]
        start = torch.full(shape, step_size).to(state.position)
        # Far ends of diverging paths are rejected, not refused; at the beginning everything was checked.
        stack.enter_context(pyro.validation_enabled(False))
        state, size = _burn_in(log_density, state, start, burn_in, leapfrog_steps, target_acceptance)
        return _kept(log_density, state, size, num_samples, leapfrog_steps, space)


def check_counts(num_samples: int, chains: int, burn_in: int, leapfrog_steps: int) -> None:
    """Refuse what is no number of draws, chains or steps.

    Raises:
        InputError: Names the argument.
    """
    for name, count in {"num_samples": num_samples, "chains": chains, "leapfrog_steps": leapfrog_steps}.items():
        whole(name, count)
    whole("burn_in", burn_in, least=0)


def _fixed(args: Any) -> tuple[Tensor, ...]:
    """A pair's arguments as tensors, if they are data and there are any."""
    found: Any = as_tensors(args, evaluated=True)
    if len(found[0]) == 0:
        raise InputError("there are no data whose posterior could be sampled: the data set is empty")
    return found


def _log_joint(model: Pair, args: tuple[Tensor, ...], space: LatentSpace, u: Tensor) -> Tensor:
    likelihood, prior = space.log_joint(model, args, u)
    return likelihood + prior


def _burn_in(
    log_density: LogDensity, state: State, size: Tensor, count: int, leapfrog_steps: int, target: float
) -> tuple[State, Tensor]:
    logs = []
    for i in range(count):
        state, info = step(log_density, state, jittered(size), leapfrog_steps)
        size = adapted(size, info.acceptance, target, rate=3 / math.sqrt(i + 1))
        if i >= count // 2:
            logs.append(size.log())
    return state, torch.stack(logs).mean(0).exp() if logs else size


def _kept(
    log_density: LogDensity, state: State, size: Tensor, count: int, leapfrog_steps: int, space: LatentSpace
) -> Samples:
    positions: list[Tensor] = []
    logs: list[Tensor] = []
    infos: list[Info] = []
    for _ in range(count):
        state, info = step(log_density, state, jittered(size), leapfrog_steps)
        positions.append(state.position)
        logs.append(state.log_density)
        infos.append(info)
    every = Info(*map(torch.stack, zip(*infos, strict=True)))
    if not every.accepted.any():
        raise InputError(
            f"no chain moved in {count} transitions at step size {size.mean().item():.2g}: take a longer burn_in, or a "
            "smaller step_size to begin with"
        )
    acceptance = every.acceptance.mean((0, 1))
    return Samples(torch.stack(positions), torch.stack(logs), acceptance, size, space, state, every)
