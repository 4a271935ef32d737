"""What a training reports, and the losses gathered between two reports, which stay on the device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.views import html_table

__all__ = ["Gathered", "Progress"]


class Progress(NamedTuple):
    """What a training reports: how many training samples it has seen, and the bound since the report before."""

    samples_seen: int
    """Number of training samples, data visited, since the beginning: the horizontal axis of the paper's figures."""
    bound: float
    """Mean of the estimator's bound over the minibatches since the last report, nats per datum; NaN for a
    :class:`~pyro_aevb.MonteCarloEM`, which knows none."""
    beta: float | None = None
    """Weight of the KL in the last step's gradient, of an estimator that anneals it; never in ``bound``."""
    log_joint: float | None = None
    """Mean of log p(x, z) at the chains of a :class:`~pyro_aevb.MonteCarloEM`, nats per datum; ``None`` elsewhere."""
    held_out_bound: float | None = None
    """Mean bound of the data that an :class:`~pyro_aevb.EarlyStopping` holds out, nats per datum; ``None`` elsewhere,
    and in a report that comes early, at the end of a run."""

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        bounds = {"bound": self.bound, "log p(x, z)": self.log_joint, "bound of held-out data": self.held_out_bound}
        rows: list[tuple[str, float | None, str]] = [("samples seen", self.samples_seen, "")]
        rows += [(name, value, "nats per datum") for name, value in bounds.items() if value is not None]
        rows += [] if self.beta is None else [("weight of the KL", self.beta, "")]
        return html_table(rows)


class Gathered:
    """Losses of single minibatches, what turns each into a bound in nats per datum, and the minibatches' sizes."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.divisors: list[float] = []
        self.sizes: list[int] = []

    def add(self, loss: Tensor, divisor: float, size: int) -> None:
        """Remember a minibatch's loss; nothing waits for it, nothing is computed."""
        self.losses.append(loss)
        self.divisors.append(divisor)
        self.sizes.append(size)

    def values(self) -> Tensor:
        """All bounds, on the CPU, in float64."""
        return -torch.stack(self.losses).double().cpu() / torch.tensor(self.divisors, dtype=torch.float64)

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
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        return {"losses": losses, "divisors": list(self.divisors), "sizes": list(self.sizes)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a saved state."""
        self.losses = list(state["losses"].to(device))
        self.divisors = list(state["divisors"])
        self.sizes = list(state["sizes"])
