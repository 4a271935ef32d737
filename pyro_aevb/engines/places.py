"""Places in Python that keep a pair's numbers, switches and text: attributes, containers, closures, globals.

Each reads its values, and puts them back. Values that are not plain, such as tensors and functions, are no part of
what is read, but for a module's registers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, MutableMapping, MutableSequence
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn

__all__ = [
    "LARGEST",
    "PLAIN",
    "Attributes",
    "ClassAttributes",
    "Closure",
    "Container",
    "Globals",
    "Place",
    "Register",
    "contents",
    "equal",
]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
LARGEST = 1_000  # entries of a container that are looked at one by one; of a larger one only how many there are
LENGTH = object()  # the key of a container's length


class Place(ABC):
    """Somewhere in Python that a pair's values stand.

    Arguments:
        name: What a message calls it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self) -> dict[Any, Any]:
        """The values as they are now, by key."""

    @abstractmethod
    def write(self, key: Any, value: Any) -> None:
        """Put a value back that was read before."""

    @abstractmethod
    def remove(self, key: Any) -> None:
        """Take away what came after the values were read."""

    def difference(self, one: dict[Any, Any], other: dict[Any, Any]) -> str | None:
        """The first value in which two readings differ, named for a message; None if they do not."""
        keys = (
            key for key in {**one, **other} if key not in one or key not in other or not equal(one[key], other[key])
        )
        return next((self.name if key is LENGTH else f"{key!r} of {self.name}" for key in keys), None)


class Attributes(Place):
    """An object's own attributes."""

    def __init__(self, thing: Any) -> None:
        super().__init__(type(thing).__name__)
        self.values: dict[str, Any] = vars(thing)

    def read(self) -> dict[Any, Any]:
        return _plain(self.values)

    def write(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def remove(self, key: Any) -> None:
        del self.values[key]


class Register(Attributes):
    """Which tensors a module has registered: one that is assigned anew is another."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__(module)
        self.values = vars(module)[name]

    def read(self) -> dict[Any, Any]:
        return dict(self.values)


class Globals(Attributes):
    """The globals that a function reads."""

    def __init__(self, function: FunctionType, names: list[str]) -> None:
        super().__init__(function)
        self.name = function.__module__
        self.values = function.__globals__
        self.names = names

    def read(self) -> dict[Any, Any]:
        return _plain({name: self.values[name] for name in self.names if name in self.values})


class ClassAttributes(Place):
    """What a class keeps for all of its objects; Python lets nobody write to it but by ``setattr``."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.kind = kind

    def read(self) -> dict[Any, Any]:
        return _plain(vars(self.kind))

    def write(self, key: Any, value: Any) -> None:
        setattr(self.kind, key, value)

    def remove(self, key: Any) -> None:
        delattr(self.kind, key)


class Closure(Place):
    """One variable that a function shares with the one around it."""

    def __init__(self, variable: str, cell: CellType) -> None:
        super().__init__("a closure")
        self.variable = variable
        self.cell = cell

    def read(self) -> dict[Any, Any]:
        return _plain(dict(zip([self.variable], contents(self.cell), strict=False)))  # none before it is assigned

    def write(self, key: Any, value: Any) -> None:
        self.cell.cell_contents = value

    def remove(self, key: Any) -> None:
        del self.cell.cell_contents


class Container(Place):
    """The entries and the length of a dictionary or a list."""

    def __init__(self, entries: MutableMapping[Any, Any] | MutableSequence[Any]) -> None:
        super().__init__("a dictionary" if isinstance(entries, MutableMapping) else "a list")
        self.entries: Any = entries

    def read(self) -> dict[Any, Any]:
        return {**(_plain(dict(self._items())) if len(self.entries) <= LARGEST else {}), LENGTH: len(self.entries)}

    def write(self, key: Any, value: Any) -> None:
        if key is not LENGTH:
            self.entries[key] = value
        elif isinstance(self.entries, MutableSequence):
            del self.entries[value:]

    def remove(self, key: Any) -> None:
        if isinstance(self.entries, MutableMapping):
            del self.entries[key]  # a list's are cut off by its length

    def _items(self) -> Iterable[tuple[Any, Any]]:
        return self.entries.items() if isinstance(self.entries, MutableMapping) else enumerate(self.entries)


def contents(cell: CellType) -> list[Any]:
    """What a closure's variable holds: nothing before it is assigned."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def equal(one: Any, other: Any) -> bool:
    """Are two values the same? Tensors are only where they are one object."""
    return one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other)


def _plain(values: Any) -> dict[Any, Any]:
    return {key: value for key, value in values.items() if isinstance(value, PLAIN)}
