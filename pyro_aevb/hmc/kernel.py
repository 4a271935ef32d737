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
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_aevb.errors import InputError, function, instance, whole

__all__ = ["Info", "LogDensity", "State", "adapted", "init", "jittered", "leapfrog", "step", "with_gradient"]

LogDensity = Callable[[Tensor], Tensor]

LARGEST_FACTOR = 1.25  # by which one transition may change the step size, as the paper's author had it
LARGEST_ERROR = 1000.0  # nats of energy, beyond which a path is said to diverge
JITTER = 0.2  # step sizes vary by this share of themselves, so that no orbit closes upon itself


class State(NamedTuple):
    """Where all chains are: C chains for each of B data, in K unconstrained dimensions."""

    position: Tensor
    """Unconstrained latents u, ``(C, B, K)``"""
    log_density: Tensor
    """log p(u), up to a constant for each datum, ``(C, B)``"""
    gradient: Tensor
    """Gradient of ``log_density`` by u, ``(C, B, K)``"""


class Info(NamedTuple):
    """What a transition did to each chain: how probable its acceptance was, whether it moved, and its energy."""

    acceptance: Tensor
    """Probability with which the end of each chain's path was to be accepted, ``(C, B)``"""
    accepted: Tensor
    """Whether the end was accepted, so that the chain moved, ``(C, B)``"""
    energy: Tensor
    """Energy H where the chain is afterwards, with the momentum that it came there with, ``(C, B)``, in nats"""
    energy_error: Tensor
    """Energy at the path's end less that at its beginning, ``(C, B)``, in nats: 0 for a path without error, infinite
    where the end has no density"""

    @property
    def diverging(self) -> Tensor:
        """Whether the path left Hamilton's: its energy grew by more than 1,000 nats, as Stan counts it, ``(C, B)``."""
        return self.energy_error > LARGEST_ERROR


def init(log_density: LogDensity, position: Tensor) -> State:
    """The state that chains begin in: their positions, with the log density and its gradient there.

    Arguments:
        log_density: Function that computes log p(u) up to a constant, ``(C, B, K)`` to ``(C, B)``.
        position: Where the chains begin, ``(C, B, K)``.

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
    """One transition of Hamiltonian Monte Carlo of every chain, each of which accepts or rejects by itself.

    Each chain draws a momentum, follows the leapfrog path, and moves to its end with the Metropolis probability, so
    that the density p(u) stays what it is.

    Oracle: the distributions of SciPy, and the exact posterior of a linear-Gaussian pair.

    Arguments:
        log_density: Function that computes log p(u) up to a constant, ``(C, B, K)`` to ``(C, B)``.
        state: Where the chains are, from :func:`init` or the step before.
        step_size: Size of the leapfrog steps: one for all chains, ``()``, one for each datum, ``(B,)``, or one for each
            chain, ``(C, B)``.
        leapfrog_steps: Number of leapfrog steps on a path.

    Returns:
        The next state, and each chain's acceptance.
    """
    function("log_density", log_density)
    instance("state", state, State, "give what init returned")
    instance("step_size", step_size, Tensor, "give torch.tensor(0.1), say")
    whole("leapfrog_steps", leapfrog_steps)
    momentum = torch.randn_like(state.position)
    proposed, end = leapfrog(log_density, state, momentum, step_size, leapfrog_steps)
    before = _kinetic(momentum) - state.log_density  # (C, B)
    gain = proposed.log_density - _kinetic(end) - state.log_density + _kinetic(momentum)  # (C, B)
    gain = torch.where(proposed.log_density.isfinite(), gain.nan_to_num(nan=-math.inf), -math.inf)
    acceptance = gain.clamp(max=0).exp()  # an end that is not finite is never accepted
    accepted = torch.rand_like(acceptance) < acceptance
    chosen = [
        torch.where(accepted if new.dim() == accepted.dim() else accepted.unsqueeze(-1), new, old)
        for new, old in zip(proposed, state, strict=True)
    ]
    energy = torch.where(accepted, before - gain, before)
    return State(*chosen), Info(acceptance, accepted, energy, -gain)


def leapfrog(
    log_density: LogDensity, state: State, momentum: Tensor, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    r"""Follow Hamilton's equations in steps that are reversible and keep volumes.

    Each step is

    .. math:: r \leftarrow r + \tfrac\epsilon2 \nabla \log p(u), \quad u \leftarrow u + \epsilon r, \quad
              r \leftarrow r + \tfrac\epsilon2 \nabla \log p(u)

    Arguments:
        log_density: Function that computes log p(u) up to a constant, ``(C, B, K)`` to ``(C, B)``.
        state: Where the chains are.
        momentum: Momentum r of each chain, ``(C, B, K)``.
        step_size: Size :math:`\epsilon` of the steps, ``()``, ``(B,)`` or ``(C, B)``.
        steps: Number of steps.

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
        step_size: Step size :math:`\epsilon`: one for all, ``()``, adapted by the mean over all chains, or one for each
            datum, ``(B,)``, adapted by the mean over its own.
        acceptance: Probability :math:`\alpha` with which the last transition was to be accepted, ``(C, B)``.
        target: Acceptance rate :math:`\alpha^\ast` that the step size is adapted to reach, between 0 and 1.
        rate: Rate :math:`\gamma` of adaptation; whatever it is, the step size changes by a quarter at most.
    """
    mean = acceptance.mean() if step_size.dim() == 0 else acceptance.mean(0)
    change = (rate * (mean - target)).clamp(-math.log(LARGEST_FACTOR), math.log(LARGEST_FACTOR))
    return step_size * change.exp()


def with_gradient(log_density: LogDensity, position: Tensor) -> tuple[Tensor, Tensor]:
    """The log density and its gradient at the positions of all chains.

    Arguments:
        log_density: Function that computes log p(u) up to a constant, ``(C, B, K)`` to ``(C, B)``.
        position: Positions u, ``(C, B, K)``.

    Returns:
        log p(u), ``(C, B)``, and its gradient by u, ``(C, B, K)``.
    """
    with torch.enable_grad():
        leaf = position.detach().requires_grad_()
        value = log_density(leaf)  # (C, B)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def jittered(size: Tensor) -> Tensor:
    """A step size up to a fifth longer or shorter, at random, so that no orbit closes upon itself.

    Arguments:
        size: Step size of any shape.
    """
    return size * (1 + JITTER * (2 * torch.rand_like(size) - 1))


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2
