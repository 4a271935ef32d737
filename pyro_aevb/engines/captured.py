"""A training step without Pyro at run time: minibatch, loss and gradients from a recording, then the update.

On a CPU the optimizer is torch's own, fused, and steps after the graph: its state is the eager engine's, a changed
learning rate takes effect at once, and it is faster (784-500-20, M=100, two cores, ms a step in one run: 2.1; with
Adam's update compiled into the graph by inductor, which cannot lower the fused kernel, 2.5). On a GPU it is part of the
graph where its state lies on the device, and ten steps are one launch.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.cuda_graphs import WholeSteps, unchanged, updates_in_place
from pyro_aevb.engines.eager import EagerEngine
from pyro_aevb.engines.recording import Recording, record
from pyro_aevb.pairs import tensors_of
from pyro_aevb.process import shielded
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["CapturedEngine"]

logger = logging.getLogger(__name__)

CHECK_EVERY = 500  # steps: 0.3 % of the time; every hundred would take 1.5 %
STEPS_PER_LAUNCH = 10
TOLERANCE = 1e-4  # relative, of a recorded loss to the eager one: far above float32 rounding, below any real change


class CapturedEngine(EagerEngine):
    """The eager engine with loss and gradients from a recording, one for each size of batch in ``batch_sizes``.

    Whatever cannot be recorded or compiled runs eagerly, after one log line that says why.

    Arguments:
        arguments: As for :class:`EagerEngine`.
        batch_sizes: Sizes worth a recording; other batches run eagerly.
        compiled: Compile the recording; without, it is replayed operation by operation, bit for bit as eager.
    """

    def __init__(self, *arguments: Any, batch_sizes: frozenset[int], compiled: bool = True) -> None:
        super().__init__(*arguments)
        self.batch_sizes, self.compiled = batch_sizes, compiled
        self.recordings: dict[int, Recording | None] = {}
        self.seconds = 0.0
        self._checked: set[int] = set()
        self._steps_since_check = 0
        self._whole: tuple[Recording, WholeSteps] | None = None
        self._stepped = False  # until the first step the optimizer's state is not there
        self.steps_at_once = STEPS_PER_LAUNCH if self.batches.device.type == "cuda" else 1

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """Loss, gradients, update; several steps in one launch where that can be."""
        self._steps_since_check += len(visits)
        whole = self._whole_steps(visits) if self._stepped and len(visits) == self.steps_at_once > 1 else None
        self._stepped = True
        yield from super().steps(visits) if whole is None else whole(visits)

    def loss_and_gradients(self, visit: Visit) -> Tensor:
        """From the recording for this size of minibatch, if there is one; else eagerly."""
        recording = self._recording(visit)
        if recording is None:
            return super().loss_and_gradients(visit)
        loss, gradients = recording(visit)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def running(self) -> Any:
        """Without validation; recordings are compared with the pair from time to time."""
        if self._steps_since_check >= CHECK_EVERY:
            self.check_next()
        return super().running()

    def check_next(self) -> None:
        """Compare each recording with the pair before it is next used."""
        self._checked.clear()
        self._steps_since_check = 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Into the optimizer, whose state lies elsewhere from then on."""
        super().load_state_dict(state)
        self._whole, self._stepped = None, bool(state["state"])

    def _recording(self, visit: Visit) -> Recording | None:
        size = len(visit[0])
        if size not in self.recordings and size in self.batch_sizes:
            self.recordings[size] = self._record(visit)
        recording = self.recordings.get(size)
        if recording is None or size in self._checked or (self._same(recording) and self._agrees(recording, visit)):
            self._checked.add(size)
            return recording
        logger.info("model, guide or estimator has changed since the step was recorded: recording it anew")
        recording = self._record(visit)
        if recording is not None and not self._agrees(recording, visit):
            logger.info("the recording differs from the step, which changes by itself: it runs eagerly from here on")
            recording = None
        self.recordings[size] = recording
        return recording

    def _record(self, visit: Visit) -> Recording | None:
        started = time.perf_counter()
        parts = self.parameters, self.batches.parts, self._other_tensors()
        try:
            with shielded():
                recording = record(self.loss, visit, *parts, compiled=self.compiled)
        except Exception as error:  # whatever the compiler raises: the eager step gives the same numbers
            logger.info("the step cannot be recorded, so it runs eagerly: %s", _reason(error))
            return None
        seconds = time.perf_counter() - started
        self.seconds += seconds
        logger.info("recorded the step for batches of %d in %.1f s", len(visit[0]), seconds)
        return recording

    def _whole_steps(self, visits: list[Visit]) -> WholeSteps | None:
        """Loss, gradients and update of these visits as one launch, captured anew when what it froze has changed."""
        recording = self._recording(visits[0])
        if recording is None or not recording.inlined or any(len(rows) != len(visits[0][0]) for rows, _ in visits):
            return None
        if self._whole and self._whole[0] is recording:
            whole = self._whole[1]
            if whole.settings == whole.settings_of(self.optimizer):
                return whole
        if not updates_in_place(self.optimizer, self.batches.device):
            return None
        try:
            parts = self.optimizer, self.parameters, self._other_tensors(), list(visits)
            self._whole = recording, WholeSteps(recording.inside, *parts)
        except Exception as error:  # as above
            logger.info("the optimizer steps after the graph, it cannot be captured: %s", _reason(error))
            self.steps_at_once = 1
            return None
        return self._whole[1]

    def _same(self, recording: Recording) -> bool:
        """Are the tensors the recorded ones, trained as then? The loss would not show it."""
        inputs = [*self.parameters, *self.batches.parts, *self._other_tensors()]
        return recording.sources == [(id(tensor), tensor.requires_grad) for tensor in inputs]

    def _agrees(self, recording: Recording, visit: Visit) -> bool:
        """Is the pair still what was recorded? A Python number in it is frozen in the recording, a tensor is not."""
        device = self.batches.device
        with unchanged_random_state(device), unchanged(self._other_tensors()), torch.no_grad():
            expected = self.loss(*visit)
        with unchanged_random_state(device), unchanged(self._other_tensors()):
            loss, _ = recording(visit)
        return bool(torch.isclose(loss, expected.detach(), rtol=TOLERANCE, equal_nan=True))

    def _other_tensors(self) -> list[Tensor]:
        """Tensors that the pair or the estimator may change or be told to change: inputs of the graph."""
        parts = self.modules.values()
        buffers = [b for part in parts for b in part.buffers()]
        frozen = [p for part in parts for p in part.parameters() if not p.requires_grad]
        own = tensors_of(self.estimator).values()
        known: dict[int, Tensor] = {id(t): t for t in (*buffers, *frozen, *own)}
        return list(known.values())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
