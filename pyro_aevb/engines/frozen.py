"""What a recording holds fast, and may not: where tensors lie, what a pair keeps in Python, and hooks.

A recording reads tensors where they lay when it was made. Python's numbers and switches are part of it as they were
then; what a step writes to Python it does not write. All this is cheap to read, and read before a recording is used.
"""

import argparse
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_aevb.engines import places
from pyro_aevb.engines.places import LARGEST, OPAQUE, PLAIN, Place, Values, contents
from pyro_aevb.origins import comes_from
from pyro_aevb.pairs import MOST_VISITED, globals_read, wrapped_by
from pyro_aevb.torch_internals import global_hooks, has_backward_hooks, hooks_of

__all__ = ["Frozen", "PythonState"]

FOREIGN = {"torch", "pyro", "numpy", "builtins", "pyro_aevb", *sys.stdlib_module_names} - {"__main__"}
"""Whose functions and classes keep nothing of a pair's, but numbers, switches and text in attributes."""
NAMESPACES = (SimpleNamespace, argparse.Namespace, threading.local)
FOLLOWED = (nn.Module, *NAMESPACES)
"""Libraries' objects in which others keep things."""
REGISTERS = ("_parameters", "_buffers", "_modules")  # of a module, as torch documents for whoever writes one
MOST_FOLLOWED = 1_000  # entries of a container whose own places are looked for


class PythonState:
    """What functions keep in attributes, containers, closures, globals and generators of Python's.

    Arguments:
        roots: Functions and objects to begin at: model, guide, estimator.
        modules: Modules that take part, however they are reached.
    """

    def __init__(self, roots: Iterable[Any], modules: Iterable[nn.Module]) -> None:
        self.places: list[Place] = [places.Randomness()]
        self._visited: dict[int, Any] = {}  # kept alive, so that no identity is used twice
        waiting = deque([*roots, *modules])
        while waiting and len(self._visited) < MOST_VISITED:
            thing = waiting.popleft()
            if id(thing) not in self._visited and not isinstance(thing, (*PLAIN, Tensor, ModuleType)):
                self._visited[id(thing)] = thing
                waiting.extend(self._visit(thing))

    def read(self) -> list[Values]:
        """All as it is now, place by place."""
        return [place.read() for place in self.places]

    def write(self, values: list[Values]) -> None:
        """Put back what has changed since it was read."""
        for place, before in zip(self.places, values, strict=True):
            place.restore(before)

    def changed(self, before: list[Values], after: list[Values]) -> str | None:
        """The name of the first place where two readings differ, if any does."""
        both = zip(self.places, before, after, strict=True)
        named = (place.difference(one, other) for place, one, other in both)
        return next((name for name in named if name is not None), None)

    def same(self, before: list[Values], after: list[Values]) -> bool:
        """Do the same objects stand in all places?"""
        if not len(before) == len(after) == len(self.places):
            return False
        both = zip(self.places, before, after, strict=True)
        recorded = ((place, one, other) for place, one, other in both if place.is_recorded)
        return all(place.difference(one, other, same_object=True) is None for place, one, other in recorded)

    def tensors(self) -> dict[int, Tensor]:
        """Tensors that are kept without being registered, by identity."""
        found = (v for place in self.places if not isinstance(place, places.Register) for v in place.read().values())
        within = (part for value in found for part in (value if isinstance(value, tuple) else (value,)))
        return {id(value): value for value in within if isinstance(value, Tensor)}

    def _noticed(self, place: Place) -> Iterator[Any]:
        """Watch a place; yields what stands there."""
        self.places.append(place)
        for value in place.read().values():
            yield from self._within(value)

    def _within(self, value: Any) -> Iterator[Any]:
        yield from value if isinstance(value, (tuple, frozenset)) and len(value) <= MOST_FOLLOWED else (value,)

    def _visit(self, thing: Any) -> Iterator[Any]:
        """Notice the places of one object; yields what lies behind it."""
        if tell := next((tell for kind, tell in OPAQUE if isinstance(thing, kind)), None):
            yield from self._noticed(places.Opaque(thing, tell))
            yield getattr(thing, "__wrapped__", None)
        elif isinstance(thing, partial):
            yield from (wrapped_by(thing), *thing.args, thing.keywords)
        elif isinstance(thing, MethodType):
            yield from (thing.__self__, thing.__func__)
        elif isinstance(thing, FunctionType):
            yield from self._of_function(thing)
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif (container := _container(thing)) is not None:
            yield from self._noticed(container)
        elif isinstance(thing, (tuple, frozenset)):
            yield from self._within(thing)
        else:
            yield from self._of_object(thing)

    def _of_object(self, thing: Any) -> Iterator[Any]:
        if _is_foreign(type(thing)) and not isinstance(thing, FOLLOWED):  # an estimator, or some library's
            if hasattr(thing, "__dict__"):
                self.places.append(places.PlainAttributes(thing))
            return
        if isinstance(thing, nn.Module):
            for name in REGISTERS:
                yield from self._noticed(places.Register(thing, name))
        if hasattr(thing, "__dict__"):
            own = not _is_foreign(type(thing)) or isinstance(thing, NAMESPACES)
            kept = places.Attributes if own else places.PlainAttributes
            yield from self._noticed(kept(thing))
        if any("__slots__" in vars(kind) for kind in type(thing).__mro__):
            yield from self._noticed(places.Slots(thing))
        yield from (kind for kind in type(thing).__mro__ if not _is_foreign(kind))

    def _of_class(self, kind: type) -> Iterator[Any]:
        if not _is_foreign(kind):
            self.places.append(places.ClassAttributes(kind))
            yield from (code for value in vars(kind).values() for code in _functions(value))

    def _of_function(self, function: FunctionType) -> Iterator[Any]:
        if function.__module__ is None or _is_foreign(function):
            return
        names = sorted(globals_read(function.__code__))
        yield from self._noticed(places.Names(function.__module__, function.__globals__, names))
        for name in names:
            module = function.__globals__.get(name)
            if isinstance(module, ModuleType) and module.__name__.partition(".")[0] not in FOREIGN:
                yield from self._noticed(places.Names(name, vars(module), _attributes_read(function)))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.places.append(places.Closure(name, cell))
            yield from contents(cell)
        yield from (function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None))


