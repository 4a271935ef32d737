"""Loss and gradients of a Pyro pair as a graph of tensor operations: recorded once, then replayed without Pyro.

``make_fx`` runs the Pyro handlers once and records only tensor operations; inductor compiles them, and on a GPU a CUDA
graph replays what it made. The minibatch's rows, the data, parameters, buffers and the estimator's own tensors are
inputs of the graph, so what changes in them takes effect.

This file holds all of the package's use of torch's compiler.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.cuda_graphs import GraphReplay, unchanged
from pyro_aevb.engines.places import LARGEST
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.traces import Unvalidated, without_looking

__all__ = ["Codes", "Recording", "TensorFunction", "record", "record_function", "traced"]

logger = logging.getLogger(__name__)

TensorFunction = Callable[..., tuple[Tensor, ...]]

# oneDNN takes 13 us for a product however tiny, MKL 2 to 6; written as a sum and fused with its neighbours by
# inductor it costs less than either. 784-100-3, M=100, whose products are all below or far above this: 0.49 to 0.40 ms.
TINY_PRODUCT = 150_000


MOST_KEPT = 8  # compiled graphs


class Codes:
    """Compiled code by the graph that it was made of: a graph that is recorded once more need not be compiled again."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, list[Tensor], Any]] = []

    def of(self, graph: GraphModule, inputs: list[Tensor], moving: int, compiled: bool = True) -> tuple[Any, bool]:
        """What ``_compile`` makes of a graph, and whether it was known.

        Arguments:
            graph: The graph.
            inputs: Its inputs.
            moving: How many of them, the first, are others at each call.
            compiled: Compile it, rather than replay it operation by operation.
        """
        places = [(t.shape, t.stride(), t.dtype, t.device, i < moving or t.data_ptr()) for i, t in enumerate(inputs)]
        key = (str(graph.graph), places)
        constants = [constant.detach().clone() for constant in _constants(graph)]
        for known, before, code in self._known:
            if known == key and all(map(_same_tensor, before, constants)):
                return code, True
        if compiled:
            logger.info("compiling the step, once for each size of batch: some seconds, the first time up to a minute")
        # Its forward, not itself: hooks of modules are for those of the pair.
        code = _compile(graph, inputs, moving) if compiled else (graph.forward, graph.forward)
        self._known = [*self._known[1 - MOST_KEPT :], (key, constants, code)]
        return code, False


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


class Recording:
    """A recorded loss and its gradients.

    Arguments:
        graph: The recording, called with the visit, the parameters and the other tensors; returns the loss and the
            gradients of those parameters that the loss depends on.
        inputs: Parameters and other tensors, in that order.
        used: For each parameter, whether the loss depends on it.
    """

    def __init__(self, graph: GraphModule, inputs: list[Tensor], used: list[bool]) -> None:
        self.graph = graph
        self.function: TensorFunction = graph.forward
        self.inlined: TensorFunction | None = graph.forward
        self.inputs = [tensor.detach() for tensor in inputs]
        self.used = used
        self.unregistered: list[Tensor] = []
        """The inputs that a pair keeps in plain attributes."""
        self.is_known = False
        """Whether the same graph had been recorded before."""

    def compile(self, visit: Visit, codes: Codes, compiled: bool) -> None:
        """Replay from here on with inductor's code, on a GPU as one CUDA graph.

        Arguments:
            visit: An example.
            codes: Code of graphs before.
            compiled: Compile it, rather than replay it operation by operation.
        """
        made, self.is_known = codes.of(self.graph, [*visit, *self.inputs], len(visit), compiled)
        self.function, self.inlined = made

    def __call__(self, visit: Visit) -> tuple[Tensor, list[Tensor | None]]:
        """The loss and each parameter's gradient, ``None`` where the loss does not depend on it."""
        return self._run(self.function, visit)

    def inside(self, visit: Visit) -> tuple[Tensor, list[Tensor | None]]:
        """The recording for use inside a larger CUDA graph, where there is ``inlined``."""
        return self._run(self.inlined or self.graph.forward, visit)

    def _run(self, function: TensorFunction, visit: Visit) -> tuple[Tensor, list[Tensor | None]]:
        with torch.no_grad():
            loss, *gradients = function(*visit, *self.inputs)
        each = iter(gradients)
        return loss, [next(each) if used else None for used in self.used]


