"""What figures are drawn from: rows of numbers, and whether they are pictures."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyro_aevb.errors import InputError, instance

__all__ = ["all_of", "is_image", "rows_checked"]

Shape = Sequence[int]


def is_image(shape: Shape) -> bool:
    """Whether rows of this shape are pictures: more than one of their sizes is above 1.

    Arguments:
        shape: Shape of one datum.

    >>> is_image((8, 8)), is_image((1, 7))
    (True, False)
    """
    return sum(size != 1 for size in shape) > 1


def rows_checked(name: str, rows: Tensor, least: int = 1) -> Tensor:
    """The rows, if they are a tensor of shape ``(N, D)`` with D of at least ``least``.

    Arguments:
        name: What the rows are called in messages.
        rows: The rows.
        least: Smallest number of columns.

    Raises:
        InputError: If they are not.
    """
    if instance(name, rows, Tensor).dim() != 2 or len(rows) == 0 or rows.shape[1] < least or rows.is_meta:
        found = f"of shape {tuple(rows.shape)}{' on the device meta' if rows.is_meta else ''}"
        raise InputError(f"{name} must be rows, (N, D) with D at least {least}, not {found}")
    return rows


def all_of(things: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether they are a sequence, no text, of things for which all ``holds``.

    Arguments:
        things: What may be a sequence.
        holds: What is asked of each.
    """
    return isinstance(things, Sequence) and not isinstance(things, str) and all(map(holds, things))
