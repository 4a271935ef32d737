"""``pyro-aevb evaluate``: the numbers of a saved run, in nats per datum, with standard errors."""

import json as json_format
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from pyro_aevb import evidence
from pyro_aevb.cli.options import (
    COLUMNS,
    DataOptions,
    check_count,
    check_table,
    header_of,
    opened,
    row,
    rows_asked,
    write_table,
)
from pyro_aevb.data import Rows
from pyro_aevb.errors import InputError, did_you_mean
from pyro_aevb.files import check_place
from pyro_aevb.runs.parser import FLAG, read_options
from pyro_aevb.runs.run import BOUND_DRAWS, Run
from pyro_aevb.runs.tables import evaluated_frame

__all__ = ["EvaluateOptions", "evaluate"]


@dataclass(frozen=True)
class EvaluateOptions(DataOptions):
    """Evaluate a saved run: the bound and its parts, the log-likelihood by one method or several, active units.

    Arguments:
        evidence: How log p(x) is estimated: one or several of ``importance``, ``appendix_d`` and ``ais``, separated by
            commas.
        num_samples: Importance samples per datum; 0 leaves log p(x) out.
        chunk_size: Importance samples per datum that are taken at once, which changes memory and time and no number; by
            default 5 on a CPU, 50 elsewhere.
        draws: Posterior draws per datum that appendix D fits its density to; as many again evaluate it.
        steps: Number of distributions on the way from guide to posterior, in ais.
        chains: Number of chains per datum, in ais.
        out: A new .csv or .parquet file with a row for each datum: index, label, the bound and its two parts, log p(x)
            and its standard error, all in nats; k-hat; and the anomaly rank, 1 for the least probable datum.
        keep: Folder for results of finished data, so that the same command goes on where it was stopped.
        float64: Whether to compute in double precision.
        json: Print JSON instead of a table.
    """

    evidence: str = "importance"
    num_samples: int = 1000
    chunk_size: int | None = None
    draws: int = 50
    steps: int = 500
    chains: int = 8
    out: str | None = None
    keep: str | None = None
    float64: bool = False
    json: bool = field(default=False, metadata=FLAG)


