"""A step by one optimizer of ``torch.optim``, after a function that gives loss and gradients.

Such a function is the estimator's loss run through Pyro, or a recording of it, see :mod:`pyro_aevb.engines.captured`.
Both step the same parameters at the same noise as Pyro's own ``SVI``; the documentation's benchmarks tell their costs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.base import Gradients, Objective, OptimizerLike
from pyro_aevb.engines.optimizer import OneOptimizer
from pyro_aevb.errors import InputError

if TYPE_CHECKING:
    from pyro_aevb.engines.captured import Launches

__all__ = ["EagerGradients", "TorchEngine"]


class EagerGradients:
    """Loss and gradients through Pyro.

    Arguments:
        objective: Whose.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, visit: Visit) -> Tensor:
        """Put each parameter's gradient into its ``.grad``; returns the loss."""
        loss = self.objective.loss(*visit)
        for parameter in self.objective.parameters.values():
            parameter.grad = None
        loss.backward()
        return loss.detach()

    def look(self) -> None:
        """Nothing is kept that could have changed."""

    def check_next(self) -> None:
        """Nothing is kept that could have changed."""


class TorchEngine(OneOptimizer):
    """One optimizer over all parameters, and Pyro's validation off, since the first run had it on.

    Arguments:
        objective: Loss of the pair on a minibatch, which a step descends.
        optimizer: A callable that makes an optimizer of parameters, or an optimizer.
        gradients: Function that gives loss and gradients; by default they are taken through Pyro.

    Raises:
        InputError: If the optimizer or the estimator cannot be stepped so.
    """

    name = "eager"
    updating = False
    launches: "Launches | None" = None
    """On a GPU, several steps in one launch."""

    def __init__(self, objective: Objective, optimizer: OptimizerLike, gradients: Gradients | None = None) -> None:
        if isinstance(optimizer, PyroOptim):
            raise InputError(
                "an optimizer of pyro.optim makes one optimizer per tensor: use engine='svi' or torch.optim"
            )
        if not hasattr(objective.estimator, "differentiable_loss"):
            name = type(objective.estimator).__name__
            raise InputError(f"{name} has no differentiable_loss: train it with engine='svi'")
        super().__init__(optimizer, objective.trained())
        self.gradients: Gradients = gradients or EagerGradients(objective)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise InputError(
                "LBFGS evaluates the loss many times a step, which minibatches do not allow: choose another"
            )

    @property
    def steps_at_once(self) -> int:
        """How many steps may be taken in one go."""
        return self.launches.count if self.launches else 1

    def running(self) -> AbstractContextManager[None]:
        """Without validation, which costs 6 to 15 % of a step."""
        self.gradients.look()
        return pyro.validation_enabled(False)

    def check_next(self) -> None:
        """Compare recordings with the pair before they are next used."""
        self.gradients.check_next()

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """Loss, gradients, update."""
        launch = self.launches.of(visits) if self.launches else None
        if launch is not None:
            self.updating = True
            losses = launch(visits)
            self.updating = False
            yield from losses
            return
        for visit in visits:
            loss = self.gradients(visit)
            self.updating = True
            self.update()
            self.updating = False
            yield loss

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Into the optimizer, whose state lies elsewhere from then on."""
        super().load_state_dict(state)
        self.updating = False
        if self.launches:
            self.launches.begin(stepped=bool(state["state"]))
