"""What a step is taken on, and what takes it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_aevb.data.batches import Batches, Visit
from pyro_aevb.pairs import Pair, tensors_of

__all__ = ["Engine", "Gradients", "MakeOptimizer", "Objective", "OptimizerLike", "differentiable_loss", "first_loss"]

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
OptimizerLike = MakeOptimizer | torch.optim.Optimizer | PyroOptim


@dataclass(frozen=True)
class Objective:
    """The estimator's loss of a pair on minibatches: what every engine steps on.

    Arguments:
        model: The model.
        guide: Its guide.
        estimator: Any ``ELBO``, this package's or Pyro's.
        parameters: Parameters that are trained, by name.
        batches: Where minibatches are fetched.
        modules: Those that take part in the pair, by name; more may join while training.
        divisors: Number that a loss is divided by to be nats per datum, for each size of minibatch.
        averages: Tensors of the parameter store that steps change without a gradient.
    """

    model: Pair
    guide: Pair
    estimator: ELBO
    parameters: dict[str, Tensor]
    batches: Batches
    modules: Mapping[str, nn.Module]
    divisors: Mapping[int, float]
    averages: Mapping[str, Tensor]

    def loss(self, *visit: Tensor) -> Tensor:
        """The estimator's loss on a minibatch, a scalar to differentiate."""
        return differentiable_loss(self.estimator)(self.model, self.guide, *self.batches.take(*visit))

    def trained(self) -> list[Tensor]:
        """The parameters, in their order."""
        return list(self.parameters.values())

    def further_tensors(self) -> list[Tensor]:
        """Tensors that pair or estimator may change, or be told to change: buffers, frozen weights, counts."""
        parts = self.modules.values()
        buffers = [buffer for part in parts for buffer in part.buffers()]
        frozen = [p for part in parts for p in part.parameters() if not p.requires_grad]
        own = (*tensors_of(self.estimator).values(), *self.averages.values())
        trained = {id(p) for p in self.parameters.values()}
        known: dict[int, Tensor] = {id(t): t for t in (*buffers, *frozen, *own) if id(t) not in trained}
        return list(known.values())


class Gradients(Protocol):
    """Puts the gradients of an objective's loss into its parameters' ``.grad``."""

    def __call__(self, visit: Visit) -> Tensor:
        """For a minibatch; returns its loss, which nothing has waited for."""

    def look(self) -> None:
        """Between blocks of steps: is what was recorded still so?"""

    def check_next(self) -> None:
        """The caller may have changed anything: compare before the next step."""


class Engine(Protocol):
    """Takes step after step, with a state that can be saved."""

    name: str
    """What a user asks for it by: captured, eager or svi."""
    optimizer: Any
    updating: bool
    """Whether an update has begun and not ended: what fails there cannot be taken back."""

    @property
    def steps_at_once(self) -> int:
        """How many steps may be taken in one go."""

    def running(self) -> AbstractContextManager[None]:
        """Entered around many steps."""

    def check_next(self) -> None:
        """The caller may have changed anything since the last step."""

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """Take a step on each minibatch; yields each one's loss before it, a scalar that nothing has waited for."""

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state: tensors and plain values."""

    def check_state(self, state: Any, stepped: bool) -> None:
        """Raise ``InputError`` if a saved state, after steps or before the first, is not one that this engine has."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


def differentiable_loss(estimator: ELBO) -> Callable[..., Tensor]:
    """The method that every ``ELBO`` has and the base class does not declare."""
    return estimator.differentiable_loss  # type: ignore[attr-defined]  # see above


def first_loss(estimator: ELBO) -> Callable[..., Tensor]:
    """A loss to run once, of any estimator: some of Pyro's have only the method that ``SVI`` calls."""
    if hasattr(estimator, "differentiable_loss"):
        return differentiable_loss(estimator)
    return lambda *args: torch.as_tensor(estimator.loss_and_grads(*args))  # type: ignore[attr-defined]
