"""Tensors and optimizers of several members as one, and back."""

import copy
from collections import defaultdict
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_aevb import optimizers

__all__ = ["ELEMENTWISE", "JoinedOptimizer", "Stacked", "joined_optimizers"]

# What these do to an element depends on that element's gradients alone.
ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    optimizers.Adagrad,
    optimizers.CosineAdam,
)


class Stacked:
    """Tensors of members, each kind in one tensor with the members in front.

    Arguments:
        members: Each member's tensors, of the same shapes.
    """

    def __init__(self, members: list[list[Tensor]]) -> None:
        self.members = members
        self.kinds = list(zip(*members, strict=True))
        self.tensors = [torch.stack([own.detach() for own in kind]) for kind in self.kinds]

    @torch.no_grad()
    def join(self) -> None:
        """From the members, into the same memory."""
        for stacked, kind in zip(self.tensors, self.kinds, strict=True):
            torch.stack(kind, out=stacked)

    @torch.no_grad()
    def part(self) -> None:
        """Back to the members."""
        for stacked, kind in zip(self.tensors, self.kinds, strict=True):
            for own, value in zip(kind, stacked, strict=True):
                own.copy_(value)


class JoinedOptimizer:
    """One optimizer over the stacked tensors of neighbours: exact for one that works element by element.

    Arguments:
        optimizers: The neighbours' own, whose settings agree.
        parameters: Those of all members.
        first: Which member the first of them is.
    """

    def __init__(self, optimizers: list[Optimizer], parameters: Stacked, first: int) -> None:
        self.optimizers = optimizers
        self.members = slice(first, first + len(optimizers))
        self.own = parameters.members[self.members]
        self.parameters = [stacked[self.members] for stacked in parameters.tensors]
        joined = dict(zip(map(id, self.own[0]), self.parameters, strict=True))
        self.optimizer = copy.copy(optimizers[0])
        self.optimizer.param_groups = [
            {**group, "params": [joined[id(p)] for p in group["params"]]} for group in optimizers[0].param_groups
        ]
        self.optimizer.state = defaultdict(dict)
        for parameter, kind in zip(self.parameters, zip(*self.own, strict=True), strict=True):
            states = [optimizer.state.get(own, {}) for optimizer, own in zip(optimizers, kind, strict=True)]
            self.optimizer.state[parameter] = {key: _join(key, [state[key] for state in states]) for key in states[0]}

    def step(self, gradients: list[Tensor | None]) -> None:
        """With the gradients of all members."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient[self.members]
        self.optimizer.step()

    def part(self) -> None:
        """Settings and state back to the members' optimizers."""
        for member, (optimizer, parameters) in enumerate(zip(self.optimizers, self.own, strict=True)):
            for group, joined in zip(optimizer.param_groups, self.optimizer.param_groups, strict=True):
                group.update({key: value for key, value in joined.items() if key != "params"})
            for parameter, stacked in zip(parameters, self.parameters, strict=True):
                if state := self.optimizer.state.get(stacked):
                    optimizer.state[parameter] = {key: _part(key, value, member) for key, value in state.items()}


def joined_optimizers(optimizers: list[Optimizer], parameters: Stacked) -> list[JoinedOptimizer]:
    """One for each run of neighbours whose settings agree.

    Arguments:
        optimizers: Of the members, over the same kinds of parameters in the same groups.
        parameters: Of the members.
    """
    settings = [_settings(optimizer) for optimizer in optimizers]
    runs = [list(run) for _, run in groupby(range(len(optimizers)), key=settings.__getitem__)]
    return [JoinedOptimizer([optimizers[member] for member in run], parameters, run[0]) for run in runs]


def _settings(optimizer: Optimizer) -> list[Any]:
    """All that is one number for many elements: settings, and how many steps were taken."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    steps = [
        float(optimizer.state.get(p, {}).get("step", 0)) for group in optimizer.param_groups for p in group["params"]
    ]
    return [groups, steps]


def _join(key: str, values: list[Any]) -> Any:
    return copy.deepcopy(values[0]) if _shared(key, values[0]) else torch.stack(values)


def _part(key: str, value: Any, member: int) -> Any:
    return copy.deepcopy(value) if _shared(key, value) else value[member].clone()


def _shared(key: str, value: Any) -> bool:
    return key == "step" or not isinstance(value, Tensor)
