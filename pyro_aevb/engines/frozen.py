"""What a recording holds fast, and may not: where tensors lie, what a pair keeps in Python, and hooks.

A recording reads tensors where they lay when it was made. Python's numbers and switches are part of it as they were
then; what a step writes to Python it does not write. All this is cheap to read, and read before a recording is used.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from pyro_aevb.origins import comes_from
from pyro_aevb.pairs import MOST_VISITED, globals_read, wrapped_by

__all__ = ["Frozen", "PythonState", "backward_hooks", "hooks_of"]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
FOREIGN = {"torch", "pyro", "numpy", "builtins", "pyro_aevb", *sys.stdlib_module_names} - {"__main__"}
"""Whose functions and classes keep nothing of a pair's."""
LARGEST = 1_000  # entries of a container that are looked at one by one; of a larger one only how many there are
REGISTERS = ("_parameters", "_buffers")  # of a module, as torch documents for whoever writes one


class _Place(NamedTuple):
    """Somewhere in Python that a pair's values stand."""

    name: str
    read: Callable[[], dict[Any, Any]]
    write: Callable[[Any, Any], None]
    remove: Callable[[Any], None]


class PythonState:
    """The numbers, switches, text and lengths that functions keep in attributes, containers, closures and globals.

    Arguments:
        roots: Functions and objects to begin at: model, guide, estimator.
        modules: Modules that take part, however they are reached.
    """

    def __init__(self, roots: Iterable[Any], modules: Iterable[nn.Module]) -> None:
        self.places: list[_Place] = []
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
        pairs = zip(self.places, before, after, strict=True)
        return next((_named(place, one, other) for place, one, other in pairs if not _same(one, other)), None)

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
            self.places.append(_of_container(thing))
            yield from _named_values(thing).values()
        elif isinstance(thing, (tuple, set, frozenset)):
            yield from thing if len(thing) <= LARGEST else ()
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif isinstance(thing, nn.Module) or (hasattr(thing, "__dict__") and not _is_foreign(type(thing))):
            yield from self._of_object(thing)
        elif hasattr(thing, "__dict__"):  # an estimator, or some library's
            self.places.append(_of_attributes(thing))

    def _of_object(self, thing: Any) -> Iterator[Any]:
        self.places.append(_of_attributes(thing))
        if isinstance(thing, nn.Module):
            self.places += [_of_register(thing, name) for name in REGISTERS]
            yield from thing.children()
        yield from _named_values(thing).values()
        yield from (kind for kind in type(thing).__mro__ if not _is_foreign(kind))

    def _of_class(self, kind: type) -> Iterator[Any]:
        if not _is_foreign(kind):
            self.places.append(_of_class_attributes(kind))
            yield from (value for value in vars(kind).values() if isinstance(value, FunctionType))

    def _of_function(self, function: FunctionType) -> Iterator[Any]:
        if function.__module__ is None or _is_foreign(function):
            return
        names = [name for name in sorted(globals_read(function.__code__)) if name in function.__globals__]
        self.places.append(_of_globals(function, names))
        yield from (function.__globals__[name] for name in names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.places.append(_of_cell(name, cell))
            yield from _contents(cell)
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
        self.tensors, self.modules, self.numbers = tensors, modules, numbers
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
        if any(backward_hooks(parameter) for parameter in self.tensors()):
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


# ---------------------------------------------------------------- hooks


def backward_hooks(tensor: Tensor) -> bool:
    """Whether somebody is told of a tensor's gradients; torch has no public way to ask."""
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """All hooks of a module; torch has no public way to list them."""
    kinds = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return [hook for hooks in kinds for hook in hooks.values()]


# ---------------------------------------------------------------- places


def _of_attributes(thing: Any) -> _Place:
    attributes = vars(thing)
    name = type(thing).__name__
    return _Place(name, lambda: _plain(attributes), attributes.__setitem__, attributes.__delitem__)


def _of_register(module: nn.Module, name: str) -> _Place:
    """Which tensors are registered: one that is assigned anew is another."""
    register = vars(module)[name]
    return _Place(type(module).__name__, lambda: dict(register), register.__setitem__, register.__delitem__)


def _of_class_attributes(kind: type) -> _Place:
    return _Place(kind.__name__, lambda: _plain(vars(kind)), partial(setattr, kind), partial(delattr, kind))


def _of_globals(function: FunctionType, names: list[str]) -> _Place:
    found = function.__globals__

    def read() -> dict[str, Any]:
        return _plain({name: found[name] for name in names if name in found})

    return _Place(function.__module__, read, found.__setitem__, found.__delitem__)


def _of_cell(name: str, cell: CellType) -> _Place:
    def read() -> dict[str, Any]:
        return _plain(dict(zip([name], _contents(cell), strict=False)))

    def write(_: Any, value: Any) -> None:
        cell.cell_contents = value

    return _Place("a closure", read, write, lambda _: None)


def _of_container(thing: Any) -> _Place:
    if isinstance(thing, MutableMapping):
        return _Place("a dictionary", lambda: _entries(thing, thing.items()), _writer(thing), _remover(thing))
    return _Place("a list", lambda: _entries(thing, enumerate(thing)), _writer(thing), _remover(thing))


_LENGTH = object()  # the key of a container's length


def _entries(thing: Any, items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    plain = _plain(dict(items)) if len(thing) <= LARGEST else {}
    return {**plain, _LENGTH: len(thing)}


def _writer(thing: Any) -> Callable[[Any, Any], None]:
    def write(key: Any, value: Any) -> None:
        if key is not _LENGTH:
            thing[key] = value
        elif isinstance(thing, list):
            del thing[value:]

    return write


def _remover(thing: Any) -> Callable[[Any], None]:
    def remove(key: Any) -> None:
        if isinstance(thing, MutableMapping):
            del thing[key]  # a list's are cut off by its length

    return remove


def _plain(values: Any) -> dict[Any, Any]:
    return {key: value for key, value in values.items() if isinstance(value, PLAIN)}


def _contents(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not assigned yet
        return []


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
        return {name: value for name, cell in free for value in _contents(cell)}
    return dict(vars(thing)) if hasattr(thing, "__dict__") and not isinstance(thing, type) else {}


def _value_at(thing: Any, key: Any) -> Any:
    return _named_values(thing).get(key)


def _is_foreign(thing: Any) -> bool:
    """Is a function or class part of a library that keeps nothing of a pair's?"""
    while isinstance(thing, partial):
        thing = thing.func
    return comes_from(thing if hasattr(thing, "__module__") else type(thing), *FOREIGN)


def _same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())


def _equal(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other)


def _named(place: _Place, one: dict[Any, Any], other: dict[Any, Any]) -> str:
    keys = [key for key in {**one, **other} if key not in one or key not in other or not _equal(one[key], other[key])]
    return place.name if keys[0] is _LENGTH else f"{keys[0]!r} of {place.name}"