def record(
    loss: Callable[..., Tensor],
    visit: Visit,
    parameters: list[Tensor],
    constants: tuple[Tensor, ...],
    others: list[Tensor],
    compiled: bool = True,
    unregistered: Mapping[int, Tensor] | None = None,
    codes: Codes | None = None,
) -> Recording:
    """Record a loss and its gradients for one size of minibatch.

    Arguments:
        loss: Called with the visit; uses ``parameters``, ``constants`` and ``others`` as they are in memory.
        visit: An example.
        parameters: Parameters to differentiate the loss by.
        constants: Further tensors that it reads, and does not change: the data.
        others: Further tensors that may change between calls.
        compiled: Compile with inductor, and into a CUDA graph, rather than replay operation by operation.
        unregistered: Tensors that the pair keeps in plain attributes, by identity; those that the loss reads become
            inputs, since a compiler takes a constant's numbers into its code.
        codes: Code of graphs before, of which one may be this; by default none is known.

    Raises:
        Exception: Whatever tracing or compiling raises, such as control flow that depends on data.
    """
    used: list[bool] = []

    def loss_and_gradients(*_: Tensor) -> tuple[Tensor, ...]:
        """What is recorded: its inputs are the tensors that ``loss`` finds in its closure."""
        with torch.enable_grad():
            value = loss(*visit)
            moving = [p for p in parameters if p.requires_grad]
            found = iter(torch.autograd.grad(value, moving, allow_unused=True))
        gradients = [next(found) if p.requires_grad else None for p in parameters]
        used[:] = [gradient is not None for gradient in gradients]
        return (value.detach(), *(gradient for gradient in gradients if gradient is not None))

    inputs = [*parameters, *constants, *others]
    with unchanged_random_state(parameters[0].device), unchanged(others):
        fuse_tiny = compiled and parameters[0].device.type == "cpu"
        graph = _trace(loss_and_gradients, (*visit, *inputs), fuse_tiny)
        masks = {
            id(inputs[i - len(visit)]) for i in _masks(graph) if i >= len(visit)
        }  # whose places a result's length depends on
        read = [constant for constant in _constants(graph) if id(constant) in (unregistered or {})]
        read = [constant for constant in read if constant.dtype != torch.bool]
        if read or masks:
            inputs = [tensor for tensor in (*inputs, *read) if id(tensor) not in masks]
            graph = _trace(loss_and_gradients, (*visit, *inputs), fuse_tiny)
        _refuse_shapes_that_depend_on_data(graph)
        recording = Recording(graph, inputs, used)
        recording.unregistered = read
        recording.compile(visit, codes or Codes(), compiled)
        recording(visit)  # the first call compiles what is compiled lazily
    return recording


def record_function(
    function: TensorFunction,
    arguments: tuple[Tensor, ...],
    fixed: list[Tensor],
    compiled: bool = True,
    codes: Codes | None = None,
    constants: tuple[Tensor, ...] = (),
) -> TensorFunction:
    """Record any function of tensors for one size of its arguments.

    Its products stay products: a sum over many terms with few results, a gradient by few latents, costs more than a
    product (784-100-3, M=100, ten leapfrog steps: 4.5 against 3.9 ms).

    Arguments:
        function: Function to record; on a GPU all results but the first hold until the next call.
        arguments: An example of its arguments.
        fixed: All else that it reads or changes, parameters among them; read where they are at each call.
        compiled: As for :func:`record`.
        codes: As for :func:`record`.
        constants: Those of ``fixed`` that it does not change, the data, which may be too large to be copied, or lie
            where nobody may write; by default none.

    Raises:
        Exception: As there.
    """
    data = {id(tensor) for tensor in constants}
    held = [tensor.detach() for tensor in fixed]
    changing = [tensor for tensor in fixed if id(tensor) not in data]
    with torch.no_grad(), unchanged_random_state(fixed[0].device), unchanged(changing):
        graph = _trace(lambda *_: function(*arguments), (*arguments, *fixed), fuse_tiny=False)
        _refuse_shapes_that_depend_on_data(graph)
        inputs = [*arguments, *held]
        (replay, _), _ = (codes or Codes()).of(graph, inputs, len(arguments), compiled)
        replay(*arguments, *held)  # the first call compiles what is compiled lazily

    def recorded(*now: Tensor) -> tuple[Tensor, ...]:
        """The function, replayed."""
        with torch.no_grad():
            return tuple(replay(*now, *held))

    return recorded


