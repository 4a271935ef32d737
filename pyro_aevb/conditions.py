"""What model and guide are given besides the data: a condition, an exposure."""

import math

import torch
from torch import Tensor, nn

from pyro_aevb.errors import InputError, flag, whole

__all__ = ["Conditioned", "beside"]


class Conditioned(nn.Module):
    """What model and guide have in common: the size of their plate, and what they are given besides the data.

    Arguments:
        size: Number N of data that minibatches are drawn from; ``None`` for a loss that is not scaled.
        condition: Number of columns C of the condition, 0 for none.
        missing: Whether NaN means that a value is missing.
        exposure: Whether each datum has an exposure.

    Raises:
        InputError: If an argument is not what it must be.
    """

    def __init__(self, size: int | None, condition: int, missing: bool, exposure: bool) -> None:
        super().__init__()
        self.size = None if size is None else whole("size", size)
        self.condition = whole("condition", condition, least=0)
        self.missing = flag("missing", missing)
        self.exposure = flag("exposure", exposure)

    def check_data(self, x: Tensor, condition: Tensor | None = None, exposure: Tensor | None = None) -> None:
        """Refuse a condition or an exposure that does not suit: those of all data, before any is used.

        Arguments:
            x: The data, ``(N, ...)``.
            condition: Their condition.
            exposure: Their exposure, ``(N,)``.

        Raises:
            InputError: If one is missing, not wanted, of another length, or not what it must be; names the first datum.
        """
        name = type(self).__name__
        for what, given in (("condition", condition), ("exposure", exposure)):
            if given is not None and given.dim() == 0:
                raise InputError(f"the {what} is a single number: give one for each datum")
        for what, given, wanted in (("condition", condition, self.condition), ("exposure", exposure, self.exposure)):
            if given is None and wanted:
                raise InputError(f"the {name} was made with {what}={wanted}, and the data have none: give (x, {what})")
            if given is not None and not wanted:
                raise InputError(f"the data come with {what}, and the {name} was made without: give it {what}=...")
            if given is not None and len(given) != len(x):
                raise InputError(f"the {what} has {len(given)} rows, the data {len(x)}: give one for each datum")
        if condition is not None:
            self._check_condition(condition)
        if exposure is not None and not bool(((exposure > 0) & exposure.isfinite()).all()):
            row = int((~((exposure > 0) & exposure.isfinite())).reshape(len(x), -1).any(1).nonzero()[0])
            raise InputError(f"the exposure of datum {row} is {exposure[row].tolist()}: give positive numbers")

    def _check_condition(self, condition: Tensor) -> None:
        if _is_category(condition):
            wrong = (condition < 0) | (condition >= self.condition)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise InputError(
                    f"the condition of datum {row} is {int(condition[row])}, and there are condition={self.condition} "
                    f"categories, 0 to {self.condition - 1}: map categories to these numbers"
                )
            return
        columns = math.prod(condition.shape[1:])
        if columns != self.condition:
            raise InputError(
                f"the condition has {columns} columns, and condition={self.condition}: give ({self.condition}) numbers "
                "for each datum, or one whole number, its category"
            )
        if condition.is_floating_point() and not bool(condition.isfinite().all()):
            row = int((~condition.isfinite()).reshape(len(condition), -1).any(1).nonzero()[0])
            raise InputError(f"the condition of datum {row} is NaN or infinite: what p(x|z,c) depends on must be known")

    def columns_of(self, condition: Tensor | None, like: Tensor) -> Tensor | None:
        """The condition as numbers, ``(B, C)``: whole numbers one-hot.

        Arguments:
            condition: The condition, whole numbers ``(B,)`` or numbers ``(B, C)``; ``None`` for none.
            like: A tensor of the precision and device that are wanted.

        Raises:
            InputError: If there is none, and one is wanted.
        """
        if self.condition and condition is None:
            raise InputError(f"this {type(self).__name__} has condition={self.condition}: give it (x, condition)")
        if condition is None or not self.condition:
            return None
        if not _is_category(condition):
            return condition.reshape(condition.shape[0], -1).to(like)  # len() would fix the number in a graph
        each = torch.arange(self.condition, device=condition.device)
        unknown = ((condition < 0) | (condition >= self.condition)).unsqueeze(-1)  # (B, 1)
        one_hot = (condition.unsqueeze(-1) == each).to(like)  # (B, C); comparing, since F.one_hot reads the values
        return torch.where(unknown, torch.full_like(one_hot, torch.nan), one_hot)  # never a number of no category


def _is_category(condition: Tensor) -> bool:
    """Is it one whole number for each datum?"""
    return condition.dim() == 1 and not condition.is_floating_point()


def beside(z: Tensor, columns: Tensor) -> Tensor:
    """Latents with the columns of the condition after them, ``(..., K + C)``.

    Arguments:
        z: Latents, ``(..., K)``.
        columns: Columns of the condition, of a shape that broadcasts to ``(..., C)``.
    """
    return torch.cat([z, columns.expand(*z.shape[:-1], columns.shape[-1])], dim=-1)
