"""What a recording holds fast, and may not: where tensors lie, what a pair keeps in Python, and hooks.

A recording reads tensors where they lay when it was made. Python's numbers and switches are part of it as they were
then; what a step writes to Python it does not write. All this is cheap to read, and read before a recording is used.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from pyro_aevb.engines import places
from pyro_aevb.engines.places import LARGEST, PLAIN, Place, contents, equal
from pyro_aevb.origins import comes_from
from pyro_aevb.pairs import MOST_VISITED, globals_read, wrapped_by
from pyro_aevb.torch_internals import has_backward_hooks, hooks_of

__all__ = ["Frozen", "PythonState"]

FOREIGN = {"torch", "pyro", "numpy", "builtins", "pyro_aevb", *sys.stdlib_module_names} - {"__main__"}
"""Whose functions and classes keep nothing of a pair's."""
REGISTERS = ("_parameters", "_buffers")  # of a module, as torch documents for whoever writes one


class PythonState:
    """The numbers, switches, text and lengths that functions keep in attributes, containers, closures and globals.

    Arguments:
        roots: Functions and objects to begin at: model, guide, estimator.
        modules: Modules that take part, however they are reached.
    """

    def __init__(self, roots: Iterable[Any], modules: Iterable[nn.Module]) -> None:
        self.places: list[Place] = []
        self._visited: dict[int, Any] = {}  # kept alive, so that no identity is used twice
        waiting = deque([*roots, *modules])
        while waiting and len(self._visited) < MOST_VISITED:
            thing = waiting.popleft()
            if id(thing) not in self._visited and not isinstance(thing, (*PLAIN, Tensor, ModuleType)):
                self._visited[id(thing)] = thing
                waiting.extend(self._visit(thing))

    def read(self) -> list[dict[Any, Any]]:
        """All values as they are now, place by place."""
        return [place.read() for place in self.places]

    def write(self, values: list[dict[Any, Any]]) -> None:
        """Put values back that were read before."""
        for place, before in zip(self.places, values, strict=True):
            for key in place.read().keys() - before.keys():
                place.remove(key)
            for key, value in before.items():
                place.write(key, value)

    def changed(self, before: list[dict[Any, Any]], after: list[dict[Any, Any]]) -> str | None:
        """The name of the first place whose values differ, if any does."""
        named = (place.difference(*both) for place, *both in zip(self.places, before, after, strict=True))
        return next((name for name in named if name is not None), None)

    def tensors(self) -> dict[int, Tensor]:
        """Tensors that are kept without being registered, by identity."""
        held = (value for thing in self._visited.values() for value in _named_values(thing).values())
        return {id(value): value for value in held if isinstance(value, Tensor)}

    def slots_of(self, tensor: Tensor) -> list[Callable[[], Any]]:
        """What reads the places that keep a tensor: another one may come to stand there."""
        things = self._visited.values()
        found = [(thing, key) for thing in things for key, value in _named_values(thing).items() if value is tensor]
        return [partial(_value_at, thing, key) for thing, key in found]

    def _visit(self, thing: Any) -> Iterator[Any]:
        """Notice the values of one object; yields what lies behind it."""
        if isinstance(thing, partial):
            yield from (wrapped_by(thing), *thing.args, thing.keywords)
        elif isinstance(thing, MethodType):
            yield from (thing.__self__, thing.__func__)
        elif isinstance(thing, FunctionType):
            yield from self._of_function(thing)
        elif isinstance(thing, (MutableMapping, MutableSequence)):
            self.places.append(places.Container(thing))
            yield from _named_values(thing).values()
        elif isinstance(thing, (tuple, set, frozenset)):
            yield from thing if len(thing) <= LARGEST else ()
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif isinstance(thing, nn.Module) or (hasattr(thing, "__dict__") and not _is_foreign(type(thing))):
            yield from self._of_object(thing)
        elif hasattr(thing, "__dict__"):  # an estimator, or some library's
            self.places.append(places.Attributes(thing))

    def _of_object(self, thing: Any) -> Iterator[Any]:
        self.places.append(places.Attributes(thing))
        if isinstance(thing, nn.Module):
            self.places += [places.Register(thing, name) for name in REGISTERS]
            yield from thing.children()
        yield from _named_values(thing).values()
        yield from (kind for kind in type(thing).__mro__ if not _is_foreign(kind))

    def _of_class(self, kind: type) -> Iterator[Any]:
        if not _is_foreign(kind):
            self.places.append(places.ClassAttributes(kind))
            yield from (value for value in vars(kind).values() if isinstance(value, FunctionType))

    def _of_function(self, function: FunctionType) -> Iterator[Any]:
        if function.__module__ is None or _is_foreign(function):
            return
        names = [name for name in sorted(globals_read(function.__code__)) if name in function.__globals__]
        self.places.append(places.Globals(function, names))
        yield from (function.__globals__[name] for name in names)
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
        self._watched: dict[int, list[Callable[[], Any]]] = {}

    def read(self) -> "Facts":
        """As it is now."""
        places = [(id(t), t.data_ptr(), t.dtype, t.shape, t.requires_grad) for t in self.tensors()]
        watched = {key: [id(read()) for read in slots] for key, slots in self._watched.items()}
        return Facts([places, watched, self.numbers()], self.python.read())

    def watch(self, tensors: list[Tensor]) -> None:
        """Tensors in plain attributes, which a recording reads where they are now."""
        self._watched.update({id(tensor): self.python.slots_of(tensor) for tensor in tensors})

    def look_again(self) -> None:
        """Find the places of Python values anew: others may have come."""
        self.python = PythonState(self.roots, self.modules())
        self._watched = {}

    def obstacle(self) -> str | None:
        """What no recording can hold: a hook that somebody wants called at each step."""
        if any(has_backward_hooks(parameter) for parameter in self.tensors()):
            return "a tensor has a hook on its gradient"
        modules = {id(part): part for module in self.modules() for part in module.modules()}.values()
        named = ((part, hook) for part in modules for hook in hooks_of(part))
        found = next((part for part, hook in named if not _is_foreign(hook)), None)
        return None if found is None else f"{type(found).__name__} has a hook of the user's"


class Facts(NamedTuple):
    """What was read, to be compared."""

    tensors: list[Any]
    python: list[dict[Any, Any]]

    def same(self, other: "Facts") -> bool:
        """Is all as it was then?"""
        alike = len(self.python) == len(other.python) and all(map(_same, self.python, other.python))
        return alike and self.tensors == other.tensors


def _named_values(thing: Any) -> dict[Any, Any]:
    """What an object holds itself, but for what a module registers."""
    if isinstance(thing, nn.Module):
        return {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    if isinstance(thing, MutableMapping):
        return dict(thing) if len(thing) <= LARGEST else {}
    if isinstance(thing, (MutableSequence, tuple)):
        return dict(enumerate(thing)) if len(thing) <= LARGEST else {}
    if isinstance(thing, FunctionType):
        free = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        return {name: value for name, cell in free for value in contents(cell)}
    return dict(vars(thing)) if hasattr(thing, "__dict__") and not isinstance(thing, type) else {}


def _value_at(thing: Any, key: Any) -> Any:
    return _named_values(thing).get(key)


def _is_foreign(thing: Any) -> bool:
    """Is a function or class part of a library that keeps nothing of a pair's?"""
    while isinstance(thing, partial):
        thing = thing.func
    return comes_from(thing if hasattr(thing, "__module__") else type(thing), *FOREIGN)


def _same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
