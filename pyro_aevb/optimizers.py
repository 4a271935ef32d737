"""The paper's optimizer as its author ran it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.errors import InputError

__all__ = ["Adagrad"]


class Adagrad(torch.optim.Adagrad):
    r"""Adagrad that sums squares for some steps before it moves.

    .. math:: G_t = G_{t-1} + g_t^2, \quad \theta_t = \theta_{t-1} - [t > t_0]\, \eta\, g_t / (\sqrt{G_t} + \epsilon)

    Plain Adagrad's first steps have the full length :math:`\eta` in every coordinate, whatever the gradient, which
    throws a network far off when its step size is large. The paper does not tell of the pause; its author's code has
    it.

    Oracle: the formula, step by step.

    Arguments:
        params: What to train.
        lr: Step size :math:`\eta`.
        weight_decay: As for :class:`torch.optim.Adagrad`; 1 is the paper's prior N(0, I) on weights.
        eps: :math:`\epsilon`.
        warm_up: Steps :math:`t_0` without a move.
        fused: As for :class:`torch.optim.Adagrad`.

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
    ) -> None:
        if warm_up < 0:
            raise InputError(f"warm_up must be a number of steps, at least 0, not {warm_up}")
        params = list(params)
        if fused and any(p.device.type == "cuda" for p in params):
            raise ValueError("the pause is counted in Python, which a CUDA graph of this optimizer would not see")
        super().__init__(params, lr=lr, weight_decay=weight_decay, eps=eps, fused=fused)
        self.param_groups[0].setdefault("steps_left", warm_up)  # saved with the state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; while the pause lasts, of the sums alone."""
        first = self.param_groups[0]
        rates = [group["lr"] for group in self.param_groups]
        if first["steps_left"] > 0:
            first["steps_left"] -= 1
            for group in self.param_groups:
                group["lr"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
