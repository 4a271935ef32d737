"""A run as a folder of files that other programs read."""

import copy
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.data import Rows
from pyro_aevb.data.schema import Beside
from pyro_aevb.errors import InputError, instance, told, whole
from pyro_aevb.errors import path as path_of
from pyro_aevb.export.card import described, measured, model_card
from pyro_aevb.export.graphs import BATCH_SIZES, Graph, largest_difference, made_graph
from pyro_aevb.export.networks import Decoder, Encoder, Half
from pyro_aevb.export.preprocessing import of_category, preprocessing
from pyro_aevb.export.weights import packed_weights
from pyro_aevb.files import refuse_existing, replaced
from pyro_aevb.runs.run import Run
from pyro_aevb.seeds import generator

__all__ = ["FILES", "WHAT", "Exported", "export_run"]

WHAT = ("encoder", "decoder", "weights", "card")
"""What can be exported."""

FILES = {
    "encoder": "encoder.onnx",
    "decoder": "decoder.onnx",
    "weights": "model.safetensors",
    "preprocessing": "preprocessing.json",
    "card": "MODEL_CARD.md",
}
"""The file of each."""

TOLERANCE = 1e-4
"""Largest difference from torch's numbers with which a graph is written, relative to numbers above 1."""


class Exported(NamedTuple):
    """What was written, and how it compares with the run."""

    files: list[Path]
    """The files"""
    differences: dict[str, float]
    r"""Largest difference of onnxruntime's outputs from torch's, by graph, :math:`|a - b| / \max(1, |b|)`; empty where
    onnxruntime is not installed, or no graph was asked for"""
    numbers: dict[str, Any]
    """What the card says of test data, means in nats per datum; empty without a card"""


def export_run(
    run: Run,
    folder: str | os.PathLike[str],
    what: Sequence[str] = WHAT,
    *,
    count: int = 1000,
    num_samples: int = 200,
    seed: int = 0,
) -> Exported:
    """Write a run's encoder and decoder as ONNX, its weights as safetensors, and a model card.

    ``encoder.onnx`` and ``decoder.onnx`` take any number of data; with them comes ``preprocessing.json``, which says
    how raw data become their inputs. Where onnxruntime is installed, each graph is compared with the run's own modules
    at 1 and at 7 data before anything is written. The files say nothing of the machine, and equal runs lead to equal
    bytes with the same versions of torch and of what exports.

    Arguments:
        run: The run.
        folder: Where the files go; it is made where it is missing, and may have none of them yet.
        what: What to write: some of ``encoder``, ``decoder``, ``weights``, ``card``.
        count: Number of test data, the first ones, that the card's numbers are measured on.
        num_samples: Number of importance samples for each of them; 0 leaves log p(x) out.
        seed: Seed of their draws.

    Returns:
        The files, and the largest difference of each graph.

    Raises:
        InputError: If a file is there already; if what exports is not installed; if a part cannot be exported, or its
            graph gives other numbers than the run.
    """
    instance("run", run, Run, "give what load_run returns")
    place = path_of("folder", folder)
    chosen = _chosen(what)
    whole("count", count, least=2)
    whole("num_samples", num_samples, least=0)
    names = [FILES[each] for each in _all_of(chosen)]
    for name in names:
        refuse_existing(place / name, "remove it, or give another folder")
    about = described(run)
    halves = _halves(run, chosen)
    graphs = {name: made_graph(half, _of_graph(about, name)) for name, half in halves.items()}
    differences = _checked(run, halves, graphs)
    numbers = measured(run, count, num_samples, seed) if "card" in chosen else {}
    contents: dict[str, Callable[[], bytes]] = {
        **{name: partial(bytes, graph.content) for name, graph in graphs.items()},
        "weights": lambda: packed_weights(run.model, run.guide, about),
        "preprocessing": lambda: _json({**preprocessing(run.data), "graphs": _interfaces(halves, graphs)}),
        "card": lambda: model_card(run, about, numbers, graphs, names).encode(),
    }
    written = {FILES[each]: contents[each]() for each in _all_of(chosen)}  # all of them before the first is written
    place.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        with replaced(place / name) as file:
            file.write(content)
    return Exported([place / name for name in written], differences, numbers)