class Frozen:
    """What recordings of one objective hold fast.

    Arguments:
        tensors: Gives the tensors that a recording reads and those that it writes.
        modules: Gives the modules that take part.
        roots: Functions and objects whose Python values are part of a recording.
        numbers: Gives further values that are.
    """

    def __init__(
        self,
        tensors: Callable[[], list[Tensor]],
        modules: Callable[[], Iterable[nn.Module]],
        roots: Iterable[Any],
        numbers: Callable[[], Any] = tuple,
    ) -> None:
        self.tensors = tensors
        self.modules = modules
        self.numbers = numbers
        self.roots = list(roots)
        self.python = PythonState(self.roots, self.modules())

    def read(self) -> "Facts":
        """Take note of all facts as they are now; returns these facts."""
        tensors = self.tensors()
        where = [(id(t), t.data_ptr(), t.dtype, t.shape, t.requires_grad) for t in tensors]
        kept = {**self.python.tensors(), **{id(t): t for t in tensors}}
        small = {key: t for key, t in kept.items() if t.dtype == torch.bool and t.numel() <= LARGEST}
        masks = {key: t.cpu().numpy().tobytes() for key, t in small.items()}
        return Facts([where, masks, self.numbers()], self.python.read())

    def same(self, one: "Facts", other: "Facts") -> bool:
        """Is all as it was then?"""
        return one.tensors == other.tensors and self.python.same(one.python, other.python)

    def look_again(self) -> None:
        """Find the places of Python values anew: others may have come."""
        self.python = PythonState(self.roots, self.modules())

    def obstacle(self) -> str | None:
        """What no recording can hold: a hook that somebody wants called at each step."""
        if any(not _is_foreign(hook) for hook in global_hooks()):
            return "torch has a hook of the user's for all modules"
        if any(has_backward_hooks(parameter) for parameter in self.tensors()):
            return "a tensor has a hook on its gradient"
        modules = {id(part): part for module in self.modules() for part in module.modules()}.values()
        named = ((part, hook) for part in modules for hook in hooks_of(part))
        found = next((part for part, hook in named if not _is_foreign(hook)), None)
        return None if found is None else f"{type(found).__name__} has a hook of the user's"


class Facts(NamedTuple):
    """What was read, to be compared."""

    tensors: list[Any]
    python: list[Values]


def _container(thing: Any) -> Place | None:
    """The place of a container's entries; ``None`` of what is none that can be changed."""
    if isinstance(thing, MutableMapping):
        return places.Items(thing)
    if isinstance(thing, MutableSequence):
        return places.Sequence(thing)
    return places.Members(thing) if isinstance(thing, set) else None


def _functions(value: Any) -> Iterator[Any]:
    """The functions behind an attribute of a class: a method's, a property's."""
    if isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, cached_property):
        yield value.func
    elif isinstance(value, FunctionType):
        yield value


def _attributes_read(function: FunctionType) -> list[str]:
    """Names of attributes in a function's code, and in that of functions inside it."""
    waiting = [function.__code__]
    found: set[str] = set()
    while waiting:
        code = waiting.pop()
        found.update(code.co_names)
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return sorted(found)


def _is_foreign(thing: Any) -> bool:
    """Is a function or class part of a library that keeps nothing of a pair's?"""
    while isinstance(thing, partial):
        thing = thing.func
    return comes_from(thing if hasattr(thing, "__module__") else type(thing), *FOREIGN)
