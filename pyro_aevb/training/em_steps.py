"""Monte Carlo EM's two steps as functions of tensors: through Pyro, or recorded as graphs and replayed without it.

A recorded transition is one graph: the leapfrog steps between its ends need no log density, only its gradient, and the
compiler leaves out what is not needed. The updates after a step's first need no loss, and have a graph without.
"""

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_aevb import hmc, traces
from pyro_aevb.engines.captured import CHECK_EVERY, TOLERANCE
from pyro_aevb.engines.cuda_graphs import unchanged
from pyro_aevb.engines.recording import TensorFunction, record_function
from pyro_aevb.pairs import Pair, evaluating
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.traces import LatentSpace

__all__ = ["CapturedSteps", "EagerSteps", "RecordedSteps"]

logger = logging.getLogger(__name__)

SAME_PLACE = 0.01  # of the way that chains go: far above rounding, far below another transition
AGREEING = 0.9  # of the chains: where rounding turns an acceptance, one ends elsewhere


class EagerSteps:
    """The E-step's transition and the M-step's gradients through Pyro. Shapes: ``M`` data, ``K`` latents.

    Arguments:
        model: The model.
        space: Of its latents.
        size: Number N of data that minibatches are drawn from.
        leapfrog_steps: In each transition.
        target_acceptance: That the leapfrog step size adapts to.
        modules: The model's, which the E-step evaluates.
    """

    def __init__(
        self,
        model: Pair,
        space: LatentSpace,
        size: int,
        leapfrog_steps: int,
        target_acceptance: float,
        modules: Iterable[nn.Module] = (),
    ) -> None:
        self.model, self.space, self.size, self.modules = model, space, size, list(modules)
        self.leapfrog_steps, self.target_acceptance = leapfrog_steps, target_acceptance

    def transition(self, u: Tensor, step_size: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
        """The E-step: from positions u, ``(M, K)``, to the next, the next step size and the mean acceptance."""

        def log_density(u: Tensor) -> Tensor:
            """log p(x, u), ``(1, M)``."""
            likelihood, prior = self.space.log_joint(self.model, args, u)
            return likelihood + prior

        with torch.no_grad(), evaluating(self.modules):
            u = u.unsqueeze(0)  # (1, M, K)
            state = hmc.State(u, *hmc.with_gradient(log_density, u))
            state, info = hmc.step(log_density, state, hmc.jittered(step_size), self.leapfrog_steps)
            adapted = hmc.adapted(step_size, info.acceptance, self.target_acceptance)
        return state.position[0], adapted, info.acceptance.mean()

    def loss(self, u: Tensor, *args: Tensor) -> Tensor:
        r"""The M-step's loss at latents held fixed, :math:`-\frac NM \sum_{i=1}^M \log p_\theta(x_i, z_i)`."""
        with torch.no_grad():
            latents, _ = self.space.latents(u.unsqueeze(0))
        likelihood, prior = traces.log_joint_of(self.model, args, latents, 1, self.space.choices)
        return -self.size / len(u) * (likelihood + prior).sum()

    def backward(self, u: Tensor, *args: Tensor, with_loss: bool) -> Tensor | None:
        """Put each parameter's gradient into its ``.grad``, which is empty; returns the loss where it is wanted."""
        loss = self.loss(u, *args)
        loss.backward()
        return loss.detach() if with_loss else None


class RecordedSteps(NamedTuple):
    """The recordings for one size of minibatch."""

    move: TensorFunction
    """As :meth:`EagerSteps.transition`"""
    loss_and_gradients: TensorFunction
    """Of u and data; gradients by ``trained``"""
    gradients: TensorFunction
    """The same without the loss"""
    trained: list[Tensor]
    """The parameters that the loss depends on"""
    sources: list[Any]
    """Python numbers that are frozen, and where the tensors lie"""

    def transition(self, u: Tensor, step_size: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`EagerSteps.transition`; copies, since on a GPU the next replay overwrites what it returned."""
        return tuple(result.clone() for result in self.move(u, step_size, *args))

    def backward(self, u: Tensor, *args: Tensor, with_loss: bool) -> Tensor | None:
        """As :meth:`EagerSteps.backward`."""
        found = list((self.loss_and_gradients if with_loss else self.gradients)(u, *args))
        loss = found.pop(0) if with_loss else None
        for parameter, gradient in zip(self.trained, found, strict=True):
            parameter.grad = gradient
        return loss


class CapturedSteps:
    """Recordings of the eager steps, for each size of batch in ``batch_sizes``.

    Whatever cannot be recorded or compiled runs eagerly, after one log line that says why.

    Arguments:
        eager: The steps.
        parameters: The weights to train.
        modules: The model's, whose further tensors may change too.
        batch_sizes: Sizes worth a recording; other batches run eagerly.
        compiled: Compile the recordings; without, they are replayed operation by operation, bit for bit as eager.
    """

    def __init__(
        self,
        eager: EagerSteps,
        parameters: list[Tensor],
        modules: list[nn.Module],
        batch_sizes: frozenset[int],
        compiled: bool = True,
    ) -> None:
        self.eager, self.parameters, self.modules = eager, parameters, modules
        self.batch_sizes, self.compiled = batch_sizes, compiled
        self.recordings: dict[int, RecordedSteps | None] = {}
        self._checked: set[int] = set()
        self._steps_since_check = 0

    def check_next(self) -> None:
        """Compare each recording with the model before it is next used."""
        self._checked.clear()
        self._steps_since_check = 0

    def steps_for(self, u: Tensor, step_size: Tensor, *args: Tensor) -> EagerSteps | RecordedSteps:
        """What steps on this minibatch: recordings for its size, checked from time to time; else the eager steps."""
        self._steps_since_check += 1
        if self._steps_since_check > CHECK_EVERY:
            self.check_next()
        size = len(u)
        if size in self.batch_sizes and size not in self._checked:
            self._check(u, step_size, *args)
            self._checked.add(size)
        return self.recordings.get(size) or self.eager

    def _check(self, u: Tensor, step_size: Tensor, *args: Tensor) -> None:
        """Record what has no recording, and what has changed since."""
        size = len(u)
        if size not in self.recordings:
            self.recordings[size] = self._record(u, step_size, *args)
        elif (recorded := self.recordings[size]) and not self._agree(recorded, u, step_size, *args):
            logger.info("the model has changed since its steps were recorded: recording them anew")
            self.recordings[size] = self._record(u, step_size, *args)

    def _record(self, u: Tensor, step_size: Tensor, *args: Tensor) -> RecordedSteps | None:
        started = time.perf_counter()
        try:
            recorded = self._recorded(u, step_size, *args)
        except Exception as error:  # whatever the compiler raises: the eager step gives the same numbers
            reason = " ".join(str(error).split())[:200]
            logger.info("the steps cannot be recorded, so they run eagerly: %s: %s", type(error).__name__, reason)
            return None
        if not self._agree(recorded, u, step_size, *args):
            logger.info("the recording differs from the step, which changes by itself: it runs eagerly from here on")
            return None
        logger.info("recorded the steps for batches of %d in %.1f s", len(u), time.perf_counter() - started)
        return recorded

    def _recorded(self, u: Tensor, step_size: Tensor, *args: Tensor) -> RecordedSteps:
        tensors, trained = self._tensors(), self._trained(u, *args)

        def loss_and_gradients(u: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
            """By the weights that the loss depends on."""
            with torch.enable_grad():
                loss = self.eager.loss(u, *args)
                return loss.detach(), *torch.autograd.grad(loss, trained)

        def gradients(u: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
            """Those alone."""
            return loss_and_gradients(u, *args)[1:]

        return RecordedSteps(
            record_function(self.eager.transition, (u, step_size, *args), tensors, self.compiled),
            record_function(loss_and_gradients, (u, *args), tensors, self.compiled),
            record_function(gradients, (u, *args), tensors, self.compiled),
            trained,
            self._sources(),
        )

    def _trained(self, u: Tensor, *args: Tensor) -> list[Tensor]:
        """The parameters that the loss depends on; the optimizer leaves the others alone."""
        moving = [p for p in self.parameters if p.requires_grad]
        with unchanged_random_state(u.device), unchanged(self._tensors()):
            found = torch.autograd.grad(self.eager.loss(u, *args), moving, allow_unused=True)
        return [p for p, gradient in zip(moving, found, strict=True) if gradient is not None]

    def _tensors(self) -> list[Tensor]:
        """All that may change between steps: inputs of the graphs."""
        further = [t for module in self.modules for t in (*module.parameters(), *module.buffers())]
        return list({id(t): t for t in (*self.parameters, *further)}.values())

    def _sources(self) -> list[Any]:
        places = ((id(t), t.data_ptr(), t.requires_grad) for t in self._tensors())
        return [self.eager.leapfrog_steps, self.eager.target_acceptance, *places]

    def _agree(self, recorded: RecordedSteps, u: Tensor, step_size: Tensor, *args: Tensor) -> bool:
        """Are the steps still what was recorded? A Python number in them is frozen in the graphs, a tensor is not."""
        if recorded.sources != self._sources():
            return False
        expected_u, expected_loss = self._at_this_noise(self.eager.transition, self.eager.loss, u, step_size, *args)
        found_u, found_loss = self._at_this_noise(
            recorded.transition, lambda *given: recorded.loss_and_gradients(*given)[0], u, step_size, *args
        )
        apart, way = (found_u - expected_u).norm(dim=-1), (expected_u - u).norm(dim=-1)  # (M,) each
        together = (apart <= SAME_PLACE * way.mean()).double().mean() >= AGREEING
        return bool(together & torch.isclose(found_loss, expected_loss, rtol=TOLERANCE, atol=0, equal_nan=True))

    def _at_this_noise(
        self, transition: TensorFunction, loss: Any, u: Tensor, step_size: Tensor, *args: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where chains go and what the loss is, without a trace: noise, buffers and weights stay as they are."""
        with ExitStack() as stack:
            stack.enter_context(unchanged_random_state(u.device))
            stack.enter_context(unchanged(self._tensors()))
            stack.enter_context(torch.no_grad())
            return transition(u, step_size, *args)[0], loss(u, *args).detach()
