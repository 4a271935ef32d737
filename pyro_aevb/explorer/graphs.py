"""A pair's own functions as recorded graphs of tensor operations, which a page runs without Python.

A density is written once, in its distribution: a page restates none. What the pair computes for one datum is recorded,
and ``page/numerics.js`` runs the recording, operation by operation, in float64.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.fx import GraphModule, Node

from pyro_aevb.engines.recording import traced
from pyro_aevb.errors import InputError
from pyro_aevb.explorer.packed import lossless, packed
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["INPUTS", "Live", "NotLiveError", "known_operations", "live", "plain", "rounded"]

MOST_NODES = 20_000
"""Operations of a graph that a page still runs at the speed of a hand."""

MOST_PRODUCTS = 20_000_000
"""Multiplications of a graph that a page still runs at the speed of a hand, some 20 milliseconds."""

NEEDED = ("decode", "posterior", "prior")
"""Graphs without which a page shows what was computed before."""

EXACT = (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)
"""Types whose numbers a page, where all are float64, holds and rounds as torch does."""

ATEN = torch.ops.aten


class NotLiveError(Exception):
    """A pair that no page can run: the reason, in words."""


class Live(NamedTuple):
    """A pair that a page runs.

    Arguments:
        pair: Graphs and tensors, in plain values.
        graphs: The recordings that they were made of, by name.
        model: Copy of the model in float64 with the page's rounded weights.
        guide: Copy of the guide, likewise.
        without: Why the graphs that are not there are not, by name.
    """

    pair: dict[str, Any]
    graphs: dict[str, GraphModule]
    model: GenerativeModel
    guide: RecognitionModel
    without: dict[str, str]


def known_operations() -> set[str]:
    """Operations that a page knows, read from its source, where each has a line of its own."""
    text = resources.files("pyro_aevb.explorer").joinpath("page/numerics.js").read_text()
    return set(re.findall(r'^  "([\w.]+)":', text, re.MULTILINE))


def rounded(
    model: GenerativeModel, guide: RecognitionModel, dtype: str
) -> tuple[GenerativeModel, RecognitionModel, dict[int, str]]:
    """Copies of a pair in float64 on the CPU, its weights rounded as the page's are.

    Arguments:
        model: The model.
        guide: Its guide.
        dtype: Type that weights are rounded to, ``float16`` or ``float32``; a weight beyond float16 is kept in float32.

    Returns:
        Model and guide, in evaluation mode, and the type of each weight by its identity.
    """
    both = copy.deepcopy((model, guide))  # together, since a prior may be made of the guide
    types: dict[int, str] = {}
    with torch.no_grad():
        for part in both:
            part.cpu().double().eval().requires_grad_(False)
            for weight in part.parameters():
                fits = weight.to(getattr(torch, dtype)).isfinite().all() or dtype != "float16"
                types[id(weight)] = dtype if fits else "float32"
                weight.copy_(weight.to(getattr(torch, types[id(weight)])).double())
    return *both, types


def live(model: GenerativeModel, guide: RecognitionModel, x: Tensor, dtype: str = "float16") -> Live:
    """Record what a page needs of a pair.

    Arguments:
        model: The model.
        guide: Its guide.
        x: An example datum as the model sees it, ``(1, D)``.
        dtype: Type that weights are rounded to.

    Raises:
        NotLiveError: If the pair takes more than its datum, if what is needed cannot be recorded, or uses an operation
            that the page does not know.
    """
    _check(model)
    own_model, own_guide, types = rounded(model, guide, dtype)
    datum = x.detach().cpu().double().reshape(1, -1)
    graphs, without = _recorded(_functions(own_model, own_guide), datum, own_model.prior.latent_dim)
    for name in NEEDED:
        if name in without:
            raise NotLiveError(without[name])
    return Live(plain(graphs, types), graphs, own_model, own_guide, without)


def plain(graphs: Mapping[str, GraphModule], types: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Recordings as plain values that a page holds: ``graphs`` by name, and ``tensors``, each once.

    Arguments:
        graphs: The recordings.
        types: Type of a tensor's numbers in the page by its identity; of all others the smallest that holds them.
    """
    store = _Store(types or {})
    return {"graphs": {name: _plain(graph, store) for name, graph in graphs.items()}, "tensors": store.tensors}


