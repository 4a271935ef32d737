"""Replays on a GPU: one launch for the whole of what was captured.

The rules of CUDA graphs, and how they are kept: warm-up and capture run on a side stream; whatever changes between
replays lies in memory of fixed address and is copied into, not replaced (minibatch rows, learning rates, parameters and
the optimizer's state, which fused or capturable ones change in place); outputs are cloned before the next replay
overwrites them; nothing inside reads a value back; torch registers the default generator with the graph, so that each
replay draws new noise and the generator's state can be saved and put back between replays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.around import Around
from pyro_aevb.optimizers import Paced
from pyro_aevb.origins import comes_from
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["GraphReplay", "WholeSteps", "graph_of", "unchanged", "updates_in_place"]

MakeReplay = Callable[[Callable[[], None]], Callable[[], None]]


def graph_of(body: Callable[[], None]) -> Callable[[], None]:
    """A replay of ``body``, which works on tensors of fixed address; warm-up runs it: the caller restores them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


class GraphReplay:
    """A function of tensors as one launch; its outputs but the first hold until the next call.

    Arguments:
        function: Function to replay.
        inputs: Its inputs; the first ``moving`` are copied before each replay, the others are read where they are.
        moving: How many inputs change their place in memory between calls.
        make_replay: How a body becomes a replay.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: list[Tensor],
        moving: int,
        make_replay: MakeReplay = graph_of,
    ) -> None:
        self.moving = [tensor.clone() for tensor in inputs[:moving]]
        self.inputs = [*self.moving, *inputs[moving:]]
        self.function = function
        self.outputs: tuple[Tensor, ...] = ()
        self.replay = make_replay(self._body)

    def _body(self) -> None:
        self.outputs = self.function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Copy what moves, replay; the first output, the loss, is cloned, since reports keep it."""
        for static, given in zip(self.moving, inputs, strict=False):
            static.copy_(given)
        self.replay()
        return (self.outputs[0].clone(), *self.outputs[1:])


class WholeSteps:
    """Several steps, each of loss, gradients and update, as one launch.

    The optimizer has stepped before, so that its state exists and keeps its place in memory. Step sizes are tensors of
    the graph, one for each step and group of parameters, and take effect when changed, also by a
    :class:`~pyro_aevb.optimizers.Paced` optimizer; other settings are part of the graph, see :meth:`settings_of`.

    Arguments:
        loss_and_gradients: Of a visit.
        optimizer: For which :func:`updates_in_place` holds.
        parameters: Parameters that the optimizer steps.
        others: Further tensors that a step may change, such as batch normalisation's.
        visits: As many as one replay takes, all of one size.
        make_replay: How a body becomes a replay.
        around: What stands around the optimizer's step: clipping and averages are part of the graph; the schedule is
            stepped before the launch, after each step's size was read, and may change nothing but step sizes.
    """

    def __init__(
        self,
        loss_and_gradients: Callable[[Visit], tuple[Tensor, list[Tensor | None]]],
        optimizer: torch.optim.Optimizer,
        parameters: list[Tensor],
        others: list[Tensor],
        visits: list[Visit],
        make_replay: MakeReplay = graph_of,
        around: Around | None = None,
    ) -> None:
        self.around = around or Around()
        self.loss_and_gradients = loss_and_gradients
        self.optimizer = optimizer
        self.parameters = parameters
        self.visits = [torch.stack(parts) for parts in zip(*visits, strict=True)]  # (steps, M), (steps,), ...
        self.settings = self.settings_of(optimizer)
        device = parameters[0].device
        groups = optimizer.param_groups
        self.sizes = [[float(group["lr"]) for group in groups] for _ in visits]
        self.rates = [[torch.tensor(size, device=device) for size in sizes] for sizes in self.sizes]
        self.losses = torch.zeros(len(visits), dtype=parameters[0].dtype, device=device)
        changed = [*parameters, *others, *state_tensors(optimizer), *self.around.tensors()]
        with unchanged(changed), unchanged_random_state(device):
            self.replay = make_replay(self._body)

    @staticmethod
    def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        """All settings that a capture freezes: if they change, capture anew."""
        moving = ("params", "lr", "capturable", optimizer.count if isinstance(optimizer, Paced) else None)
        return [{k: v for k, v in group.items() if k not in moving} for group in optimizer.param_groups]

    def __call__(self, visits: list[Visit]) -> list[Tensor]:
        """Take the steps; each one's loss before its update."""
        for static, given in zip(self.visits, zip(*visits, strict=True), strict=True):
            torch.stack(given, out=static)
        for rates, before in zip(self.rates, self.sizes, strict=True):
            self._set(rates, before)
            self.around.count()
        self.replay()
        return list(self.losses.clone())

    def _set(self, rates: list[Tensor], before: list[float]) -> None:
        """The next step's sizes, which counts as taken; what has not changed costs nothing."""
        factor = self.optimizer.next_factor() if isinstance(self.optimizer, Paced) else 1.0
        for i, group in enumerate(self.optimizer.param_groups):
            if (size := float(group["lr"]) * factor) != before[i]:
                rates[i].fill_(size)
                before[i] = size

    def _body(self) -> None:
        update = self.optimizer.update if isinstance(self.optimizer, Paced) else self.optimizer.step
        for i, rates in enumerate(self.rates):
            loss, gradients = self.loss_and_gradients(tuple(part[i] for part in self.visits))
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            with self._for_capture(rates):
                self.around.before(self.parameters)
                update()
                self.around.after()
            self.losses[i].copy_(loss)

    @contextmanager
    def _for_capture(self, rates: list[Tensor]) -> Iterator[None]:
        """Step sizes as tensors, and ``capturable`` on, for the time of a step."""
        groups = self.optimizer.param_groups
        before: list[dict[str, Any]] = [{k: group[k] for k in ("lr", "capturable") if k in group} for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group.update({"lr": rate} | ({"capturable": True} if "capturable" in group else {}))
        try:
            yield
        finally:
            for group, old in zip(groups, before, strict=True):
                group.update(old)


def updates_in_place(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Can the optimizer's step be captured: is it fused or capturable, with all of its state on the device?

    A user's own may do more in Python than a graph would see, such as set its step size: none but torch's and ours.
    """
    known = isinstance(optimizer, Paced) or comes_from(type(optimizer), "torch")
    capturable = all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return known and capturable and all(tensor.device.type == device.type for tensor in state_tensors(optimizer))


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All tensors of an optimizer's state."""
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


@contextmanager
def unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Put tensors back that a block changes in place."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
