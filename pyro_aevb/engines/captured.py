"""Loss and gradients without Pyro at run time: from a recording for each size of minibatch, then the update.

On a CPU the optimizer is torch's own, fused, and steps after the graph: its state is the eager engine's, a changed
learning rate takes effect at once, and it is faster (784-500-20, M=100, two cores, ms a step in one run: 2.1; with
Adam's update compiled into the graph by inductor, which cannot lower the fused kernel, 2.5). On a GPU it is part of the
graph where its state lies on the device, and ten steps are one launch.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.around import Around
from pyro_aevb.engines.base import Objective, OptimizerLike
from pyro_aevb.engines.cuda_graphs import WholeSteps, unchanged, updates_in_place
from pyro_aevb.engines.eager import EagerGradients, TorchEngine
from pyro_aevb.engines.frozen import Frozen
from pyro_aevb.engines.kept import TOLERANCE, Kept, agree, reason
from pyro_aevb.engines.recording import Codes, Recording, record
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["Launches", "RecordedGradients", "captured_engine", "frozen_of", "loss_and_gradients_alone"]

logger = logging.getLogger(__name__)

STEPS_PER_LAUNCH = 10


class RecordedGradients:
    """Loss and gradients from a recording for each of some sizes of minibatch; other sizes run through Pyro.

    Whatever cannot be recorded or compiled runs eagerly, after one log line that says why.

    Arguments:
        objective: Whose.
        sizes: Sizes of minibatch that are worth a recording.
        compiled: Compile the recording; without, it is replayed operation by operation, bit for bit as eager.
        tolerance: Relative error of a gradient, up to which a recording is the step.
    """

    def __init__(
        self, objective: Objective, sizes: frozenset[int], compiled: bool = True, tolerance: float = TOLERANCE
    ) -> None:
        self.objective = objective
        self.compiled = compiled
        self.tolerance = tolerance
        self.eager = EagerGradients(objective)
        self.codes = Codes()
        self.kept: Kept[Recording] = Kept(self._record, self._agrees, frozen_of(objective), sizes)
        self.look = self.kept.look
        self.check_next = self.kept.check_next

    def __call__(self, visit: Visit) -> Tensor:
        """Put each parameter's gradient into its ``.grad``; returns the loss."""
        recording = self.kept.of(len(visit[0]), visit)
        if recording is None:
            return self.eager(visit)
        loss, gradients = recording(visit)
        for parameter, gradient in zip(self.objective.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _record(self, visit: Visit) -> Recording:
        objective = self.objective
        tensors = objective.trained(), objective.batches.parts, objective.further_tensors()
        unregistered = self.kept.frozen.python.tensors()
        return record(
            objective.loss, visit, *tensors, compiled=self.compiled, unregistered=unregistered, codes=self.codes
        )

    def _agrees(self, recording: Recording, visit: Visit) -> bool:
        expected = loss_and_gradients_alone(self.objective, visit)
        with _without_a_trace(self.objective):
            loss, gradients = recording(visit)
            loss_of_a_nat = self.objective.divisors[len(visit[0])]
            return agree([loss, *gradients], expected, loss_of_a_nat, self.tolerance)


class Launches:
    """Several steps, of loss, gradients and update, as one launch on a GPU.

    Arguments:
        objective: Loss of the pair on a minibatch, which a step descends.
        gradients: Whose recordings the launches are made of.
        optimizer: Optimizer of the parameters.
        count: How many steps one launch takes.
        around: What stands around its step; a scheduler that sets more than step sizes keeps to single steps.
    """

    def __init__(
        self,
        objective: Objective,
        gradients: RecordedGradients,
        optimizer: torch.optim.Optimizer,
        count: int,
        around: Around | None = None,
    ) -> None:
        self.objective = objective
        self.gradients = gradients
        self.optimizer = optimizer
        self.count = count
        self.around = around or Around()
        self.kept: tuple[Recording, WholeSteps] | None = None
        self._stepped = False  # until the first step the optimizer's state is not there

    def begin(self, stepped: bool) -> None:
        """The optimizer's state lies elsewhere from here on."""
        self.kept = None
        self._stepped = stepped

    def of(self, visits: list[Visit]) -> WholeSteps | None:
        """The launch for these visits, captured anew when what it froze has changed; ``None`` where there is none."""
        first = not self._stepped
        self._stepped = True
        if self.around.schedule is not None and not self.around.schedule.rates_alone:
            return None
        if first or len(visits) != self.count or any(len(visit[0]) != len(visits[0][0]) for visit in visits):
            return None
        recording = self.gradients.kept.of(len(visits[0][0]), visits[0], steps=len(visits))
        if recording is None or not recording.inlined:
            return None
        if self.kept and self.kept[0] is recording:
            whole = self.kept[1]
            if whole.settings == whole.settings_of(self.optimizer):
                return whole
        return self._captured(recording, visits)

    def _captured(self, recording: Recording, visits: list[Visit]) -> WholeSteps | None:
        objective = self.objective
        if not updates_in_place(self.optimizer, objective.batches.device):
            return None
        tensors = objective.trained(), objective.further_tensors()
        try:
            whole = WholeSteps(recording.inside, self.optimizer, *tensors, list(visits), around=self.around)
        except Exception as error:  # whatever the driver raises: single steps give the same numbers
            logger.info("the optimizer steps after the graph, it cannot be captured: %s", reason(error))
            self.count = 1
            return None
        self.kept = recording, whole
        return whole


def captured_engine(
    objective: Objective,
    optimizer: OptimizerLike,
    sizes: frozenset[int],
    tolerance: float = TOLERANCE,
    around: Around | None = None,
) -> TorchEngine:
    """The engine that steps after recorded loss and gradients.

    Arguments:
        objective: Loss of the pair on a minibatch, which a step descends.
        optimizer: A callable that makes an optimizer of parameters, or an optimizer.
        sizes: Sizes of minibatch that are worth a recording.
        tolerance: As for :class:`RecordedGradients`.
        around: What stands around the optimizer's step; by default nothing.

    Raises:
        InputError: As :class:`~pyro_aevb.engines.eager.TorchEngine`.
    """
    gradients = RecordedGradients(objective, sizes, tolerance=tolerance)
    engine = TorchEngine(objective, optimizer, gradients)
    engine.name = "captured"
    engine.around = around or Around()
    if objective.batches.device.type == "cuda":
        engine.launches = Launches(objective, gradients, engine.optimizer, STEPS_PER_LAUNCH, engine.around)
    return engine


def frozen_of(objective: Objective) -> Frozen:
    """What recordings of an objective's loss hold fast."""

    def tensors() -> list[Tensor]:
        return [*objective.trained(), *objective.batches.parts, *objective.further_tensors()]

    roots = objective.model, objective.guide, objective.estimator
    return Frozen(tensors, objective.modules.values, roots)


def loss_and_gradients_alone(objective: Objective, visit: Visit) -> list[Tensor | None]:
    """The loss and each parameter's gradient through Pyro, by themselves: nothing is drawn, nothing changes."""
    moving = [p for p in objective.trained() if p.requires_grad]
    with _without_a_trace(objective), torch.enable_grad():
        loss = objective.loss(*visit)
        found = iter(torch.autograd.grad(loss, moving, allow_unused=True))
    return [loss.detach(), *(next(found) if p.requires_grad else None for p in objective.trained())]


@contextmanager
def _without_a_trace(objective: Objective) -> Iterator[None]:
    with unchanged_random_state(objective.batches.device), unchanged(objective.further_tensors()):
        yield