def _chosen(what: Sequence[str]) -> list[str]:
    """What is wanted, in the order of :data:`WHAT`."""
    if isinstance(what, str) or not isinstance(what, Sequence) or not what:
        raise InputError(f"what must be a list of {', '.join(WHAT)}, not {told(what)}")
    if unknown := [each for each in what if each not in WHAT]:
        raise InputError(f"what has {told(unknown[0])}: give some of {', '.join(WHAT)}")
    return [each for each in WHAT if each in what]


def _all_of(chosen: Sequence[str]) -> list[str]:
    """What is written, with what belongs to it: nobody can use a graph without knowing what it takes."""
    with_graphs = "encoder" in chosen or "decoder" in chosen
    return [each for each in FILES if each in chosen or (each == "preprocessing" and with_graphs)]


def _halves(run: Run, chosen: Sequence[str]) -> dict[str, Half]:
    """Encoder and decoder on the CPU in single precision, copies where the run's own are elsewhere."""
    category = of_category(run.data.schema)
    columns = [column.name for column in run.data.schema.columns]
    made: dict[str, Callable[[], Half]] = {
        "encoder": lambda: Encoder(_on_cpu(run.guide), run.model.likelihood.data_dim, category),
        "decoder": lambda: Decoder(_on_cpu(run.model), columns, category),
    }
    return {name: make() for name, make in made.items() if name in chosen}


def _on_cpu(part: Any) -> Any:
    return copy.deepcopy(part).to("cpu", torch.float32).eval()


def _of_graph(about: dict[str, Any], name: str) -> dict[str, str]:
    """What a graph says of itself, in texts."""
    kept = {key: about[key] for key in ("run", "checkpoint", "samples_seen", "data", "binarize", "exported_with")}
    return {"pyro_aevb": json.dumps({**kept, "half": name}, sort_keys=True)}


def _interfaces(halves: dict[str, Half], graphs: dict[str, Graph]) -> dict[str, Any]:
    """Inputs and outputs of the graphs, and which outputs are those of which of a table's columns."""
    found: dict[str, Any] = {name: {"inputs": graph.inputs, "outputs": graph.outputs} for name, graph in graphs.items()}
    decoder = halves.get("decoder")
    if isinstance(decoder, Decoder) and (columns := decoder.outputs_of_columns()):
        names = graphs["decoder"].names
        found["decoder"]["columns"] = {column: [names[each] for each in told] for column, told in columns.items()}
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


# ---------------------------------------------------------------- compared with the run


def _checked(run: Run, halves: dict[str, Half], graphs: dict[str, Graph]) -> dict[str, float]:
    """The largest difference of each graph from the run's own module; empty where there is no onnxruntime.

    Raises:
        InputError: If a graph gives other numbers.
    """
    inputs = _inputs(run)
    found: dict[str, float] = {}
    for name, half in halves.items():
        given = [inputs[each] for each in half.inputs]
        difference = largest_difference(graphs[name], half, given)
        if difference is not None and not difference <= TOLERANCE:
            raise InputError(
                f"the {name} in ONNX gives other numbers than the run, by {difference:.1g}: nothing is written; export "
                "the weights alone"
            )
        found |= {} if difference is None else {name: difference}
    return found


def _inputs(run: Run) -> dict[str, Tensor]:
    """Data to compare at: test data and draws of standard normal latents; without data numbers in [0, 1]."""
    size = max(BATCH_SIZES)
    noise = torch.randn(size, run.config.latent_dim, generator=generator(0, "evaluation"))
    there = torch.arange(min(size, len(run.data.test)))
    rows = run.data.rows("test").at(there) if len(there) else _made_up(run, size)
    tensors = {"x": rows.x, **rows.beside.tensors()}
    again = torch.arange(size) % len(rows.x)  # the same ones once more where there are few
    return {**{name: value.cpu()[again] for name, value in tensors.items()}, "z": noise, "noise": noise.flip(0)}


def _made_up(run: Run, size: int) -> Rows:
    """Numbers in [0, 1] in the place of data, with what the model is given besides."""
    uniform = torch.rand(size, run.model.likelihood.data_dim, generator=generator(0, "evaluation"))
    numbers = torch.rand(size, run.model.condition, generator=generator(1, "evaluation"))
    category = torch.arange(size) % max(run.model.condition, 1)
    condition = category if of_category(run.data.schema) else numbers
    exposure = uniform[:, 0] + 1
    beside = Beside(
        condition=condition if run.model.condition else None, exposure=exposure if run.model.exposure else None
    )
    return Rows(uniform, beside=beside)