def evaluate(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb evaluate``.

    Raises:
        InputError: If an option does not fit.
    """
    config = read_options(EvaluateOptions, "evaluate", arguments)
    check_count("num_samples", config.num_samples, least=0)
    out = check_table(config.out) if config.out else None
    if config.keep is not None:
        check_place("keep", Path(config.keep) / "importance.pt")
    methods = _methods(config)
    run = opened(config)
    rows = rows_asked(run, config)
    if config.float64:
        run.model.double(), run.guide.double()
        rows = replace(rows, x=rows.x.double())
    numbers, table = measure(run, rows, methods, config)
    if config.json:
        print(json_format.dumps({**_header(run, config, rows.x), **numbers}, indent=2))
    else:
        print(_table(run, config, rows.x, numbers))
    if out:
        write_table(table(), out)
        print(out, file=sys.stderr if config.json else sys.stdout)
    said = [_warning(run, rows), *_refused(numbers), *_untrustworthy(numbers, len(rows.x))]
    for warning in filter(None, said):
        print(f"pyro-aevb: warning: {warning}", file=sys.stderr)


Method = Callable[..., Any]


def _methods(config: EvaluateOptions) -> dict[str, Method]:
    """How log p(x) is estimated, by name, from model, guide, data, seed, progress and keep."""

    def importance(model: Any, guide: Any, x: Tensor, **more: Any) -> evidence.WeightSums:
        return evidence.importance_weights(model, guide, x, config.num_samples, chunk_size=config.chunk_size, **more)

    def appendix_d(model: Any, guide: Any, x: Tensor, **more: Any) -> evidence.PosteriorDensity:
        return evidence.appendix_d(model, x, config.draws, guide=guide, **more)

    def ais(model: Any, guide: Any, x: Tensor, **more: Any) -> evidence.AnnealedWeights:
        return evidence.annealed_importance_sampling(model, guide, x, steps=config.steps, chains=config.chains, **more)

    known: dict[str, Method] = {"importance": importance, "appendix_d": appendix_d, "ais": ais}
    wanted = [name.strip() for name in config.evidence.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise InputError(
            f"unknown --evidence {unknown[0]!r}{near or ':'} give some of {', '.join(known)}, separated by commas"
        )
    return {name: known[name] for name in wanted if name != "importance" or config.num_samples}


def measure(
    run: Run, rows: Rows, methods: dict[str, Method], config: EvaluateOptions
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The numbers that ``evaluate`` prints, means with standard errors, in nats per datum; and what makes its table."""
    x = rows.arguments
    size = len(rows.x)
    estimates: dict[str, Any] = {}
    model = run.model
    guide = run.guide
    found = evidence.bound(model, guide, x, seed=config.seed)
    numbers: dict[str, Any] = {
        "bound": _mean(found.bound),
        "log_px_given_z": _mean(found.log_likelihood),
        "kl": _mean(found.kl),
    }
    for name, method in methods.items():
        keep = _keep(config, name)
        key = "log_px" if name == "importance" else f"log_px_{name}"  # as the columns of its table
        try:
            with tqdm(total=size, desc=name, unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
                estimate = method(model, guide, x, seed=config.seed, progress=bar.update, keep=keep)
        except InputError as error:
            if len(methods) == 1:
                raise
            numbers[key] = {"refused": str(error)}  # what the other methods estimate is not lost
            continue
        estimates[name] = estimate
        numbers[key] = _evidence(estimate, size)
    if methods and all("refused" in numbers[key] for key in numbers.keys() - {"bound", "log_px_given_z", "kl"}):
        raise InputError(next(each["refused"] for each in numbers.values() if "refused" in each))
    numbers["active_units"] = evidence.active_units(guide, x) if size > 1 else None
    return numbers, partial(_frame, run, rows, estimates, config.seed)


def _frame(run: Run, rows: Rows, estimates: dict[str, Any], seed: int) -> Any:
    """The table of all data; the bound of each is an average of many draws, where one tells their mean."""
    bound = evidence.bound(run.model, run.guide, rows.arguments, BOUND_DRAWS, seed=seed)
    return evaluated_frame(run, rows, bound, estimates)


def _keep(config: EvaluateOptions, method: str) -> Path | None:
    if config.keep is None:
        return None
    Path(config.keep).mkdir(parents=True, exist_ok=True)
    return Path(config.keep) / f"{method}.pt"


def _evidence(
    found: evidence.WeightSums | evidence.AnnealedWeights | evidence.PosteriorDensity, count: int
) -> dict[str, Any]:
    """Mean over data and its errors; where the method has them, signs of distrust: how many data have each."""
    numbers: dict[str, Any] = _mean(found.log_likelihood)
    error = (found.standard_error**2).sum().sqrt().item() / count
    numbers["monte_carlo_se"] = error if math.isfinite(error) else None  # one chain tells none, a stuck one neither
    if isinstance(found, evidence.WeightSums):
        # Too few samples to see a tail are no sign of a heavy one.
        unsafe = ~(found.khat <= 0.7) if found.num_samples >= evidence.FEWEST_FOR_A_TAIL else found.khat > 0.7
        numbers["khat_above_0.7"] = int(unsafe.sum())
        numbers["effective_samples"] = found.effective_samples.median().item()
    else:  # both others have chains
        numbers["acceptance"] = found.acceptance.mean().item()
    if isinstance(found, evidence.PosteriorDensity):
        numbers["rhat_above_1.1"] = int((~(found.rhat <= 1.1)).sum())
        numbers["kernel_densities"] = int(found.kernel.sum())
    return numbers


def _refused(numbers: dict[str, Any]) -> list[str]:
    asked = ((name, number) for name, number in numbers.items() if isinstance(number, dict))
    return [f"{name} was not estimated: {number['refused']}" for name, number in asked if "refused" in number]


def _untrustworthy(numbers: dict[str, Any], count: int) -> list[str]:
    said = []
    if 20 * (heavy := numbers.get("log_px", {}).get("khat_above_0.7", 0)) > count:
        said.append(
            f"the importance weights of {heavy} of {count} data have a tail too heavy for their error bars (Pareto "
            "k-hat above 0.7): take more samples, or compare --evidence importance,ais"
        )
    if 20 * (apart := numbers.get("log_px_appendix_d", {}).get("rhat_above_1.1", 0)) > count:
        said.append(
            f"the chains of {apart} of {count} data have not met (R-hat above 1.1, or a chain that stood still): take "
            "more --draws, or compare --evidence appendix_d,ais"
        )
    return said


def _mean(values: Tensor) -> dict[str, Any]:
    values = values.double()
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": values.mean().item(), "se": spread}


def _warning(run: Run, rows: Rows) -> str | None:
    """What the likelihood says of itself at the latents of the first data."""
    first = rows.first(evidence.DATA_BLOCK)
    z = evidence.posterior_means(run.guide, first.arguments)
    return run.model.likelihood.warning(run.model.latents_seen(z, first.beside.condition))


SETTINGS = ("evidence", "num_samples", "chunk_size", "draws", "steps", "chains", "float64", "keep")
"""Options that say how log p(x) was estimated, told beside the numbers."""


def _split(config: EvaluateOptions) -> str:
    """Which data they are: the run's own of a split, or new ones."""
    return (config.split or "test") if config.data is None else config.data


def _header(run: Run, config: EvaluateOptions, x: Tensor) -> dict[str, Any]:
    return {
        **header_of(run, config, _split(config), len(x)),
        "device": str(run.device),
        "relaxed": getattr(run.model.likelihood, "relaxed", None),
        "averaged": run.averaged,
        "num_samples": config.num_samples,
        "settings": {name: getattr(config, name) for name in SETTINGS},
    }


def _table(run: Run, config: EvaluateOptions, x: Tensor, numbers: dict[str, Any]) -> str:
    header = _header(run, config, x)
    grey = ", grey pixels: not a likelihood" if header["relaxed"] else ""
    names = {
        "bound": "bound",
        "log_px_given_z": "  log p(x|z), mean over z from q(z|x)",
        "kl": "  less KL(q(z|x) || p(z))",
        "log_px": f"log p(x), importance sampling, {config.num_samples} samples",
        "log_px_appendix_d": f"log p(x), appendix D, {config.draws} + {config.draws} draws",
        "log_px_ais": f"log p(x), AIS, {config.steps} steps, {config.chains} chains",
    }
    lines = [
        f"{run.title}, {config.checkpoint}.pt",
        f"{len(x):,} {_split(config)} data{grey}; nats per datum; s.e.: standard error over data",
        COLUMNS,
    ]
    lines += [row(label, numbers[key]) for key, label in names.items() if key in numbers]
    if numbers["active_units"] is not None:  # one datum has nothing to vary over
        lines.append(f"active units: {numbers['active_units']} of {header['latent_dim']}")
    return "\n".join(lines)
