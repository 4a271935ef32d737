"""What a user's pair is made of: the ``nn.Module`` s behind two callables, and their training switches."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

__all__ = ["Pair", "evaluating", "modules_of"]

Pair = Callable[..., Any]


def modules_of(model: Pair, guide: Pair) -> dict[str, nn.Module]:
    """The modules that model and guide are, are methods of, or name as variables; each once, by a stable name.

    >>> net = nn.Linear(2, 3)
    >>> list(modules_of(net, lambda x: net(x)))
    ['model']
    """
    found: dict[str, nn.Module] = {}
    for role, function in (("model", model), ("guide", guide)):
        for name, module in _reachable(function):
            if all(module is not known for known in found.values()):
                found[f"{role}{name}"] = module
    return found


def _reachable(function: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(function, partial):
        function = function.func
    if isinstance(function, nn.Module):
        yield "", function
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        yield ".self", owner
    target = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(target):
        variables = inspect.getclosurevars(target)
        for name, value in {**variables.globals, **variables.nonlocals}.items():
            if isinstance(value, nn.Module):
                yield f".{name}", value


@contextmanager
def evaluating(model: Pair, guide: Pair) -> Iterator[None]:
    """Put every module of a pair in ``eval()`` for a block, and each part back as it was."""
    parts = [part for module in modules_of(model, guide).values() for part in module.modules()]
    training = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, was in zip(parts, training, strict=True):
            part.training = was