def traced(function: TensorFunction, arguments: tuple[Tensor, ...]) -> GraphModule:
    """A function as a graph of few kinds of operations, none of which changes a tensor, for others to run than torch.

    Tensors that it finds elsewhere are the graph's own attributes; noise is drawn by operations of the graph.

    Arguments:
        function: Function to record.
        arguments: An example of its arguments.

    Raises:
        Exception: Whatever tracing raises, such as control flow that depends on data.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.export import default_decompositions
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    with without_looking(), Unvalidated(), _OneHot(), tracing(TracingContext(FakeTensorMode())):
        simpler = cast(dict[Any, Callable[..., Any]], default_decompositions())
        graph = make_fx(function, decomposition_table=simpler)(*arguments)
        _refuse_shapes_that_depend_on_data(graph)
        return make_fx(functionalize(graph, remove="mutations_and_views"))(*arguments)


def _trace(function: TensorFunction, inputs: tuple[Tensor, ...], fuse_tiny: bool) -> GraphModule:
    """Tensors are known to the tracer by identity, so those that ``function`` finds in its closure are its inputs."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    aten = torch.ops.aten
    products: dict[Any, Callable[..., Any]] = {aten.mm.default: _tiny_mm, aten.addmm.default: _tiny_addmm}
    # One mode of fake tensors for the whole recording: make_fx makes a new one, with a Python traceback, at each node
    # else, which is two thirds of its time for an autoregressive flow.
    with without_looking(), Unvalidated(), _OneHot(), tracing(TracingContext(FakeTensorMode())):
        graph = make_fx(function, decomposition_table=products if fuse_tiny else None)(*inputs)
    _look_constant_masks_up(graph)
    return graph


class _OneHot(TorchFunctionMode):
    """``one_hot`` as a comparison: torch's own reads the largest index, though it was told how many there are."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.one_hot:
            index = args[0]
            count = (*args[1:], *(kwargs or {}).values(), -1)[0]
            if count > 0:
                return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).long()
        return function(*args, **(kwargs or {}))


def _masks(graph: GraphModule) -> list[int]:
    """Which inputs of a recording are masks that others are indexed by, few enough to be compared at each report."""
    nodes = graph.graph.nodes
    places = {node: i for i, node in enumerate(node for node in nodes if node.op == "placeholder")}
    indices = (index for node in nodes if node.target is torch.ops.aten.index.Tensor for index in node.args[1])
    masks = {i for i in indices if i in places and i.meta["val"].dtype == torch.bool}
    return sorted(places[mask] for mask in masks if mask.meta["val"].numel() <= LARGEST)


def _look_constant_masks_up(graph: GraphModule) -> None:
    """``x[mask]`` as ``x[places]`` where the mask is a constant, so that the result's length is one."""
    for node in list(graph.graph.nodes):
        if node.target is not torch.ops.aten.index.Tensor:
            continue
        masks = [index for index in node.args[1] if index is not None and index.meta["val"].dtype == torch.bool]
        if not masks or any(mask.op != "get_attr" for mask in masks):
            continue
        for mask in masks:
            _replace_mask(graph, node, mask)
    graph.recompile()


