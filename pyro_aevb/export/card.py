"""``MODEL_CARD.md``: what a model is, what it was trained on, how good it is, where it ends, and how to load it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from pyro_aevb import evidence
from pyro_aevb.data import Rows
from pyro_aevb.evaluation import mean_of
from pyro_aevb.export.graphs import Graph
from pyro_aevb.export.preprocessing import name_of_data
from pyro_aevb.runs.options import Config
from pyro_aevb.runs.origin import versions
from pyro_aevb.runs.run import Run

__all__ = ["described", "escaped", "measured", "model_card", "plain_config"]

MARKS = re.compile(r"([\\`*_{}\[\]#|~:@]|(?<=www)\.)")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
PLACES = ("data_root", "device", "engine")
"""Options that tell of a machine and not of a model."""

LOADING = """\
```python
import numpy as np
import onnxruntime

encoder = onnxruntime.InferenceSession("encoder.onnx")
x = np.zeros((1, {dim}), dtype=np.float32)  # a datum, as preprocessing.json says
outputs = dict(zip([each.name for each in encoder.get_outputs()], encoder.run(None, {{"x": x{more}}})))
```
"""


# ---------------------------------------------------------------- what is known of a run


def plain_config(config: Config) -> dict[str, Any]:
    """A run's options without what tells of the machine that it was trained on.

    Arguments:
        config: The run's options.
    """
    found = {name: value for name, value in asdict(config).items() if name not in PLACES}
    return {**found, "data": re.split(r"[/\\]", found["data"])[-1]}


def described(run: Run) -> dict[str, Any]:
    """What every exported file says of itself, plain values: the run, its data, versions.

    Arguments:
        run: The run.
    """
    state = run.folder.load(run.checkpoint)
    origin = state.get("origin", {})
    saved = state.get("versions", {})
    return {
        "run": run.path.resolve().name,
        "checkpoint": run.checkpoint,
        "averaged_weights": run.averaged,
        "samples_seen": run.samples_seen,
        "data": name_of_data(run.data),
        "data_digests": dict(origin.get("data", {})),
        "binarize": run.data.binarize,
        "trained_with": dict(saved),
        "exported_with": versions(),
        "config": plain_config(run.config),
    }


def measured(run: Run, count: int, num_samples: int, seed: int) -> dict[str, Any]:
    """Bound and evidence of test data, means in nats per datum with their standard errors over data.

    Arguments:
        run: The run.
        count: Number of test data, the first ones.
        num_samples: Number of importance samples per datum; 0 leaves log p(x) out.
        seed: Seed of the draws.

    Returns:
        The numbers; empty where the run's data are not there, or there are fewer than two.
    """
    if len(run.data.test) < 2:
        return {}
    rows: Rows = run.data.rows("test").first(count)
    bound = evidence.bound(run.model, run.guide, rows.arguments, seed=seed)
    found: dict[str, Any] = {"count": len(rows.x), "of": len(run.data.test), "num_samples": num_samples, "seed": seed}
    found["bound"] = mean_of(bound.bound)._asdict()
    found["log_px_given_z"] = mean_of(bound.log_likelihood)._asdict()
    found["kl"] = mean_of(bound.kl)._asdict()
    if num_samples:
        weights = evidence.importance_weights(run.model, run.guide, rows.arguments, num_samples, seed=seed)
        error = (weights.standard_error**2).sum().sqrt().item() / len(rows.x)
        found["log_px"] = {**mean_of(weights.log_likelihood)._asdict(), "monte_carlo_se": error}
        found["khat_above_0.7"] = int((weights.khat > 0.7).sum())
    return found


# ---------------------------------------------------------------- the card


def escaped(words: Any) -> str:
    r"""Text as Markdown shows it, in one line: whatever a file, a column or a category is called, it stays text.

    >>> print(escaped("a|b <script> `x`"))
    a\|b &lt;script&gt; \`x\`
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(words)).split())
    marked = MARKS.sub(r"\\\1", line)
    return "".join(ENTITIES.get(c, c) for c in marked)


def model_card(
    run: Run,
    about: Mapping[str, Any],
    numbers: Mapping[str, Any],
    graphs: Mapping[str, Graph],
    files: Sequence[str],
) -> str:
    """The text of a model card, as hubs of models show it: YAML, then Markdown.

    Arguments:
        run: The run.
        about: What :func:`described` tells.
        numbers: What :func:`measured` found; empty for nothing.
        graphs: The graphs that are exported, by name: ``encoder``, ``decoder``.
        files: Names of all files that are exported.
    """
    parts = [
        _front(about, numbers),
        f"# {escaped(about['run'])}",
        _what_it_is(run, about),
        "## Numbers",
        *_numbers(numbers),
        "## Data",
        *_data(run, about),
        "## Model and training",
        _table(_model(run, about)),
        "## Files and how to load them",
        _table((name, FILES[name]) for name in files),
        *_loading(run, graphs),
        "## Limits",
        "\n".join(f"* {limit}" for limit in _limits(run, graphs)),
        "## Configuration",
        _indented(yaml.safe_dump(about["config"], sort_keys=False, allow_unicode=False)),
    ]
    return "\n\n".join(parts) + "\n"


FILES = {
    "encoder.onnx": "the guide, from a datum to the parameters of q(z\\|x)",
    "decoder.onnx": "the likelihood, from latents to the mean and the parameters of p(x\\|z)",
    "model.safetensors": "all weights of model and guide; `pyro_aevb.export.load_weights` puts them into a pair",
    "preprocessing.json": "how raw data become what the graphs take",
    "MODEL_CARD.md": "this card",
}


def _front(about: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    """The block of YAML that hubs read."""
    metrics = [
        {"type": key, "name": f"{name}, nats per datum", "value": round(numbers[key]["mean"], 4)}
        for key, name in (("bound", "bound"), ("log_px", "log p(x) by importance sampling"))
        if key in numbers
    ]
    data = {"name": about["data"], "type": about["data"]}
    task = {"type": "unconditional-generation", "name": "density estimation"}
    result = {"task": task, "dataset": {**data, "split": "test"}, "metrics": metrics}
    front = {
        "library_name": "pyro_aevb",
        "tags": ["pyro", "variational-autoencoder", "auto-encoding-variational-bayes"],
        "datasets": [about["data"]],
        "model-index": [{"name": about["run"], "results": [result] if metrics else []}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=False)}---"


def _what_it_is(run: Run, about: Mapping[str, Any]) -> str:
    given = " given a condition" if run.model.condition else ""
    return (
        f"A variational auto-encoder of {escaped(about['data'])}: a generative model p(z) p(x|z){given} with "
        f"{run.config.latent_dim} latent dimensions and its guide q(z|x), an approximation of the posterior, trained "
        "by Auto-Encoding Variational Bayes (Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114) with pyro\\_aevb."
    )


def _numbers(numbers: Mapping[str, Any]) -> list[str]:
    if not numbers:
        return ["Not measured: the test data were not there when this card was written."]
    labels = {
        "bound": "bound, the lower bound of log p(x)",
        "log_px_given_z": "its first part, E[log p(x\\|z)] under q(z\\|x)",
        "kl": "its second part, KL(q(z\\|x) \\|\\| p(z)), which is subtracted",
        "log_px": "log p(x) by importance sampling",
    }
    rows = [
        (labels[key], f"{numbers[key]['mean']:.3f}", f"{numbers[key]['se']:.3f}") for key in labels if key in numbers
    ]
    part = "all" if numbers["count"] == numbers["of"] else f"the first {numbers['count']} of"
    told = [
        f"On {part} {numbers['of']} test data, in nats per datum; s.e. is the standard error of "
        "the mean over data. One draw of z a datum stands behind the bound.",
        _table(rows, ("", "mean", "s.e.")),
    ]
    if "log_px" in numbers:
        told.append(
            f"log p(x) is by {numbers['num_samples']} importance samples a datum, in expectation a lower bound; their "
            f"Monte Carlo error of the mean is {numbers['log_px']['monte_carlo_se']:.4f}. For "
            f"{numbers['khat_above_0.7']} data Pareto k-hat is above 0.7, and the estimate not to be trusted."
        )
    return told


def _data(run: Run, about: Mapping[str, Any]) -> list[str]:
    facts = [("name", escaped(about["data"])), ("shape of a datum", " x ".join(map(str, run.data.shape)))]
    if len(run.data.test):
        facts += [("training data", str(len(run.data.train))), ("test data", str(len(run.data.test)))]
    facts += [("binarisation", about["binarize"]), ("missing values", "NaN" if run.model.missing else "none")]
    facts += [(f"SHA-256, {escaped(name)}", escaped(digest)) for name, digest in about["data_digests"].items()]
    columns = [(escaped(c.name), c.kind, escaped(", ".join(c.categories))) for c in run.data.schema.columns]
    conditions = [(escaped(c.name), c.kind, escaped(", ".join(c.categories))) for c in run.data.schema.condition]
    told = [_table(facts)]
    told += [_table(columns, ("column", "kind", "categories"))] if columns else []
    told += [_table(conditions, ("condition", "kind", "categories"))] if conditions else []
    return [*told, "The digests are of the values after scaling, as the training state keeps them."]


def _model(run: Run, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    config = run.config
    averages = "averages over steps, " if about["averaged_weights"] else "those "
    weights = sum(p.numel() for part in (run.model, run.guide) for p in part.parameters())
    return [
        ("prior p(z)", _called(config.prior)),
        ("likelihood p(x\\|z)", _called(config.likelihood)),
        ("guide q(z\\|x)", _called(config.guide)),
        ("latent dimensions", str(config.latent_dim)),
        ("weights", f"{weights}, float32"),
        ("estimator", _called(config.estimator)),
        ("optimizer", _called(config.optimizer)),
        ("training samples seen", f"{about['samples_seen']}, in minibatches of {config.batch_size}"),
        ("weights are", f"{averages}of the state {about['checkpoint']}"),
        ("seed", str(config.seed)),
        ("trained with", _versions(about["trained_with"])),
        ("exported with", _versions(about["exported_with"])),
    ]


def _called(part: Any) -> str:
    """The name of a part's class; what it was made with stands in the configuration."""
    return escaped(part.class_path.rpartition(".")[2])


def _versions(found: Mapping[str, str]) -> str:
    return escaped(", ".join(f"{name} {version}" for name, version in found.items()) or "not known")


def _loading(run: Run, graphs: Mapping[str, Graph]) -> list[str]:
    told = []
    if "encoder" in graphs:
        more = _more(graphs["encoder"])
        told.append(LOADING.format(dim=run.model.likelihood.data_dim, more=more).rstrip())
    for name, graph in graphs.items():
        rows = [("input", *_row(each, value)) for each, value in graph.inputs.items()]
        rows += [("output", *_row(each, value)) for each, value in graph.outputs.items()]
        told.append(_table(rows, (f"of the {name}", "name", "type", "shape")))
    return told


def _more(graph: Graph) -> str:
    """What else the encoder of the example is given."""
    kinds = {"float": "np.float32", "int64": "np.int64"}
    others = [(name, value) for name, value in graph.inputs.items() if name != "x"]
    shapes = [(name, ", ".join(["1", *map(str, v["shape"][1:])]), kinds[v["type"]]) for name, v in others]
    return "".join(f', "{name}": np.ones(({shape},), dtype={kind})' for name, shape, kind in shapes)


def _row(name: str, value: Mapping[str, Any]) -> tuple[str, str, str]:
    return escaped(name), value["type"], " x ".join(map(str, value["shape"]))


def _limits(run: Run, graphs: Mapping[str, Graph]) -> list[str]:
    limits = [
        "It knows the data that it was trained on and nothing else. What it says of others is an extrapolation.",
        "q(z\\|x) is an approximation of the posterior; the bound lies below log p(x).",
        "Licence, intended use and biases are for whoever publishes it to write here.",
    ]
    if graphs:
        limits.append(
            "The prior is not among the graphs: to draw new data draw z from it, of StandardNormal independent "
            "standard normal numbers; `pyro-aevb sample` does so from the run itself."
        )
    if "noise" in (graphs["encoder"].inputs if "encoder" in graphs else ()):
        limits.append(
            "q(z\\|x) is a normalizing flow: the encoder gives draws, one for each row of standard normal noise."
        )
    if getattr(run.model.likelihood, "relaxed", False):
        limits.append(
            "Grey pixels were taken for probabilities (relaxed): the numbers are cross-entropies, no densities."
        )
    return limits


# ---------------------------------------------------------------- Markdown


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ("", "")) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _indented(text: str) -> str:
    """A block of code that nothing in it can end."""
    return "\n".join(f"    {line}" for line in text.splitlines())
