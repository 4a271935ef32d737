"""The paper's optimizer as its author ran it, and Adam with a step size that falls to zero."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.errors import whole
from pyro_aevb.torch_internals import (
    foreach_add,
    foreach_add_,
    foreach_addcdiv_,
    foreach_addcmul_,
    foreach_mul_,
    foreach_sqrt,
    step_without_hooks,
)

__all__ = ["Adagrad", "CosineAdam", "Paced"]


class Paced(torch.optim.Optimizer):
    """An optimizer whose step sizes change from step to step, by a count kept in Python.

    Counting and updating are two methods: a CUDA graph can hold the update, whose size is set from outside by whoever
    counts the steps with :meth:`next_factor`.

    Arguments:
        params: Tensors to train, or groups of them, as for any optimizer of ``torch.optim``.
        defaults: Options of a group that does not say otherwise, ``lr`` among them.
    """

    count: str
    """Name of the entry of the first parameter group that counts the steps."""

    def next_factor(self) -> float:
        """The factor of ``lr`` for the next step, which counts as taken from then on."""
        raise NotImplementedError

    def update(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of size ``lr`` as it stands, without counting it."""
        # Torch's wrapper around our own step has run the hooks: they must not run again with the other class's.
        return step_without_hooks(super().step, closure)  # of the class mixed with

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the next step, and count it."""
        with _scaled(self, self.next_factor()):
            return self.update(closure)


class Adagrad(Paced, torch.optim.Adagrad):
    r"""Adagrad that sums squares for some steps before it moves.

    .. math:: G_t = G_{t-1} + g_t^2, \quad \theta_t = \theta_{t-1} - [t > t_0]\, \eta\, g_t / (\sqrt{G_t} + \epsilon)

    Plain Adagrad's first steps have the full length :math:`\eta` in every coordinate, whatever the gradient, which
    throws a network far off when its step size is large. The paper does not tell of the pause; its author's code has
    it.

    Oracle: the formula, step by step.

    Arguments:
        params: Tensors to train.
        lr: Step size :math:`\eta`.
        weight_decay: How many times a weight is added to its gradient; 1 is the paper's prior N(0, I) on weights.
        eps: Number :math:`\epsilon` that keeps the division from one by zero.
        warm_up: Number of first steps :math:`t_0` that sum squares and do not move.
        fused: Whether torch's fused kernel updates the weights; ``None`` for torch's own choice.
        capturable: Whether to take steps by tensor operations alone, so that a CUDA graph can hold them. torch's fused
            kernel can be held too, but in its version 2.11, say, has none for a GPU.

    Raises:
        InputError: If ``warm_up`` is negative.

    References:
        | Adaptive subgradient methods (Duchi et al., 2011)
        | https://jmlr.org/papers/v12/duchi11a.html
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        *,
        weight_decay: float = 0.0,
        eps: float = 1e-10,
        warm_up: int = 100,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        whole("warm_up", warm_up, least=0)
        super().__init__(params, lr=lr, weight_decay=weight_decay, eps=eps, fused=fused)
        self.param_groups[0].setdefault("steps_left", warm_up)  # saved with the state
        for group in self.param_groups:
            group["capturable"] = capturable
        for p, state in self.state.items() if capturable else ():
            state["step"] = state["step"].to(p.device)

    count = "steps_left"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a saved state; one that knows no pause, such as torch's own Adagrad's, is past it."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's has no types
        self.param_groups[0].setdefault("steps_left", 0)
        for group in self.param_groups:
            group.setdefault("capturable", False)

    def update(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of size ``lr`` as it stands, without counting it."""
        groups = self.param_groups
        if not all(group["capturable"] and not group["fused"] and not group["lr_decay"] for group in groups):
            return super().update(closure)
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            self._update_by_tensors(group)
        return loss

    @torch.no_grad()
    def _update_by_tensors(self, group: dict[str, Any]) -> None:
        """The formula for all weights at once, in seven launches."""
        if not (moved := [p for p in group["params"] if p.grad is not None]):
            return
        sums = [self.state[p]["sum"] for p in moved]
        steps = [self.state[p]["step"] for p in moved]
        gradients = foreach_add([p.grad for p in moved], moved, alpha=group["weight_decay"])
        foreach_addcmul_(sums, gradients, gradients)
        lengths = foreach_sqrt(sums)
        foreach_add_(lengths, group["eps"])
        foreach_mul_(gradients, group["lr"])
        foreach_addcdiv_(moved, gradients, lengths, value=-1)
        foreach_add_(steps, 1)

    def next_factor(self) -> float:
        """Zero while the pause lasts, so that the sums grow and no weight moves; then one."""
        first = self.param_groups[0]
        moving = first["steps_left"] <= 0
        first["steps_left"] -= not moving
        return 1.0 if moving else 0.0


class CosineAdam(Paced, torch.optim.Adam):
    r"""Adam whose step size falls to zero over a given number of steps, along half a cosine.

    .. math:: \eta_t = \tfrac12 \eta\, (1 + \cos(\pi t / T)), \quad t = 0, 1, \dots, T

    The noise of minibatches keeps a constant step size away from the optimum; one that falls gets there, and at a run's
    end is worth more than the same steps at full length. Steps after :math:`T` do nothing.

    Oracle: torch's own Adam with torch's ``CosineAnnealingLR``.

    Arguments:
        params: Tensors to train.
        lr: First and largest step size :math:`\eta`.
        total_steps: Number of steps :math:`T` of the whole training: samples / batch size.
        betas: Decays of Adam's two moving averages, of the gradient and of its square, in [0, 1).
        eps: Number added to Adam's denominator.
        weight_decay: How many times a weight is added to its gradient; 1 is the paper's prior N(0, I) on weights.
        fused: Whether torch's fused kernel updates the weights; ``None`` for torch's own choice.

    Raises:
        InputError: If ``total_steps`` is not positive.

    References:
        | SGDR: stochastic gradient descent with warm restarts (Loshchilov & Hutter, 2017)
        | https://arxiv.org/abs/1608.03983
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        *,
        total_steps: int = 100_000,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        whole("total_steps", total_steps)
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        self.param_groups[0].setdefault("total_steps", total_steps)  # saved with the state
        self.param_groups[0].setdefault("steps_taken", 0)

    count = "steps_taken"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a saved state, which must say how many steps were taken, and of how many."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's has no types
        if not {"steps_taken", "total_steps"} <= self.param_groups[0].keys():
            raise ValueError("saved by another optimizer: it does not say how many steps were taken of how many")

    def next_factor(self) -> float:
        """The cosine's height after the steps taken before, from 1 down to 0."""
        first = self.param_groups[0]
        fraction = min(1.0, first["steps_taken"] / first["total_steps"])
        first["steps_taken"] += 1
        return 0.5 * (1 + cos(pi * fraction))


@contextmanager
def _scaled(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Multiply the step sizes of all groups by a factor, for the time of a block."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
