"""The two errors that this package raises on purpose, and the checks of arguments that raise the first.

Everything else is Python's, torch's or Pyro's own error. A check returns what it was given, so that it stands where the
value is used: ``self.rank = whole("rank", rank)``.

NumPy and torch are imported by the functions that look at their objects: the command line refuses a command that it
does not know without waiting for them.
"""

import difflib
import math
import os
import traceback
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "REFUSALS",
    "DivergenceWarning",
    "InputError",
    "NonFiniteLossError",
    "TrackerWarning",
    "choice",
    "did_you_mean",
    "flag",
    "function",
    "in_one_line",
    "instance",
    "maker",
    "path",
    "positive",
    "real",
    "tensors",
    "told",
    "whole",
    "wholes",
]

LONGEST_REASON = 300
LONGEST_VALUE = 60

# How the table of shapes begins that Pyro appends to a message: it makes a new error of the same class, so that nothing
# but these words tells where the old message ended.
SHAPES = "Trace Shapes:"

REFUSALS = (
    ValueError,
    RuntimeError,
    NotImplementedError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
)
"""What Pyro, torch and a pair's own code raise of data that do not fit."""

Number = TypeVar("Number", int, float)
Kind = TypeVar("Kind")
Called = TypeVar("Called", bound=Callable[..., Any])


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message says what, where, and what to do.

    The command line prints it as one line and exits with 2.
    """

    def __str__(self) -> str:
        """The message alone: Pyro raises an error anew with a table of all shapes where it passes a trace."""
        return super().__str__().partition(SHAPES)[0].rstrip()


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is NaN or infinite; the command line prints it and exits with 1."""


class DivergenceWarning(UserWarning):
    """Training stays finite, and its bound lies far below what it was; the command line prints it as one line."""


class TrackerWarning(UserWarning):
    """A tracker raised an error and is left out; the training goes on. The command line prints it as one line."""


# ---------------------------------------------------------------- checks of arguments


def whole(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least ``least``, as Python's own; NumPy's are taken, floats and booleans are not.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        least: Smallest number allowed.
        most: Largest number allowed; ``None`` for any.

    Raises:
        InputError: If it is no such number.

    >>> import numpy as np
    >>> whole("rank", np.int64(3))
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number of at least {least}, not {told(value)}")
    if value < least and most is None:
        raise InputError(f"{name} must be at least {least}, not {value}")
    if value < least or (most is not None and value > most):
        raise InputError(f"{name} must be between {least} and {most}, not {value}")
    return int(value)


def wholes(name: str, value: int | Iterable[int], least: int = 1) -> list[int]:
    """Whole numbers of at least ``least``, from a sequence of them or one alone, an empty sequence too.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument, one number or a sequence of them.
        least: Smallest number allowed.

    Raises:
        InputError: If it is neither.

    >>> wholes("hidden", 500), wholes("hidden", (500, 300))
    ([500], [500, 300])
    """
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, (Integral, Iterable)):
        raise InputError(f"{name} must be a whole number of at least {least}, or a sequence of them, not {told(value)}")
    each: list[Any] = [value] if isinstance(value, Integral) else list(value)
    return [whole(name if len(each) == 1 else f"each of {name}", number, least) for number in each]


def real(name: str, value: float, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number between two others, or equal to one of them, as Python's own float.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        least: Smallest number allowed; by default any.
        most: Largest number allowed; by default any.

    Raises:
        InputError: If it is no such number: text, a boolean, NaN, infinite or outside.
    """
    number = _finite(name, value)
    if not least <= number <= most:
        inside = f"between {least:g} and {most:g}" if most < math.inf else f"at least {least:g}"
        raise InputError(f"{name} must be {inside}, not {value}")
    return number


def positive(name: str, value: Number) -> Number:
    """The finite number, if it is positive.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.

    Raises:
        InputError: If it is not, or no such number.
    """
    if _finite(name, value) <= 0:
        raise InputError(f"{name} must be positive, not {value}")
    return value


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, not {told(value)}")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """True or False, and nothing that only counts as one of them, as the text ``"false"`` counts as true.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.

    Raises:
        InputError: If it is neither.
    """
    import numpy as np

    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} must be True or False, not {told(value)}")
    return bool(value)


def choice(name: str, value: Any, allowed: Collection[str]) -> Any:
    """The value, if it is one of the allowed words.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        allowed: The words that it may be.

    Raises:
        InputError: If it is none of them: names them all.

    >>> choice("phase", "wake", ("both", "wake", "sleep"))
    'wake'
    """
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"unknown {name} {told(value)}: give one of {', '.join(allowed)}")
    return value


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The known word that is nearest to an unknown one, as the end of a message; empty where none is near.

    Arguments:
        word: What was typed.
        known: What there is.
        before: What stands before the word in the message, ``--`` of an option.

    >>> did_you_mean("laplas", ["Laplace", "Flow"]), did_you_mean("xyz", ["Laplace"])
    (': did you mean Laplace?', '')
    """
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(names), n=1)
    return f": did you mean {before}{names[near[0]]}?" if near else ""


