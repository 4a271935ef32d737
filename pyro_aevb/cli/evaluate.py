"""``pyro-aevb evaluate``: the numbers of a saved run, in nats per datum, with standard errors."""

import json as json_format
import sys
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from pyro_aevb import evidence
from pyro_aevb.cli import train
from pyro_aevb.cli.parser import Parser
from pyro_aevb.cli.runs import Loaded, load_run
from pyro_aevb.errors import InputError

__all__ = ["evaluate", "options", "parser"]


def options(
    run: str,
    split: Literal["test", "train"] = "test",
    checkpoint: Literal["last", "best"] = "last",
    num_samples: int = 1000,
    chunk_size: int = 50,
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_root: str | None = None,
) -> None:
    """Evaluate a saved run: the bound and its parts, the importance-sampled log-likelihood, active units.

    Args:
        run: A folder that train made.
        split: Which data.
        checkpoint: Which state.
        num_samples: Importance samples per datum; 0 leaves the log-likelihood out.
        chunk_size: Importance samples at once; changes memory, not numbers.
        count: Only the first so many data.
        seed: Seed of the draws.
        device: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
    """


def parser() -> Parser:
    """The parser of ``pyro-aevb evaluate``."""
    made = Parser.of(options, "pyro-aevb evaluate")
    made.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    return made


def evaluate(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb evaluate``."""
    config = parser().parse(arguments)
    if config.num_samples < 0 or (config.count is not None and config.count < 1):
        raise InputError("--num_samples must be at least 0 and --count at least 1")
    loaded = load_run(config.run, train.parser(), config.checkpoint, config.device, config.data_root)
    x = loaded.data.evaluation(config.split)[: config.count]
    numbers = measure(loaded, x, config.num_samples, config.chunk_size, config.seed)
    if config.json:
        print(json_format.dumps({**_header(loaded, config, x), **numbers}, indent=2))
    else:
        print(_table(loaded, config, x, numbers))
    if warning := loaded.pair.model.likelihood.warning(_latents(loaded, x)):
        print(f"pyro-aevb: warning: {warning}", file=sys.stderr)


def measure(loaded: Loaded, x: Tensor, num_samples: int, chunk_size: int, seed: int) -> dict[str, Any]:
    """The numbers that ``evaluate`` prints, means and standard errors over data, in nats per datum."""
    model, guide = loaded.pair.model, loaded.pair.guide
    parts = evidence.bound(model, guide, x, seed=seed)
    numbers: dict[str, Any] = {
        "bound": _mean(parts.bound),
        "log_likelihood": _mean(parts.log_likelihood),
        "kl": _mean(parts.kl),
    }
    if num_samples:
        with tqdm(total=len(x), unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
            weights = evidence.importance_weights(
                model, guide, x, num_samples, chunk_size=chunk_size, seed=seed, progress=bar.update
            )
        monte_carlo = (weights.standard_error**2).sum().sqrt().item() / len(x)
        numbers["evidence"] = _mean(weights.log_likelihood) | {"monte_carlo_se": monte_carlo}
    numbers["active_units"] = evidence.active_units(guide, x) if len(x) > 1 else None
    return numbers


def _mean(values: Tensor) -> dict[str, float | None]:
    values = values.double()
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": values.mean().item(), "se": spread}


def _latents(loaded: Loaded, x: Tensor) -> Tensor:
    return evidence.posterior_means(loaded.pair.guide, x[: evidence.DATA_BLOCK])


def _header(loaded: Loaded, config: Any, x: Tensor) -> dict[str, Any]:
    return {
        "run": str(loaded.run.path),
        "checkpoint": config.checkpoint,
        "samples_seen": loaded.samples_seen,
        "data": loaded.data.name,
        "split": config.split,
        "count": len(x),
        "binarize": loaded.data.binarize,
        "relaxed": getattr(loaded.pair.model.likelihood, "relaxed", None),
        "num_samples": config.num_samples,
        "latent_dim": loaded.config.latent_dim,
        "unit": "nats per datum",
    }


def _table(loaded: Loaded, config: Any, x: Tensor, numbers: dict[str, Any]) -> str:
    header = _header(loaded, config, x)
    grey = ", grey pixels: not a likelihood" if header["relaxed"] else ""
    names = {
        "bound": "bound",
        "log_likelihood": "  E_q log p(x|z)",
        "kl": "  KL(q(z|x) || p(z))",
        "evidence": f"log p(x), {config.num_samples} importance samples",
    }
    lines = [
        f"{loaded.title}, {config.checkpoint}.pt",
        f"{len(x):,} {config.split} data{grey}; nats per datum",
        f"{'':<42}{'mean':>10}{'s.e.':>9}",
    ]
    lines += [_row(label, numbers[key]) for key, label in names.items() if key in numbers]
    return "\n".join([*lines, f"active units: {numbers['active_units']} of {header['latent_dim']}"])


def _row(label: str, number: dict[str, float | None]) -> str:
    error = "" if number["se"] is None else f"{number['se']:>9.2f}"
    extra = f"   (Monte Carlo ± {number['monte_carlo_se']:.3f})" if "monte_carlo_se" in number else ""
    return f"{label:<42}{number['mean']:>10.2f}{error}{extra}"
