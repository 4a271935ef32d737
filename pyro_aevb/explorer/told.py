"""What a page tells of a run in words and tables: its parts, data, learning curve, and what was measured of it."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.data import Column, Rows
from pyro_aevb.errors import InputError
from pyro_aevb.explorer.arrays import data_array
from pyro_aevb.explorer.packed import packed
from pyro_aevb.files import regular_file
from pyro_aevb.plots.checked import is_image
from pyro_aevb.runs.options import Part
from pyro_aevb.runs.run import Run

__all__ = ["curve_of", "data_of", "facts_of", "gaps_of", "gradients_of", "labels_of", "title_of"]

MOST_POINTS = 1000
"""Number of points of a learning curve."""

LARGEST_FILE = 10_000_000
"""Bytes of a file that another command wrote into the run's folder."""

Notes = list[str]
"""What a reader must know, a sentence each; functions here add to it."""


def title_of(run: Run) -> str:
    """The run's title, a file of data by its name alone: whoever is sent a page need not see the sender's folders.

    Arguments:
        run: The run.
    """
    return run.title.replace(run.data.name, Path(run.data.name).name)


def facts_of(run: Run) -> list[list[str]]:
    """What was trained, on what, and for how long: names and words.

    Arguments:
        run: The run.
    """
    config = run.config
    averaged = ", averaged weights" if run.averaged else ""
    facts = {
        "data": f"{Path(run.data.name).name}, binarize={run.data.binarize}",
        "prior": _part(config.prior),
        "likelihood": _part(config.likelihood),
        "guide": _part(config.guide),
        "estimator": _estimator(config.estimator),
        "optimizer": _part(config.optimizer),
        "latent dimensions": f"{config.latent_dim:,}",
        "samples seen": f"{run.samples_seen:,}",
        "batch size": f"{config.batch_size:,}",
        "seed": str(config.seed),
        "state": f"{run.checkpoint}.pt{averaged}",
    }
    return [[name, words] for name, words in facts.items()]


def _part(part: Part) -> str:
    """A part's name and its arguments, those that say nothing left out."""
    name = part.class_path.removeprefix("pyro_aevb.").rpartition(".")[2]
    said = [f"{key}={_value(value)}" for key, value in part.init_args.items() if value not in (None, False, "none")]
    return ", ".join([name, *said])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("class_path", value)).rpartition(".")[2]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _estimator(part: Part) -> str:
    count = part.init_args.get("num_particles", 1)
    beta = part.init_args.get("beta", 1.0)
    name = part.class_path.rpartition(".")[2]
    return f"{name}, {count} particle{'' if count == 1 else 's'}{'' if beta == 1 else f', beta={beta:g}'}"


# ---------------------------------------------------------------- data


def labels_of(run: Run, rows: Rows) -> dict[str, Any] | None:
    """Labels of the data: their name, the names of all, and the number of each datum's, -1 where it has none.

    Arguments:
        run: The run.
        rows: The data.
    """
    if rows.labels is None:
        return None
    schema = run.data.schema
    names = _label_names(run.data.label_names, set(rows.labels) - {""})
    numbers = {name: i for i, name in enumerate(names)}
    values = torch.tensor([numbers.get(label, -1) for label in rows.labels])
    of_condition = schema.condition[0].name if schema.condition else "label"
    return {"name": schema.labels or of_condition, "names": names, "values": packed(values, "int32")}


def _label_names(known: tuple[str, ...], found: set[str]) -> list[str]:
    """The labels' names in their own order; numbers by size."""
    if found <= set(known):
        return list(dict.fromkeys(known))
    if all(name.lstrip("-").isdigit() for name in found):
        return sorted(found, key=int)
    return sorted(found)


def data_of(run: Run, rows: Rows, split: str) -> dict[str, Any]:
    """The data as the model sees them, and how they are shown.

    Arguments:
        run: The run.
        rows: The data.
        split: Which of the run's data sets they are.
    """
    x = rows.x.detach().cpu()
    shown = x[x.isfinite()]
    return {
        **(_as_image(run.data.shape) if is_image(run.data.shape) else _as_table(run, x)),
        "low": shown.min().item() if len(shown) else 0.0,
        "high": shown.max().item() if len(shown) else 1.0,
        "rows": rows.names(),
        "x": data_array(x),
        "split": split,
        "conditioned": bool(rows.beside.tensors()),
    }


def _as_image(shape: tuple[int, ...]) -> dict[str, Any]:
    """Height and width, and 3 for colours with the place of these; other channels stand below each other."""
    sizes = [size for size in shape if size != 1]
    if len(sizes) == 3 and sizes[0] == 3:
        return {"kind": "image", "shape": [*sizes[1:], 3], "order": "first"}
    if len(sizes) == 3 and sizes[2] == 3:
        return {"kind": "image", "shape": sizes, "order": "last"}
    height = math.prod(sizes[:-1])
    return {"kind": "image", "shape": [height, sizes[-1]], "order": "last"}


