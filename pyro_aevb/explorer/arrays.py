"""Arrays of a page, each in the smallest type that does what it is for."""

from typing import Any

import torch
from torch import Tensor

from pyro_aevb.explorer.packed import lossless, packed

__all__ = ["compact", "data_array", "exact"]

BYTES = 255
"""Number that bytes of grey pixels are divided by."""


def exact(values: Tensor) -> dict[str, Any]:
    """An array that holds numbers as they are.

    Arguments:
        values: The numbers, of any shape.
    """
    return packed(values, lossless(values))


def compact(values: Tensor) -> dict[str, Any]:
    """An array for pictures: three digits of each number, in float16 where none is beyond it, else in float32.

    Arguments:
        values: The numbers, of any shape.
    """
    small = values.detach().cpu().to(torch.float16)
    fits = torch.equal(small.isfinite(), values.detach().cpu().isfinite())
    return packed(values, "float16" if fits else "float32")


def data_array(x: Tensor) -> dict[str, Any]:
    """Data as the model sees them, to the last bit; grey pixels k / 255 as their bytes k.

    Arguments:
        x: The data, ``(N, D)``, of float32, NaN where a value is missing.
    """
    own = x.detach().cpu()
    levels = (own * BYTES).round()
    grey = bool(((levels >= 0) & (levels <= BYTES)).all()) and torch.equal((levels / BYTES).to(own), own)
    if grey and lossless(own) == "float32":
        return {**packed(levels, "uint8"), "divided_by": BYTES}
    return exact(own)
