"""The two errors that this package raises on purpose; everything else is Python's, torch's or Pyro's own."""

import re
from typing import TypeVar

__all__ = ["REFUSALS", "InputError", "NonFiniteLossError", "in_one_line", "positive"]

LONGEST_REASON = 300

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


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message says what, where, and what to do.

    The command line prints it as one line and exits with 2.
    """

    def __str__(self) -> str:
        """The message alone: Pyro raises an error anew with a table of all shapes where it passes a trace."""
        return re.split(r"\s*Trace Shapes:", super().__str__(), maxsplit=1)[0]


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is NaN or infinite; the command line prints it and exits with 1."""


def positive(name: str, value: Number) -> Number:
    """The value, if it is positive.

    Raises:
        InputError: If it is not.
    """
    if not value > 0:
        raise InputError(f"{name} must be positive, not {value}")
    return value


def in_one_line(error: Exception) -> str:
    """An error's message in one line, without the table of shapes that Pyro adds."""
    words = " ".join(str(error).split()).partition(" Trace Shapes:")[0]
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."
