"""What a user's pair is made of: the ``nn.Module`` s behind two callables, and their training switches."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["Pair", "evaluating", "modules_of", "trained_parameters"]

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


def trained_parameters(model: Pair, guide: Pair, met: dict[str, Tensor]) -> dict[str, Tensor]:
    """What to train, by stable names: all that Pyro met, and all of a model or guide that is a module.

    The latter need not show Pyro its parameters; and of one that is not contiguous Pyro's store keeps a copy, so that
    ``SVI`` would not train it.
    """
    in_modules = {f"{m}.{n}": p for m, mod in modules_of(model, guide).items() for n, p in mod.named_parameters()}
    parts = [part for part in (model, guide) if isinstance(part, nn.Module)]
    wanted = {id(p) for p in met.values()} | {id(p) for m in parts for p in m.parameters() if p.requires_grad}
    named: dict[str, Tensor] = {}
    for name, parameter in in_modules.items():
        if id(parameter) in wanted:
            named[name] = parameter
            wanted.remove(id(parameter))  # a module within another one found: its weights once
    known = {id(p) for p in named.values()}
    return named | {name: p for name, p in met.items() if id(p) not in known}


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
