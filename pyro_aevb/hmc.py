r"""Hamiltonian Monte Carlo, batched: chains for each datum, all data in one tensor, each accepting by itself.

.. math:: H(u, r) = -\log p(u) + \tfrac12 \lVert r \rVert^2, \qquad
          \dot u = r, \quad \dot r = \nabla_u \log p(u)

A transition draws a momentum r ~ N(0, I), follows the dynamics for some leapfrog steps, and accepts the end with
probability :math:`\min(1, e^{H - H'})`. Latents move in unconstrained space. Shapes: ``C`` chains, ``B`` data, ``K``
latents.

References:
    | MCMC using Hamiltonian dynamics (Neal, 2011)
    | https://arxiv.org/abs/1206.1901
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.data.given import as_tensors
from pyro_aevb.errors import InputError, choice, function, instance, positive, whole
from pyro_aevb.pairs import Pair, evaluating
from pyro_aevb.traces import LatentSpace

__all__ = [
    "Info",
    "Samples",
    "State",
    "adapted",
    "init",
    "jittered",
    "leapfrog",
    "sample_posterior",
    "step",
    "with_gradient",
]

LogDensity = Callable[[Tensor], Tensor]
Adaptation = Literal["global", "datum"]

LARGEST_FACTOR = 1.25  # by which one transition may change the step size, as the paper's author had it
FAILED = "the posterior cannot be sampled with these data"
JITTER = 0.2  # step sizes vary by this part, so that no orbit closes upon itself


class State(NamedTuple):
    """Where all chains are."""

    position: Tensor
    """u, ``(C, B, K)``"""
    log_density: Tensor
    """log p(u), up to a constant for each datum, ``(C, B)``"""
    gradient: Tensor
    """Its gradient by u, ``(C, B, K)``"""


class Info(NamedTuple):
    """What a transition did."""

    acceptance: Tensor
    """Probability with which each end was to be accepted, ``(C, B)``"""
    accepted: Tensor
    """Whether it was, ``(C, B)``"""


class Samples(NamedTuple):
    """Draws from the posterior of each datum, and how far they can be trusted."""

    position: Tensor
    """u after each transition, unconstrained, ``(S, C, B, K)``"""
    log_joint: Tensor
    """log p(x, u) there, ``(S, C, B)``"""
    acceptance: Tensor
    """Mean acceptance of each datum after burn-in, ``(B,)``"""
    step_size: Tensor
    """As adapted: one for all, ``()``, or one for each datum, ``(B,)``"""
    space: LatentSpace
    """From u to the latents."""
    state: State
    """To go on from."""

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

        position, half = self.position, len(self.position) // 2
        if position.shape[1] == 1:  # one chain is compared with itself, its first half with its second
            position = torch.cat([position[:half], position[half : 2 * half]], dim=1)
        with np.errstate(all="ignore"):  # a chain that stood still has no spread: NaN tells it
            values = getattr(array_stats, name)(position.double().cpu().numpy(), chain_axis=1, draw_axis=0)
        return torch.as_tensor(values)


# ---------------------------------------------------------------- the algorithm


def init(log_density: LogDensity, position: Tensor) -> State:
    """The state of chains at given positions, ``(C, B, K)``.

    Raises:
        InputError: If the log density is not finite somewhere: names the first datum.
    """
    function("log_density", log_density)
    if instance("position", position, Tensor).dim() != 3 or not position.is_floating_point():
        found = f"{tuple(position.shape)} of {position.dtype}"
        raise InputError(f"position must be floating-point numbers of shape (C, B, K), not {found}")
    state = State(position.detach(), *with_gradient(log_density, position))
    if broken := (~torch.isfinite(state.log_density)).any(0).nonzero().flatten().tolist():
        raise InputError(
            f"the log density is not finite where the chains begin, for {len(broken)} data, number {broken[0]} first: "
            "look at the model's parameters and the data"
        )
    return state


def step(log_density: LogDensity, state: State, step_size: Tensor, leapfrog_steps: int = 10) -> tuple[State, Info]:
    """One transition of every chain.

    Arguments:
        log_density: log p(u), ``(C, B, K)`` to ``(C, B)``.
        state: Where the chains are.
        step_size: Of the leapfrog steps: ``()``, ``(B,)`` or ``(C, B)``.
        leapfrog_steps: How many of them.

    Returns:
        The next state, and what happened.
    """
    function("log_density", log_density)
    instance("state", state, State, "give what init returned")
    instance("step_size", step_size, Tensor, "give torch.tensor(0.1), say")
    whole("leapfrog_steps", leapfrog_steps)
    momentum = torch.randn_like(state.position)
    proposed, end = leapfrog(log_density, state, momentum, step_size, leapfrog_steps)
    gain = proposed.log_density - _kinetic(end) - state.log_density + _kinetic(momentum)  # (C, B)
    gain = torch.where(proposed.log_density.isfinite(), gain.nan_to_num(nan=-math.inf), -math.inf)
    acceptance = gain.clamp(max=0).exp()  # an end that is not finite is never accepted
    accepted = torch.rand_like(acceptance) < acceptance
    chosen = [
        torch.where(accepted if new.dim() == accepted.dim() else accepted.unsqueeze(-1), new, old)
        for new, old in zip(proposed, state, strict=True)
    ]
    return State(*chosen), Info(acceptance, accepted)


def leapfrog(
    log_density: LogDensity, state: State, momentum: Tensor, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    r"""Follow the dynamics: reversible, and keeping volumes.

    .. math:: r \leftarrow r + \tfrac\epsilon2 \nabla \log p(u), \quad u \leftarrow u + \epsilon r, \quad
              r \leftarrow r + \tfrac\epsilon2 \nabla \log p(u)

    Returns:
        The state at the end, and the momentum there.
    """
    size = step_size.unsqueeze(-1)
    momentum = momentum + size / 2 * state.gradient
    for i in range(steps):
        position = state.position + size * momentum
        state = State(position, *with_gradient(log_density, position))
        momentum = momentum + (size if i < steps - 1 else size / 2) * state.gradient
    return state, momentum


def adapted(step_size: Tensor, acceptance: Tensor, target: float = 0.9, rate: float = 1.0) -> Tensor:
    r"""A step size nearer to the target acceptance.

    .. math:: \log \epsilon \leftarrow \log \epsilon + \gamma\, (\alpha - \alpha^\ast)

    Arguments:
        step_size: ``()`` to adapt to the mean over all chains, ``(B,)`` for each datum by itself.
        acceptance: Of the last transition, ``(C, B)``.
        target: Wanted acceptance.
        rate: How far to go.
    """
    mean = acceptance.mean() if step_size.dim() == 0 else acceptance.mean(0)
    change = (rate * (mean - target)).clamp(-math.log(LARGEST_FACTOR), math.log(LARGEST_FACTOR))
    return step_size * change.exp()


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2


def with_gradient(log_density: LogDensity, position: Tensor) -> tuple[Tensor, Tensor]:
    """log p(u), ``(C, B)``, and its gradient by u, ``(C, B, K)``."""
    with torch.enable_grad():
        leaf = position.detach().requires_grad_()
        value = log_density(leaf)  # (C, B)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


# ---------------------------------------------------------------- posteriors of a model


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

    The step size adapts during burn-in, ever less, and is then the geometric mean of the second half's.

    Arguments:
        model: The model, any Pyro function with continuous latents in one data plate.
        args: Its arguments, batch first.
        num_samples: Transitions kept, of each chain.
        guide: Where chains begin; else they begin at draws from the prior.
        chains: Chains of each datum.
        burn_in: Transitions before, not kept.
        leapfrog_steps: In each transition.
        target_acceptance: That the step size adapts to.
        adaptation: ``global``, one step size for all data, as the paper's author had it; or one for each ``datum``.
        step_size: To begin with.

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
    """Refuse, by name, what is no number of draws, chains or steps."""
    for name, count in {"num_samples": num_samples, "chains": chains, "leapfrog_steps": leapfrog_steps}.items():
        whole(name, count)
    whole("burn_in", burn_in, least=0)


def _fixed(args: Any) -> tuple[Tensor, ...]:
    """A pair's arguments, if they are data."""
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
    positions, logs, acceptance = [], [], torch.zeros_like(state.log_density)
    moved = torch.zeros_like(acceptance, dtype=torch.bool)
    for _ in range(count):
        state, info = step(log_density, state, jittered(size), leapfrog_steps)
        positions.append(state.position)
        logs.append(state.log_density)
        acceptance += info.acceptance / count
        moved |= info.accepted
    if not moved.any():
        raise InputError(
            f"no chain moved in {count} transitions at step size {size.mean().item():.2g}: take a longer burn_in, or a "
            "smaller step_size to begin with"
        )
    return Samples(torch.stack(positions), torch.stack(logs), acceptance.mean(0), size, space, state)


def jittered(size: Tensor) -> Tensor:
    """A step size a little longer or shorter, so that no orbit closes upon itself."""
    return size * (1 + JITTER * (2 * torch.rand_like(size) - 1))
