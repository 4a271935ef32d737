"""Tensors as text that a page can hold: their numbers in base64, little endian."""

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["lossless", "packed"]

DTYPES = ("uint8", "int32", "float16", "float32", "float64")
"""Types of numbers in a page, the smallest first."""


def packed(values: Tensor, dtype: str) -> dict[str, Any]:
    """A tensor as ``numerics.js`` reads it: ``dtype``, ``shape``, and ``data`` in base64.

    Arguments:
        values: The tensor, of any shape.
        dtype: Type that its numbers are rounded to, one of ``DTYPES``.
    """
    array = values.detach().cpu().numpy().astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": dtype, "shape": list(values.shape), "data": data}


def lossless(values: Tensor) -> str:
    """The smallest type of a page's numbers that holds all of a tensor's as they are.

    >>> lossless(torch.tensor([0.0, 1.0])), lossless(torch.tensor([0.1], dtype=torch.float64))
    ('uint8', 'float64')
    """
    numbers = values.detach().cpu().double()
    for name in DTYPES[:-1]:
        dtype = getattr(torch, name)
        whole = dtype.is_floating_point or bool(numbers.isfinite().all())
        if whole and torch.equal(numbers.to(dtype).double().nan_to_num(), numbers.nan_to_num()):
            return name
    return DTYPES[-1]
