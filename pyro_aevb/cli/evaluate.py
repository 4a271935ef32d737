"""``pyro-aevb evaluate``: the numbers of a saved run, in nats per datum, with standard errors."""

import json as json_format
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from pyro_aevb import evidence
from pyro_aevb.errors import InputError
from pyro_aevb.runs.parser import FLAG, read_options
from pyro_aevb.runs.run import Run, load_run

__all__ = ["EvaluateOptions", "evaluate"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a saved run: the bound and its parts, the log-likelihood by one method or several, active units.

    Arguments:
        run: Folder of the run, which train made.
        split: Which of the run's data sets to look at.
        checkpoint: Which of the run's two saved states: the last one, or the one with the best bound on training data.
        evidence: How log p(x) is estimated: one or several of ``importance``, ``appendix_d`` and ``ais``, separated by
            commas.
        num_samples: Importance samples per datum; 0 leaves log p(x) out.
        chunk_size: Importance samples per datum that are taken at once, which changes memory and time and no number; by
            default 5 on a CPU, 50 elsewhere.
        draws: Posterior draws per datum that appendix D fits its density to; as many again evaluate it.
        steps: Number of distributions on the way from guide to posterior, in ais.
        chains: Number of chains per datum, in ais.
        count: Number of data, the first ones; by default all.
        keep: Folder for results of finished data, so that the same command goes on where it was stopped.
        float64: Whether to compute in double precision.
        seed: Seed of the draws.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        trust: Modules of your own, separated by commas, whose classes the run's configuration may name.
        json: Print JSON instead of a table.
    """

    run: str
    split: Literal["test", "train"] = "test"
    checkpoint: Literal["last", "best"] = "last"
    evidence: str = "importance"
    num_samples: int = 1000
    chunk_size: int | None = None
    draws: int = 50
    steps: int = 500
    chains: int = 8
    count: int | None = None
    keep: str | None = None
    float64: bool = False
    seed: int = 0
    device: str = "auto"
    data_root: str | None = None
    trust: str | None = None
    json: bool = field(default=False, metadata=FLAG)


def evaluate(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb evaluate``.

    Raises:
        InputError: If an option does not fit.
    """
    config = read_options(EvaluateOptions, "evaluate", arguments)
    if config.num_samples < 0 or (config.count is not None and config.count < 1):
        raise InputError("--num_samples must be at least 0 and --count at least 1")
    methods = _methods(config)
    run = load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)
    x = run.data.evaluation(config.split)[: config.count]
    if config.float64:
        run.model.double(), run.guide.double()
        x = x.double()
    numbers = measure(run, x, methods, config)
    if config.json:
        print(json_format.dumps({**_header(run, config, x), **numbers}, indent=2))
    else:
        print(_table(run, config, x, numbers))
    said = [run.model.likelihood.warning(_latents(run, x)), *_refused(numbers), *_untrustworthy(numbers, len(x))]
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
        raise InputError(f"unknown --evidence {unknown[0]!r}: give some of {', '.join(known)}, separated by commas")
    return {name: known[name] for name in wanted if name != "importance" or config.num_samples}


def measure(run: Run, x: Tensor, methods: dict[str, Method], config: EvaluateOptions) -> dict[str, Any]:
    """The numbers that ``evaluate`` prints, means and standard errors over data, in nats per datum."""
    model = run.model
    guide = run.guide
    found = evidence.bound(model, guide, x, seed=config.seed)
    numbers: dict[str, Any] = {
        "bound": _mean(found.bound),
        "log_likelihood": _mean(found.log_likelihood),
        "kl": _mean(found.kl),
    }
    for name, method in methods.items():
        keep = _keep(config, name)
        key = "evidence" if name == "importance" else name
        try:
            with tqdm(total=len(x), desc=name, unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
                estimate = method(model, guide, x, seed=config.seed, progress=bar.update, keep=keep)
        except InputError as error:
            if len(methods) == 1:
                raise
            numbers[key] = {"refused": str(error)}  # what the others told is not lost
            continue
        numbers[key] = _evidence(estimate, len(x))
    if methods and all("refused" in numbers[key] for key in numbers.keys() - {"bound", "log_likelihood", "kl"}):
        raise InputError(next(each["refused"] for each in numbers.values() if "refused" in each))
    numbers["active_units"] = evidence.active_units(guide, x) if len(x) > 1 else None
    return numbers


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
    return [f"{name} is not told: {number['refused']}" for name, number in asked if "refused" in number]


def _untrustworthy(numbers: dict[str, Any], count: int) -> list[str]:
    said = []
    if 20 * (heavy := numbers.get("evidence", {}).get("khat_above_0.7", 0)) > count:
        said.append(
            f"the importance weights of {heavy} of {count} data have a tail too heavy for their error bars (Pareto "
            "k-hat above 0.7): take more samples, or compare --evidence importance,ais"
        )
    if 20 * (apart := numbers.get("appendix_d", {}).get("rhat_above_1.1", 0)) > count:
        said.append(
            f"the chains of {apart} of {count} data have not met (R-hat above 1.1, or a chain that stood still): take "
            "more --draws, or compare --evidence appendix_d,ais"
        )
    return said


def _mean(values: Tensor) -> dict[str, Any]:
    values = values.double()
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": values.mean().item(), "se": spread}


def _latents(run: Run, x: Tensor) -> Tensor:
    return evidence.posterior_means(run.guide, x[: evidence.DATA_BLOCK])


def _header(run: Run, config: EvaluateOptions, x: Tensor) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "checkpoint": config.checkpoint,
        "samples_seen": run.samples_seen,
        "data": run.data.name,
        "split": config.split,
        "count": len(x),
        "binarize": run.data.binarize,
        "relaxed": getattr(run.model.likelihood, "relaxed", None),
        "num_samples": config.num_samples,
        "latent_dim": run.config.latent_dim,
        "unit": "nats per datum",
    }


def _table(run: Run, config: EvaluateOptions, x: Tensor, numbers: dict[str, Any]) -> str:
    header = _header(run, config, x)
    grey = ", grey pixels: not a likelihood" if header["relaxed"] else ""
    names = {
        "bound": "bound",
        "log_likelihood": "  E_q log p(x|z)",
        "kl": "  KL(q(z|x) || p(z))",
        "evidence": f"log p(x), {config.num_samples} importance samples",
        "appendix_d": f"log p(x), appendix D, {config.draws} + {config.draws} draws",
        "ais": f"log p(x), annealed, {config.steps} steps, {config.chains} chains",
    }
    lines = [
        f"{run.title}, {config.checkpoint}.pt",
        f"{len(x):,} {config.split} data{grey}; nats per datum",
        f"{'':<42}{'mean':>10}{'s.e.':>9}",
    ]
    lines += [_row(label, numbers[key]) for key, label in names.items() if key in numbers]
    if numbers["active_units"] is not None:  # one datum has nothing to vary over
        lines.append(f"active units: {numbers['active_units']} of {header['latent_dim']}")
    return "\n".join(lines)


def _row(label: str, number: dict[str, Any]) -> str:
    if "refused" in number:
        return f"{label:<42}{'refused':>10}"
    error = "" if number["se"] is None else f"{number['se']:>9.2f}"
    extra = f"   (Monte Carlo ± {number['monte_carlo_se']:.3f})" if number.get("monte_carlo_se") is not None else ""
    return f"{label:<42}{number['mean']:>10.2f}{error}{extra}"
