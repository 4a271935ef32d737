"""Places in Python that a pair may keep something in: attributes, containers, closures, globals, states of generators.

Each reads what stands there, and puts back what a run has changed. What is read is kept alive, so that another object
is never taken for it.
"""

import functools
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, MutableMapping, MutableSequence
from contextlib import suppress
from contextvars import ContextVar
from numbers import Number
from types import CellType, GeneratorType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = [
    "LARGEST",
    "OPAQUE",
    "PLAIN",
    "Attributes",
    "ClassAttributes",
    "Closure",
    "Items",
    "Members",
    "Names",
    "Opaque",
    "Place",
    "PlainAttributes",
    "Randomness",
    "Register",
    "Sequence",
    "Slots",
    "contents",
    "equal",
]

Values = dict[Any, Any]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
COMPARED = (*PLAIN, Number, np.generic, torch.dtype, torch.device, slice, range, MethodType)
"""What is the same wherever it compares equal."""
_ENTRIES = object()  # the key of a container's own entries
LARGEST = 100_000  # entries of a container that are read one by one; of a larger one only how many there are
DEEPEST = 4  # containers within containers that are compared by what is in them
OF_MODULES = frozenset(vars(nn.Module())) - {"training"}
"""What torch keeps in a module: registers, which have places of their own, and hooks, which are looked at apart."""