def _check(model: GenerativeModel) -> None:
    beside = [name for name in ("condition", "exposure") if getattr(model, name)]
    if beside:
        raise NotLiveError(f"the model takes each datum's {beside[0]}, which this page has no place for")


def _functions(model: GenerativeModel, guide: RecognitionModel) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """What a page asks of a pair, for one datum: functions of x ``(1, D)``, of z ``(1, K)``, or of both."""

    def posterior_of(x: Tensor) -> Any:
        """The distribution q(z|x)."""
        return guide.guide(guide.seen(x))

    def scores(x: Tensor, z: Tensor, q: Any) -> tuple[Tensor, ...]:
        """log p(x|z), log p(z) and log q(z|x), ``(1,)`` each."""
        return model.likelihood_at(z).log_prob(x), model.prior_at(None, x).log_prob(z).expand(1), q.log_prob(z)

    def encode(x: Tensor) -> tuple[Tensor, ...]:
        """Mean and standard deviation of q(z|x)."""
        q = posterior_of(x)
        return q.mean, q.stddev

    def posterior(x: Tensor) -> tuple[Tensor, ...]:
        """A draw z of q(z|x), and the log densities of x and z there."""
        q = posterior_of(x)
        z = q()
        return z, *scores(x, z, q)

    def score(x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """The log densities of a given z."""
        return scores(x, z, posterior_of(x))

    def kl(x: Tensor) -> tuple[Tensor, ...]:
        """KL(q(z|x) || p(z)), where there is a formula."""
        return _kl(posterior_of(x), model.prior_at(None, x))

    return {
        "encode": encode,
        "decode": lambda z: (model.likelihood_at(z).mean,),
        "posterior": posterior,
        "score": score,
        "prior": lambda x: (model.prior_at(None, x)().expand(1, -1),),
        "kl": kl,
        "observe": lambda z: (model.likelihood_at(z)(),),
    }


def _kl(q: Any, p: Any) -> tuple[Tensor, ...]:
    """KL(q(z|x) || p(z)) in nats, ``(1,)``, and where both factorise that of each dimension, ``(1, K)``."""
    total = kl_divergence(q, p).expand(1)
    both = isinstance(q, Independent) and isinstance(p, Independent)
    return (total, kl_divergence(q.base_dist, p.base_dist).expand(1, -1)) if both else (total,)


INPUTS = {"encode": "x", "decode": "z", "posterior": "x", "score": "xz", "prior": "x", "kl": "x", "observe": "z"}
"""What each function is given."""


def _recorded(
    functions: Mapping[str, Callable[..., tuple[Tensor, ...]]], x: Tensor, latent_dim: int
) -> tuple[dict[str, GraphModule], dict[str, str]]:
    """The recordings by name, and why others could not be made."""
    example = {"x": x, "z": torch.zeros(1, latent_dim, dtype=torch.float64)}
    known = known_operations()
    graphs: dict[str, GraphModule] = {}
    without: dict[str, str] = {}
    for name, function in functions.items():
        given = tuple(example[letter] for letter in INPUTS[name])
        try:
            with unchanged_random_state(torch.device("cpu")), pyro.validation_enabled(False), torch.no_grad():
                graphs[name] = traced(function, given)
            _check_operations(graphs[name], known)
        except NotLiveError as error:
            without[name] = str(error)
        except Exception as error:  # whatever distributions and the tracer raise for what they have not, or cannot
            words = str(error).split("\n")[0] or type(error).__name__
            without[name] = f"it could not be recorded: {words}"
    return {name: graph for name, graph in graphs.items() if name not in without}, without


def _check_operations(graph: GraphModule, known: set[str]) -> None:
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    for node in nodes:
        if _name_of(node) not in known:
            raise NotLiveError(f"it uses the operation {_name_of(node)}, which this page does not know")
        _check_types(node)
    if len(nodes) > MOST_NODES or _products(nodes) > MOST_PRODUCTS:
        raise NotLiveError(
            f"it takes {len(nodes):,} operations and {_products(nodes):,} products, too many to follow a hand"
        )


def _check_types(node: Node) -> None:
    """Refuse what the page, where all numbers are float64, would compute otherwise."""
    made = node.meta["val"]
    for each in made if isinstance(made, list | tuple) else [made]:
        if each.dtype not in EXACT:
            raise NotLiveError(f"it computes in {str(each.dtype).removeprefix('torch.')}, which this page does not")
        if node.target is ATEN.bitwise_not.default and each.dtype != torch.bool:
            raise NotLiveError("it inverts the bits of whole numbers, which this page does not")


def _products(nodes: list[Node]) -> int:
    """About how many multiplications the products and convolutions of a graph take."""
    return sum(_products_of(node) for node in nodes)


def _products_of(node: Node) -> int:
    shapes = [getattr(value.meta["val"], "shape", ()) if isinstance(value, Node) else () for value in node.args]
    made = node.meta["val"]
    if node.target in (ATEN.mm.default, ATEN.bmm.default):
        return int(made.numel() * list(shapes[0])[-1])
    if node.target is ATEN.addmm.default:
        return int(made.numel() * list(shapes[1])[-1])
    if node.target is ATEN.convolution.default:
        moved = shapes[0] if node.args[6] else made.shape  # a transposed one goes over its input
        return math.prod(moved[2:]) * math.prod(shapes[1])
    return 0


def _name_of(node: Node) -> str:
    return "getitem" if not isinstance(node.target, torch._ops.OpOverload) else str(node.target).removeprefix("aten.")


class _Store:
    """Tensors of all graphs, each once."""

    def __init__(self, types: Mapping[int, str]) -> None:
        self.tensors: dict[str, dict[str, Any]] = {}
        self._types = types
        self._names: dict[Any, str] = {}
        self._held: list[Tensor] = []  # so that no identity is used again

    def name_of(self, tensor: Tensor) -> str:
        """The name that a tensor has in the page."""
        key: Any = id(tensor)
        if key not in self._types:
            numbers = tensor.detach()
            key = (tuple(numbers.shape), numbers.contiguous().view(-1).numpy().tobytes())
        if key not in self._names:
            self._held.append(tensor)
            self._names[key] = f"t{len(self._names)}"
            dtype = self._types.get(id(tensor)) or lossless(tensor)
            self.tensors[self._names[key]] = packed(tensor, dtype)
        return self._names[key]


def _plain(graph: GraphModule, store: _Store) -> dict[str, Any]:
    """A recording in plain values: inputs, a list of operations with their arguments, and which are its results."""
    places: dict[Node, int] = {}
    nodes: list[list[Any]] = []
    outputs: list[Any] = []
    for node in graph.graph.nodes:
        if node.op == "output":
            outputs = [places[result] for result in node.args[0]]
            continue
        places[node] = len(nodes)
        if node.op == "placeholder":
            nodes.append(["input", len(places) - 1])
        elif node.op == "get_attr":
            nodes.append(["tensor", store.name_of(getattr(graph, str(node.target)))])
        else:
            nodes.append([_name_of(node), *(_argument(value, places) for value in _arguments(node))])
    return {"nodes": nodes, "outputs": outputs}


def _arguments(node: Node) -> Iterator[Any]:
    """A node's arguments in the order of the operation's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        yield from node.args
        return
    for i, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        yield node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, default)


def _argument(value: Any, places: Mapping[Node, int]) -> Any:
    """An argument in plain values: ``{"node": i}`` is what operation i made, ``{"number": "inf"}`` infinite."""
    if isinstance(value, Node):
        return {"node": places[value]}
    if isinstance(value, list | tuple):
        return [_argument(each, places) for each in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float) and value - value != 0:
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None  # which say nothing about numbers
    raise InputError(f"a recorded operation has an argument that no page can hold: {value!r}")