def instance(name: str, value: Kind, kind: type, advice: str = "") -> Kind:
    """The value, if it is an instance of a class; where that class itself was given, the message says so.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        kind: The class.
        advice: What to give instead, for the message; by default nothing is said.

    Raises:
        InputError: If it is no instance.
    """
    if isinstance(value, kind) and not isinstance(value, type):
        return value
    raise InputError(f"{name} must be {_a(kind.__name__)}, not {told(value)}{_advice(value, kind, advice)}")


def tensors(**named: "torch.Tensor") -> None:
    """Refuse what is no tensor, by its name.

    Arguments:
        named: The arguments, each by its name.

    Raises:
        InputError: Names the first that is none.
    """
    import torch

    for name, value in named.items():
        instance(name, value, torch.Tensor, "give torch.as_tensor of it")


def function(name: str, value: Called, advice: str = "") -> Called:
    """What can be called, a function or a module, and is no class, whose call only makes an instance.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        advice: What to give instead, for the message; by default nothing is said.

    Raises:
        InputError: If it cannot, or is a class.
    """
    if callable(value) and not isinstance(value, type):
        return value
    raise InputError(f"{name} must be a function or a module, not {told(value)}{_advice(value, object, advice)}")


def maker(name: str, value: Called, advice: str = "") -> Called:
    """What makes something when it is called, a function or a class; no module, which would compute instead.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.
        advice: What to give instead, for the message; by default nothing is said.

    Raises:
        InputError: If it cannot be called, or is a module.
    """
    import torch

    if callable(value) and not isinstance(value, torch.nn.Module):
        return value
    raise InputError(f"{name} must be a function or a class that makes one, not {told(value)}{_advice(0, int, advice)}")


def path(name: str, value: str | os.PathLike[str]) -> Path:
    """A path, from text or a path.

    Arguments:
        name: Name of the argument, for the message.
        value: The argument.

    Raises:
        InputError: If it is neither.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{name} must be a path, as text or a pathlib.Path, not {told(value)}")
    return Path(value)


def _advice(value: Any, kind: type, advice: str) -> str:
    if isinstance(value, type) and issubclass(value, kind):
        return f": give an instance, {value.__name__}(...)"
    return f": {advice}" if advice else ""


def told(value: Any) -> str:
    """A value in a few words, in one line: itself if it is short, else what it is.

    Arguments:
        value: Any object.

    >>> import torch
    >>> told("wake"), told(dict), told(torch.nn.Linear(2, 3))
    ("'wake'", 'the class dict', 'a Linear')
    """
    import torch

    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (torch.Tensor, torch.nn.Module)):
        return _a(type(value).__name__)
    try:
        words = " ".join(repr(value).split())
    except Exception:  # whatever a stranger's class does to be shown
        return _a(type(value).__name__)
    short = len(words) <= LONGEST_VALUE and not words.startswith("<")
    return words if short else _a(type(value).__name__)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


# ---------------------------------------------------------------- words of other errors


def in_one_line(error: Exception) -> str:
    """An error's message in one line, without the table of shapes that Pyro adds; where it has none, who raised it.

    Arguments:
        error: The error.
    """
    words = " ".join(str(error).partition(SHAPES)[0].split()) or _raised_in(error)
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."


def _raised_in(error: Exception) -> str:
    """The function that raised an error, its file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"raised by {frames[-1].name}, {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