class Place(ABC):
    """Somewhere in Python that a pair's values stand.

    Arguments:
        name: What a message calls it.
    """

    is_recorded = True
    """Whether a recording holds it, so that another value makes another recording."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self) -> Values:
        """What stands there now, by key."""

    @abstractmethod
    def write(self, key: Any, value: Any) -> None:
        """Put a value back that was read before."""

    @abstractmethod
    def remove(self, key: Any) -> None:
        """Take away what was not there before."""

    def restore(self, before: Values) -> None:
        """Put back what differs; what cannot be put back stays."""
        now = self.read()
        for key in now.keys() - before.keys():
            with suppress(Exception):  # whatever somebody's container raises
                self.remove(key)
        for key, value in before.items():
            if key not in now or now[key] is not value:
                with suppress(Exception):
                    self.write(key, value)

    def difference(self, one: Values, other: Values, same_object: bool = False) -> str | None:
        """The first value in which two readings differ, named for a message; None if they do not.

        Arguments:
            one: A reading.
            other: What it is compared with.
            same_object: Whether a container must be the same one, rather than have the same in it.
        """
        for key in {**one, **other}:
            if key not in one or key not in other or not equal(one[key], other[key], same_object):
                return self._named(key)
        return None

    def _named(self, key: Any) -> str:
        return self.name if key is _ENTRIES else f"{key!r} of {self.name}"


def equal(one: Any, other: Any, same_object: bool = False, depth: int = DEEPEST) -> bool:
    """Are two values the same? An object that is no number, text or container is where it is the same object."""
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0:
        return False
    if isinstance(one, COMPARED):
        return bool(one == other) or (one != one and other != other)  # NaN is as it was
    if isinstance(one, tuple) or (isinstance(one, list) and not same_object):
        alike = (equal(a, b, same_object, depth - 1) for a, b in zip(one, other, strict=False))
        return len(one) == len(other) and all(alike)
    if isinstance(one, dict) and not same_object:
        return one.keys() == other.keys() and all(equal(v, other[k], False, depth - 1) for k, v in one.items())
    return isinstance(one, set | frozenset) and not same_object and one == other


# ---------------------------------------------------------------- by name


class Attributes(Place):
    """An object's own attributes, but for what torch keeps in a module, and what a flow remembers of its last call."""

    def __init__(self, thing: Any) -> None:
        super().__init__(type(thing).__name__)
        self.values: Values = vars(thing)
        self.left_out = OF_MODULES if isinstance(thing, nn.Module) else frozenset()

    def read(self) -> Values:
        return {k: v for k, v in self.values.items() if k not in self.left_out and not str(k).startswith("_cached")}

    def write(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def remove(self, key: Any) -> None:
        del self.values[key]


class PlainAttributes(Attributes):
    """Numbers, switches and text of a library's object, whose other attributes are its own affair."""

    def read(self) -> Values:
        return {key: value for key, value in self.values.items() if isinstance(value, PLAIN)}


class Register(Attributes):
    """Which tensors or modules a module has registered."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__(module)
        self.values = vars(module)[name]

    def read(self) -> Values:
        return dict(self.values)


class Names(Place):
    """Some of the names of a module or of a function's globals.

    Arguments:
        name: What a message calls them.
        values: All of them.
        chosen: Which.
    """

    def __init__(self, name: str, values: Values, chosen: Iterable[str]) -> None:
        super().__init__(name)
        self.values = values
        self.chosen = list(chosen)

    def read(self) -> Values:
        return {name: self.values[name] for name in self.chosen if name in self.values}

    def write(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def remove(self, key: Any) -> None:
        del self.values[key]


class ClassAttributes(Place):
    """What a class keeps for all of its objects; Python lets nobody write to it but by ``setattr``."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.kind = kind

    def read(self) -> Values:
        return dict(vars(self.kind))

    def write(self, key: Any, value: Any) -> None:
        setattr(self.kind, key, value)

    def remove(self, key: Any) -> None:
        delattr(self.kind, key)


class Slots(Place):
    """Attributes of an object whose class has ``__slots__``."""

    def __init__(self, thing: Any) -> None:
        super().__init__(type(thing).__name__)
        self.thing = thing
        declared = (vars(kind).get("__slots__", ()) for kind in type(thing).__mro__)
        self.names = [name for slots in declared for name in ([slots] if isinstance(slots, str) else slots)]

    def read(self) -> Values:
        return {name: getattr(self.thing, name) for name in self.names if hasattr(self.thing, name)}

    def write(self, key: Any, value: Any) -> None:
        object.__setattr__(self.thing, key, value)

    def remove(self, key: Any) -> None:
        object.__delattr__(self.thing, key)


class Closure(Place):
    """One variable that a function shares with the one around it."""

    def __init__(self, variable: str, cell: CellType) -> None:
        super().__init__("a closure")
        self.variable = variable
        self.cell = cell

    def read(self) -> Values:
        return dict(zip([self.variable], contents(self.cell), strict=False))  # none before it is assigned

    def write(self, key: Any, value: Any) -> None:
        self.cell.cell_contents = value

    def remove(self, key: Any) -> None:
        del self.cell.cell_contents


def contents(cell: CellType) -> list[Any]:
    """What a closure's variable holds: nothing before it is assigned."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


# ---------------------------------------------------------------- containers


class Items(Place):
    """The entries of a dictionary."""

    def __init__(self, entries: MutableMapping[Any, Any]) -> None:
        super().__init__("a dictionary")
        self.entries = entries

    def read(self) -> Values:
        return dict(self.entries) if len(self.entries) <= LARGEST else {_ENTRIES: len(self.entries)}

    def write(self, key: Any, value: Any) -> None:
        if key is not _ENTRIES:
            self.entries[key] = value

    def remove(self, key: Any) -> None:
        del self.entries[key]


class _Whole(Place):
    """A container that is put back whole."""

    def __init__(self, name: str, entries: Any) -> None:
        super().__init__(name)
        self.entries = entries

    def read(self) -> Values:
        return {_ENTRIES: tuple(self.entries) if len(self.entries) <= LARGEST else len(self.entries)}

    def remove(self, key: Any) -> None:
        """There is but one key."""


class Sequence(_Whole):
    """The entries of a list, a deque or another sequence."""

    def __init__(self, entries: MutableSequence[Any]) -> None:
        super().__init__("a list", entries)

    def write(self, key: Any, value: Any) -> None:
        """The entries of before; a list that still has them is not touched. Tensors in it do not compare by ``==``."""
        same = len(value) == len(self.entries) and all(a is b for a, b in zip(value, self.entries, strict=True))
        if not same:
            self.entries.clear()
            self.entries.extend(value)


class Members(_Whole):
    """The members of a set."""

    def __init__(self, entries: set[Any]) -> None:
        super().__init__("a set", entries)

    def read(self) -> Values:
        return {_ENTRIES: frozenset(self.entries)}

    def write(self, key: Any, value: Any) -> None:
        """The members of before; a set that still has them keeps its order."""
        if value != self.entries:
            self.entries.clear()
            self.entries.update(value)


# ---------------------------------------------------------------- states that are no values


class Opaque(Place):
    """An object whose state is read by what it tells of itself, and cannot be put back."""

    def __init__(self, thing: Any, tell: Callable[[Any], Any]) -> None:
        super().__init__(type(thing).__name__)
        self.thing = thing
        self.tell = tell

    def read(self) -> Values:
        return {"state": self.tell(self.thing)}

    def write(self, key: Any, value: Any) -> None:
        """Nothing can be."""

    def remove(self, key: Any) -> None:
        """Nothing can be."""


class Randomness(Place):
    """The generators of Python and NumPy that everybody shares: a step must not draw from them, others may."""

    is_recorded = False

    def __init__(self) -> None:
        super().__init__("the generator of")

    def read(self) -> Values:
        state: Any = np.random.get_state()
        return {"random": random.getstate(), "numpy.random": (state[0], state[1].tobytes(), *state[2:])}

    def write(self, key: Any, value: Any) -> None:
        """The state of one of both generators, by the name of its library."""
        if key == "random":
            random.setstate(value)
        else:
            kind, keys, *rest = value
            np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))

    def remove(self, key: Any) -> None:
        """There are always two."""

    def _named(self, key: Any) -> str:
        return f"the noise of {key}"


def _of_array(array: np.ndarray[Any, Any]) -> Any:
    return (array.shape, array.dtype.str, array.tobytes() if array.size <= LARGEST and not array.dtype.hasobject else 0)


def _of_generator(generator: "GeneratorType[Any, Any, Any]") -> Any:
    frame = generator.gi_frame
    return None if frame is None else (frame.f_lasti, *(v for v in frame.f_locals.values() if isinstance(v, PLAIN)))


OPAQUE: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (np.ndarray, _of_array),
    (itertools.count, repr),
    (GeneratorType, _of_generator),
    (ContextVar, lambda variable: variable.get(None)),
    (type(functools.lru_cache(len)), lambda function: tuple(function.cache_info())),
    (random.Random, lambda generator: generator.getstate()),
    (np.random.Generator, lambda generator: repr(generator.bit_generator.state)),
    (torch.Generator, lambda generator: generator.get_state().numpy().tobytes()),
)
"""Kinds of objects whose state is no attribute, and what tells it."""
