"""Monte Carlo EM's two steps as functions of tensors: through Pyro, or recorded as graphs and replayed without it.

A recorded transition is one graph: the leapfrog steps between its ends need no log density, only its gradient, and the
compiler leaves out what is not needed. The updates after a step's first need no loss, and have a graph without.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_aevb import hmc, traces
from pyro_aevb.engines.cuda_graphs import unchanged
from pyro_aevb.engines.frozen import Frozen
from pyro_aevb.engines.kept import Kept, agree
from pyro_aevb.engines.recording import Codes, TensorFunction, record_function
from pyro_aevb.pairs import Pair, evaluating
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.traces import LatentSpace

__all__ = ["CapturedSteps", "EagerSteps", "RecordedSteps"]

SAME_PLACE = 0.01  # of the way that chains go: far above rounding, far below another transition
AGREEING = 0.9  # of the chains: where rounding turns an acceptance, one ends elsewhere


class EagerSteps:
    """The E-step's transition and the M-step's gradients through Pyro. Shapes: ``M`` data, ``K`` latents.

    Arguments:
        model: The model.
        space: The space that the model's latents move in, a vector for each datum.
        size: Number N of data that minibatches are drawn from.
        leapfrog_steps: How many leapfrog steps each transition takes.
        target_acceptance: Mean acceptance that the leapfrog step size is adapted to reach, between 0 and 1.
        modules: The modules that the model is made of, which the E-step puts in ``eval()``.
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
        self.model = model
        self.space = space
        self.size = size
        self.modules = list(modules)
        self.leapfrog_steps = leapfrog_steps
        self.target_acceptance = target_acceptance

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
    """The E-step's transition as a recorded graph"""
    loss_and_gradients: TensorFunction
    """The loss as a recorded graph: takes u and data, gives loss and gradients by ``trained``"""
    gradients: TensorFunction
    """The gradients alone, as a recorded graph"""
    trained: list[Tensor]
    """The parameters that the loss depends on"""

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
    """Recordings of the eager steps, for each of some sizes of minibatch; other sizes run eagerly.

    Whatever cannot be recorded or compiled runs eagerly, after one log line that says why.

    Arguments:
        eager: The steps.
        parameters: The weights to train.
        modules: The model's, whose further tensors may change too.
        sizes: Sizes of minibatch that are worth a recording.
        compiled: Compile the recordings; without, they are replayed operation by operation, bit for bit as eager.
    """

    def __init__(
        self,
        eager: EagerSteps,
        parameters: list[Tensor],
        modules: list[nn.Module],
        sizes: frozenset[int],
        compiled: bool = True,
    ) -> None:
        self.eager = eager
        self.parameters = parameters
        self.modules = modules
        self.compiled = compiled
        self.codes = Codes()
        frozen = Frozen(self._tensors, lambda: self.modules, [eager.model], self._settings)
        self.kept: Kept[RecordedSteps] = Kept(self._record, self._agree, frozen, sizes)

    def steps_for(self, u: Tensor, step_size: Tensor, *args: Tensor) -> EagerSteps | RecordedSteps:
        """What steps on this minibatch: recordings for its size, checked from time to time; else the eager steps."""
        return self.kept.of(len(u), u, step_size, *args) or self.eager

    def _record(self, u: Tensor, step_size: Tensor, *args: Tensor) -> RecordedSteps:
        tensors = self._tensors()
        trained = self._trained(u, *args)

        def loss_and_gradients(u: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
            """By the weights that the loss depends on."""
            with torch.enable_grad():
                loss = self.eager.loss(u, *args)
                return loss.detach(), *torch.autograd.grad(loss, trained)

        def gradients(u: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
            """The gradients alone, for the updates after a step's first."""
            return loss_and_gradients(u, *args)[1:]

        return RecordedSteps(
            record_function(self.eager.transition, (u, step_size, *args), tensors, self.compiled, self.codes),
            record_function(loss_and_gradients, (u, *args), tensors, self.compiled, self.codes),
            record_function(gradients, (u, *args), tensors, self.compiled, self.codes),
            trained,
        )

    def _trained(self, u: Tensor, *args: Tensor) -> list[Tensor]:
        """The parameters that the loss depends on; the optimizer leaves the others alone."""
        found = self._loss_and_gradients(u, *args)[1:]
        return [p for p, gradient in zip(self.parameters, found, strict=True) if gradient is not None]

    def _tensors(self) -> list[Tensor]:
        """All that may change between steps: inputs of the graphs."""
        further = [t for module in self.modules for t in (*module.parameters(), *module.buffers())]
        return list({id(t): t for t in (*self.parameters, *further)}.values())

    def _settings(self) -> Any:
        return self.eager.leapfrog_steps, self.eager.target_acceptance

    def _agree(self, recorded: RecordedSteps, u: Tensor, step_size: Tensor, *args: Tensor) -> bool:
        """Are the steps still what was recorded? A Python number in them is frozen in the graphs, a tensor is not."""
        with self._without_a_trace(u):
            expected = self.eager.transition(u, step_size, *args)[0]
        with self._without_a_trace(u):
            found = recorded.transition(u, step_size, *args)[0]
        right = self._loss_and_gradients(u, *args)
        with self._without_a_trace(u):
            loss, *gradients = recorded.loss_and_gradients(u, *args)
            by_weight = {id(p): gradient for p, gradient in zip(recorded.trained, gradients, strict=True)}
            ours = [loss, *(by_weight.get(id(p)) for p in self.parameters)]
            apart = (found - expected).norm(dim=-1)  # (M,)
            way = (expected - u).norm(dim=-1)  # (M,)
            together = (apart <= SAME_PLACE * way.mean()).double().mean() >= AGREEING
            return bool(together) and agree(ours, right, loss_of_a_nat=self.eager.size)

    def _loss_and_gradients(self, u: Tensor, *args: Tensor) -> list[Tensor | None]:
        """The eager loss, and each weight's gradient, ``None`` where there is none; nothing changes."""
        moving = [p for p in self.parameters if p.requires_grad]
        with self._without_a_trace(u), torch.enable_grad():
            loss = self.eager.loss(u, *args)
            found = iter(torch.autograd.grad(loss, moving, allow_unused=True))
        return [loss.detach(), *(next(found) if p.requires_grad else None for p in self.parameters)]

    @contextmanager
    def _without_a_trace(self, u: Tensor) -> Iterator[None]:
        """Noise, buffers and weights stay as they are."""
        with unchanged_random_state(u.device), unchanged(self._tensors()), torch.no_grad():
            yield