def _replace_mask(graph: GraphModule, node: Node, mask: Node) -> None:
    places = getattr(graph, str(mask.target)).nonzero(as_tuple=True)
    indices: list[Any] = []
    for index in cast(Any, node.args[1]):
        if index is not mask:
            indices.append(index)
            continue
        for place in places:
            name = f"_places{len(list(graph.graph.nodes))}"
            graph.register_buffer(name, place)
            with graph.graph.inserting_before(node):
                indices.append(graph.graph.get_attr(name))
            indices[-1].meta["val"] = place
    node.args = (node.args[0], indices)


def _constants(graph: GraphModule) -> list[Tensor]:
    """Tensors that a recording reads though they are none of its inputs."""
    names = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "get_attr")
    return [getattr(graph, name) for name in names]


def _refuse_shapes_that_depend_on_data(graph: GraphModule) -> None:
    """``x[x > 0]`` has another length each time; the recording would have this time's, in a spline flow for one."""
    for node in graph.graph.nodes:
        if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        masked = any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in node.all_input_nodes[1:])
        if masked or node.target is not torch.ops.aten.index.Tensor:
            raise NotImplementedError(f"the shape of {node.target}'s result depends on the data")


def _tiny_mm(a: Tensor, b: Tensor) -> Any:
    """A tiny float32 product as a sum; all others stay products."""
    if a.dtype != torch.float32 or a.shape[0] * b.numel() > TINY_PRODUCT:
        return NotImplemented
    return (a.unsqueeze(2) * b).sum(1)


def _tiny_addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = _tiny_mm(a, b) if beta == alpha == 1 else NotImplemented
    return product if product is NotImplemented else bias + product


def _compile(graph: GraphModule, inputs: list[Tensor], moving: int) -> tuple[TensorFunction, TensorFunction | None]:
    """By inductor; and on a GPU as one CUDA graph, where the first ``moving`` inputs are copied each time.

    Returns:
        What to call, and what may be part of a larger CUDA graph, if anything.
    """
    device = inputs[moving].device
    if device.type == "cpu":
        return _compile_with_inductor(graph, inputs), None
    if device.type != "cuda":
        raise NotImplementedError(f"no graphs on {device.type}")
    made = _compiled_alike(graph, inputs, device)
    try:
        with torch.no_grad():
            return GraphReplay(made, inputs, moving), made
    except Exception as error:  # such as a copy from the CPU's memory, which a graph cannot hold
        logger.info("the step runs without a CUDA graph: %s", error)
        return made, None


def _compiled_alike(graph: GraphModule, inputs: list[Tensor], device: torch.device) -> TensorFunction:
    """Inductor's code if there is a compiler and its first result is the recording's, else the recording.

    Inductor may lay a tensor out otherwise, and a GPU's random bits follow the layout: a wake-sleep step that draws
    dreamt pixels drew others. Of a Markov chain's transition one element in ten may differ, where an acceptance turns.
    """

    def first(function: TensorFunction) -> Tensor:
        with torch.no_grad(), unchanged_random_state(device), unchanged(inputs):
            return function(*inputs)[0].clone()

    try:
        compiled = _compile_with_inductor(graph, inputs, deterministic=True)
        alike = torch.isclose(first(compiled), first(graph.forward), rtol=1e-4, atol=1e-6, equal_nan=True)
    except Exception as error:  # whatever the compiler raises: the recording gives the same numbers
        logger.info("inductor cannot compile the step, which is replayed operation by operation: %s", error)
        return graph.forward
    if alike.double().mean() < 0.9:
        logger.info("inductor's code draws other noise, so the step is replayed operation by operation")
        return graph.forward
    return compiled


def _compile_with_inductor(graph: GraphModule, inputs: list[Tensor], deterministic: bool = False) -> TensorFunction:
    import torch._inductor
    import torch._inductor.config

    # fallback_random: the noise of torch's own generator, as in the eager step, not inductor's. deterministic: on a GPU
    # inductor else chooses by a stopwatch how sums are taken, and a resumed run would round otherwise than a whole one.
    config = torch._inductor.config
    options = {"fallback_random": True}
    if deterministic and hasattr(config, "deterministic"):
        options["deterministic"] = True
    with config.patch(options), torch.no_grad():
        return torch._inductor.compile(graph, list(inputs))
