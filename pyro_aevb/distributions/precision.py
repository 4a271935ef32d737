"""Numbers that float32 has too few digits for."""

import torch
from torch import Tensor

__all__ = ["wide"]


def wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors in double precision; as they are on Apple's GPUs, which have none."""
    return [t if t.device.type == "mps" else t.to(torch.float64) for t in tensors]
