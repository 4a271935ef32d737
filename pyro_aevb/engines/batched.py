"""The recorded step of one member, batched over members, with the noise that it draws as one more input."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.fx import GraphModule, Node

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.recording import Recording, record_function
from pyro_aevb.torch_internals import to_copy

__all__ = ["BatchedStep", "Draw", "noise_as_inputs"]

aten = torch.ops.aten


class Draw(NamedTuple):
    """What one random operation of a recorded step draws."""

    like: Tensor
    """Shape and type of the noise."""
    fill: Callable[..., Any]
    """Fills a tensor in place, called with that and ``generator``, as the operation would from this generator."""


class BatchedStep:
    """Losses and gradients of all members, each on its minibatch and with its noise.

    Arguments:
        recording: Of one member's step; its graph is changed.
        visits: An example: rows, ``(members, M)``, keys, ``(members,)``, and what else a visit brings.
        parameters: Of all members, ``(members, ...)`` each; read where they are at each call.
        data: The data's tensors, the same for all.
        others: Other tensors of all members, as ``parameters``; they may be changed.
        compiled: Compile, rather than replay operation by operation.

    Raises:
        Exception: Whatever batching, recording or compiling raises; ``NotImplementedError`` for noise whose
            distribution depends on parameters in a way that has no base noise, a Gamma's for one.
    """

    def __init__(
        self,
        recording: Recording,
        visits: Visit,
        parameters: list[Tensor],
        data: tuple[Tensor, ...],
        others: list[Tensor],
        compiled: bool,
    ) -> None:
        self.used = recording.used
        members = len(visits[0])
        self.draws = noise_as_inputs(recording.graph)
        noise = [torch.empty(members, *draw.like.shape, dtype=draw.like.dtype) for draw in self.draws]
        self.noise = [list(each) for each in noise]
        fixed = [*parameters, *data, *others, *noise]
        dims = (*[0] * (len(visits) + len(parameters)), *[None] * len(data), *[0] * (len(others) + len(noise)))
        batched = torch.func.vmap(recording.graph.forward, in_dims=dims)

        def losses_and_gradients(*visits: Tensor) -> tuple[Tensor, ...]:
            """Contiguous, as the stacked parameters are: torch's fused optimizers do not look at strides."""
            return tuple(result.contiguous() for result in batched(*visits, *fixed))

        self.function = record_function(losses_and_gradients, visits, fixed, compiled, constants=data)

    def __call__(self, visits: Visit, generators: Iterable[Generator]) -> tuple[Tensor, list[Tensor | None]]:
        """Losses, ``(members,)``, and each parameter's gradients, ``None`` where the loss does not depend on it."""
        for member, generator in enumerate(generators):
            for draw, noise in zip(self.draws, self.noise, strict=True):
                draw.fill(noise[member], generator=generator)
        losses, *gradients = self.function(*visits)
        each = iter(gradients)
        return losses, [next(each) if used else None for used in self.used]


def noise_as_inputs(graph: GraphModule) -> list[Draw]:
    """Make the noise that a recorded step draws its last inputs; what to draw for them, in the step's order.

    Raises:
        NotImplementedError: If an operation draws what is no function of base noise.
    """
    nodes = list(graph.graph.nodes)
    noise = [node for node in nodes if node.op == "placeholder"][-1]
    random = [node for node in nodes if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())]
    draws: list[Draw] = []
    for node in random:
        with graph.graph.inserting_after(noise):  # after all other inputs
            noise = graph.graph.placeholder(f"noise_{len(draws)}")
        with graph.graph.inserting_before(node):
            draw, value = _base_noise(graph, node, noise)
        node.replace_all_uses_with(value)
        graph.graph.erase_node(node)
        draws.append(draw)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return draws


def _base_noise(graph: GraphModule, node: Node, noise: Node) -> tuple[Draw, Node]:
    """What to draw in place of a random operation, and its result as a function of that."""
    like = node.meta["val"]
    call: Callable[..., Node] = graph.graph.call_function
    if not like.is_contiguous():
        raise NotImplementedError(f"{node.target} draws in another order than that of its elements")
    if node.target in _IN_PLACE and len(node.all_input_nodes[0].users) == 1 and not node.kwargs:
        return Draw(like, partial(_fill, _IN_PLACE[node.target], node.args[1:])), noise
    if node.target in _MADE:
        return Draw(like, _MADE[node.target]), noise
    if node.target is aten.normal.Tensor_Tensor:
        mean, scale = node.args[:2]
        return Draw(like, Tensor.normal_), call(aten.add.Tensor, (call(aten.mul.Tensor, (noise, scale)), mean))
    if node.target is aten.bernoulli.default:  # torch, too, compares a uniform number with the probability
        below = call(aten.lt.Tensor, (noise, node.args[0]))
        return Draw(like, Tensor.uniform_), call(to_copy, (below,), {"dtype": like.dtype})
    raise NotImplementedError(f"noise of {node.target} depends on the parameters")


def _fill(method: Callable[..., Any], arguments: tuple[Any, ...], noise: Tensor, generator: Generator) -> None:
    method(noise, *arguments, generator=generator)


def _permute(noise: Tensor, generator: Generator) -> None:
    torch.randperm(len(noise), generator=generator, out=noise)


_IN_PLACE: dict[Any, Callable[..., Any]] = {
    aten.normal_.default: Tensor.normal_,
    aten.uniform_.default: Tensor.uniform_,
    aten.exponential_.default: Tensor.exponential_,
    aten.bernoulli_.float: Tensor.bernoulli_,
}
_MADE: dict[Any, Callable[..., Any]] = {
    aten.randn.default: Tensor.normal_,
    aten.randn_like.default: Tensor.normal_,
    aten.rand.default: Tensor.uniform_,
    aten.rand_like.default: Tensor.uniform_,
    aten.randperm.default: _permute,
}
