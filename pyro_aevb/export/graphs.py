"""ONNX graphs of the halves of a pair: made, cleaned of what tells of the machine, compared with what they are of."""

import importlib
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_aevb.errors import REFUSALS, InputError, in_one_line
from pyro_aevb.export.networks import Half, free_name

__all__ = ["BATCH_SIZES", "Graph", "check_installed", "largest_difference", "made_graph"]

BATCH_SIZES = (1, 7)
"""Numbers of data with which a graph is compared with what it is of."""

LARGEST_FILE = 2**31 - 2**20  # bytes that a graph with its weights may have in the one file of protocol buffers
NEEDED = ("onnx", "onnxscript")
LOUD = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")  # loggers of what an export is by the way

Array = np.ndarray[Any, Any]


class Graph(NamedTuple):
    """A graph as it is written to a file."""

    content: bytes
    """The file's bytes"""
    inputs: dict[str, dict[str, Any]]
    """Type and shape of each input, by name; the number of data is called ``batch``"""
    outputs: dict[str, dict[str, Any]]
    """Type and shape of each output, by name"""
    names: dict[str, str]
    """Name of each output in the graph, by the name that it was to have: others where two would be the same"""


def check_installed() -> None:
    """See that what an export needs is there.

    Raises:
        InputError: Names what is missing.
    """
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"ONNX graphs need {name}: pip install 'pyro_aevb[export]'") from error


def made_graph(half: Half, about: Mapping[str, str]) -> Graph:
    """The ONNX graph of an encoder or a decoder, for any number of data.

    Arguments:
        half: The encoder or decoder, on the CPU.
        about: What the file says of itself, by name.

    Raises:
        InputError: If it cannot be exported: names the part, and says why.
    """
    check_installed()
    size = sum(p.numel() * p.element_size() for p in half.parameters())
    if size > LARGEST_FILE:
        raise InputError(
            f"{half.what()} has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2: export the weights"
        )
    wanted = half.outputs()
    try:
        with _quietly(), torch.no_grad(), pyro.validation_enabled(False):
            program: Any = torch.onnx.export(_captured(half), input_names=half.inputs, dynamo=True, verbose=False)
    except (*REFUSALS, torch.onnx.OnnxExporterError) as error:
        reason = in_one_line(_first_of(error)).partition(" While executing ")[0]
        raise InputError(f"{half.what()} cannot be exported to ONNX ({reason}): export the weights alone") from error
    return _finished(program.model_proto, half.inputs, wanted, about)


def _captured(half: Half) -> Any:
    """The half as torch captures it, for any number of data."""
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in half.inputs)
    program = torch.export.export(half, tuple(half.example.values()), dynamic_shapes=(shapes,))
    for node in program.graph.nodes:
        # The exporter takes ends that are both whole numbers or both not: of clamp(-6.9, 10) it makes what it refuses.
        if node.target is torch.ops.aten.clamp.default and node.meta["val"].is_floating_point():
            node.args = tuple(float(each) if isinstance(each, int) else each for each in node.args)
    return program


def _first_of(error: BaseException) -> Exception:
    """What an error began with: the exporter wraps each in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else RuntimeError(str(error))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter and its libraries say of their own doing."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ---------------------------------------------------------------- what is written


def _finished(proto: Any, inputs: Sequence[str], wanted: Sequence[str], about: Mapping[str, str]) -> Graph:
    """A graph without traces of the machine that it was made on, its values renamed."""
    graph = proto.graph
    _strip(proto)
    _call_batch(graph)
    names = _renamed(graph, inputs, wanted)
    for name, value in sorted(about.items()):
        proto.metadata_props.add(key=name, value=value)
    content = proto.SerializeToString(deterministic=True)
    return Graph(
        content,
        {value.name: _described(value) for value in graph.input},
        {value.name: _described(value) for value in graph.output},
        dict(zip(wanted, names, strict=True)),
    )


def _strip(proto: Any) -> None:
    """Remove where in which file each node was made, which the exporter notes with the paths of this machine."""
    for part in (proto, *proto.functions):
        del part.metadata_props[:]
        part.doc_string = ""
    for graph in _graphs(proto.graph):
        for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            del part.metadata_props[:]
            part.doc_string = ""
    for node in itertools.chain.from_iterable(function.node for function in proto.functions):
        del node.metadata_props[:]
        node.doc_string = ""


def _call_batch(graph: Any) -> None:
    """Call the number of data ``batch``, which torch numbers instead."""
    own = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim[:1]}
    values = (value for each in _graphs(graph) for value in (*each.input, *each.output, *each.value_info))
    for dim in itertools.chain.from_iterable(value.type.tensor_type.shape.dim for value in values):
        if dim.dim_param in own and dim.dim_param:
            dim.dim_param = "batch"


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _renamed(graph: Any, inputs: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Give outputs the names that are wanted, in their order, and inner values ones that no output has.

    A table's column may be called anything: as a value of the graph, as another output, as an input. What would then be
    two of one name gets a ``_`` behind it.
    """
    inner = [value for each in _graphs(graph) for node in each.node for value in node.output if value]
    own = [each.name for each in graph.initializer]
    new = {name: f"/{i}" for i, name in enumerate(dict.fromkeys(inner))} | {name: f"/{name}" for name in own}
    taken = {*inputs, *new.values()}
    names = []
    for value, name in zip(graph.output, wanted, strict=True):
        names.append(free_name(name, taken))
        taken.add(names[-1])
        new[value.name] = names[-1]
    for each in _graphs(graph):
        _rename(each, new)
    return names


def _rename(graph: Any, new: Mapping[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new.get(name, name) for name in values]
    for value in (*graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)


def _described(value: Any) -> dict[str, Any]:
    """Type and shape of an input or output."""
    import onnx

    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return {"type": onnx.TensorProto.DataType.Name(kind.elem_type).lower(), "shape": shape}


# ---------------------------------------------------------------- compared


def largest_difference(graph: Graph, half: Half, inputs: Sequence[Tensor]) -> float | None:
    r"""How far onnxruntime's numbers are from torch's, at most: :math:`\max |a - b| / \max(1, |b|)`.

    Arguments:
        graph: The graph.
        half: What it is of, on the CPU.
        inputs: Data to compare at, so many that the largest of :data:`BATCH_SIZES` can be taken of them.

    Returns:
        The difference; ``None`` where onnxruntime is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]  # it has no annotations
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(graph.content, providers=["CPUExecutionProvider"])
    return max(_difference(session, half, [each[:count] for each in inputs]) for count in BATCH_SIZES)


def _difference(session: Any, half: Half, inputs: Sequence[Tensor]) -> float:
    given = {name: value.numpy() for name, value in zip(half.inputs, inputs, strict=True)}
    with torch.no_grad(), pyro.validation_enabled(False):
        expected = [value.numpy() for value in half(*inputs)]
    return max(_relative(found, own) for found, own in zip(session.run(None, given), expected, strict=True))


def _relative(found: Array, own: Array) -> float:
    """The largest difference of two arrays, of large numbers relative to them; infinite where shapes differ, or NaN."""
    if found.shape != own.shape:
        return math.inf
    other = (found != own) & ~(np.isnan(found) & np.isnan(own))
    with np.errstate(invalid="ignore"):  # NaN or infinity on one side alone, which differs by as much as there is
        apart = np.abs(found.astype(np.float64) - own) / np.maximum(1, np.abs(own))
    return float(np.nan_to_num(apart[other], nan=math.inf).max(initial=0.0))