def _as_table(run: Run, x: Tensor) -> dict[str, Any]:
    columns = run.data.schema.columns
    if not columns:
        kind = _kind_of(x)
        columns = tuple(Column(f"x[{i}]", kind) for i in range(x.shape[1]))
    return {"kind": "table", "columns": [_column(column, i, x[:, i]) for i, column in enumerate(columns)]}


def _column(column: Column, place: int, values: Tensor) -> dict[str, Any]:
    there = values[values.isfinite()]
    return {
        "name": column.name,
        "kind": column.kind,
        "categories": list(column.categories) or None,
        "low": there.min().item() if len(there) else None,
        "high": there.max().item() if len(there) else None,
        "places": [place, place + 1],
    }


def _kind_of(x: Tensor) -> str:
    """What the numbers of an array without columns seem to be."""
    if bool(((x == 0) | (x == 1) | x.isnan()).all()):
        return "binary"
    whole = bool(((x >= 0) & (x == x.round()) | x.isnan()).all())
    return "count" if whole and float(x.nan_to_num().max()) > 1 else "real"


# ---------------------------------------------------------------- what was measured


def curve_of(run: Run, notes: Notes) -> list[dict[str, float]]:
    """The learning curve: training bounds with ``bound``, test bounds with ``test_bound`` and ``test_se``.

    Arguments:
        run: The run.
        notes: What a reader must know; a damaged file is told here.
    """
    try:
        records = run.metrics
    except InputError as error:
        notes.append(f"The learning curve is left out: {error}.")
        return []
    curve = []
    for name, others in (("bound", ()), ("test_bound", ("test_se",))):
        of_name = [record for record in records if record.get(name) is not None]
        step = -(-len(of_name) // MOST_POINTS) or 1
        kept = [*of_name[::step], *of_name[-1:]] if (len(of_name) - 1) % step else of_name[::step]
        curve += [{key: record[key] for key in ("samples_seen", name, *others)} for record in kept]
    return sorted(curve, key=lambda record: record["samples_seen"])


def gaps_of(run: Run, notes: Notes) -> dict[str, Any] | None:
    """What the bound misses, as ``pyro-aevb diagnose`` last wrote it into the run's folder; ``None`` where not.

    Arguments:
        run: The run.
        notes: What a reader must know; numbers of another state are left out and told here.
    """
    return _read(run.path / "diagnostics.json", lambda text: _gaps(run, json.loads(text), notes), notes)


def _gaps(run: Run, told: Any, notes: Notes) -> dict[str, Any] | None:
    gaps = told["gaps"]
    if gaps is None:
        return None
    if told["samples_seen"] != run.samples_seen or told["checkpoint"] != run.checkpoint:
        notes.append(
            f"diagnostics.json is of the state {told['checkpoint']!s:.20} after {int(told['samples_seen']):,} samples, "
            "not of this one: run pyro-aevb diagnose again."
        )
        return None
    means = {"bound": "bound", "optimised_bound": "optimised_bound", "log_likelihood": "log_px"}
    found: dict[str, Any] = {name: _finite(gaps[key]["mean"]) for name, key in means.items()}
    for name in ("amortisation", "approximation"):
        found |= {name: _finite(gaps[name]["mean"]), f"{name}_se": _finite(gaps[name]["se"])}
    return {**found, "count": int(gaps["count"])}


def gradients_of(run: Run, notes: Notes) -> list[dict[str, Any]] | None:
    """Gradients of several estimators, as ``pyro-aevb compare`` last wrote them into the run's folder.

    Arguments:
        run: The run.
        notes: What a reader must know; a damaged file is told here.
    """
    return _read(run.path / "comparison" / "gradients.csv", _gradients, notes)


def _gradients(text: str) -> list[dict[str, Any]]:
    return [
        {
            "estimator": row["estimator"],
            "num_particles": int(row["num_particles"]),
            "part": row["part"],
            "snr": _finite(float(row["snr"])),
            "variance": _finite(float(row["variance"])),
        }
        for row in csv.DictReader(io.StringIO(text))
    ]


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None


def _read(path: Path, parse: Callable[[str], Any], notes: Notes) -> Any:
    """What a file holds; ``None`` where it is not there, or was changed so that it cannot be read."""
    if not path.exists():
        return None
    try:
        if regular_file(path).stat().st_size > LARGEST_FILE:
            raise ValueError("too large")
        return parse(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        notes.append(f"{path.name} was changed or damaged and is left out: run the command that writes it again.")
        return None
