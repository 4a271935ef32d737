"""What a training reports, and the bounds gathered between two reports, which stay on the device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Gathered", "Progress"]


class Progress(NamedTuple):
    """What a training reports."""

    samples_seen: int
    """Training data visited since the beginning, the paper's horizontal axis."""
    bound: float
    """Mean of the estimator's bound over the minibatches since the last report, nats per datum."""


class Gathered:
    """Bounds of single minibatches, nats per datum, and the minibatches' sizes."""

    def __init__(self) -> None:
        self.bounds: list[Tensor] = []
        self.sizes: list[int] = []

    def add(self, bound: Tensor, size: int) -> None:
        """Remember a minibatch's bound; nothing waits for it."""
        self.bounds.append(bound)
        self.sizes.append(size)

    def values(self) -> Tensor:
        """All bounds, on the CPU, in float64."""
        return torch.stack(self.bounds).double().cpu()

    def mean(self) -> float:
        """Mean over data."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        return float((self.values() * sizes).sum() / sizes.sum())

    def first_non_finite(self) -> tuple[int, float] | None:
        """How many minibatches before the end the first NaN or infinite bound lies, and the bound."""
        values = self.values()
        broken = (~torch.isfinite(values)).nonzero()
        return (len(values) - int(broken[0]) - 1, values[broken[0]].item()) if len(broken) else None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {"bounds": torch.stack(self.bounds) if self.bounds else torch.empty(0), "sizes": list(self.sizes)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a saved state."""
        self.bounds, self.sizes = list(state["bounds"].to(device)), list(state["sizes"])
