"""``pyro-aevb diagnose``: what a saved run's pair makes of its latents, and what its bound misses."""

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pyro_aevb import diagnostics, evidence
from pyro_aevb.diagnostics import AggregatePosterior, Diagnostics, Mean, mean_of
from pyro_aevb.errors import InputError
from pyro_aevb.files import replaced
from pyro_aevb.plots.diagnostics import draw_diagnostics
from pyro_aevb.runs.parser import FLAG, read_options
from pyro_aevb.runs.run import Run, load_run

__all__ = ["DiagnoseOptions", "diagnose", "numbers", "table", "write"]


@dataclass(frozen=True)
class DiagnoseOptions:
    """Diagnose a saved run: KL by latent dimension, the aggregate posterior, gaps of the bound, signs of collapse.

    Arguments:
        run: Folder of the run, which train made.
        count: Number of data, the first ones.
        gap_count: Number of them, the first ones, that the gaps of the bound are measured on; 0 leaves the gaps out.
        ais_steps: Steps of annealed importance sampling, which estimates the log p(x) of the gaps.
        split: Which of the run's data sets to look at.
        checkpoint: Which of the run's two saved states: the last one, or the one with the best bound on training data.
        seed: Seed of the draws.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        out: Folder of diagnostics.json and diagnostics.png; by default the run's folder and its figures.
        trust: Modules of your own, separated by commas, whose classes the run's configuration may name.
        json: Print JSON instead of a table.
    """

    run: str
    count: int = 1000
    gap_count: int = 100
    ais_steps: int = 200
    split: Literal["test", "train"] = "test"
    checkpoint: Literal["last", "best"] = "last"
    seed: int = 0
    device: str = "auto"
    data_root: str | None = None
    out: str | None = None
    trust: str | None = None
    json: bool = field(default=False, metadata=FLAG)


def diagnose(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb diagnose``.

    Raises:
        InputError: If an option does not fit.
    """
    config = read_options(DiagnoseOptions, "diagnose", arguments)
    if config.count < 2 or config.ais_steps < 1:
        raise InputError("--count must be at least 2 and --ais_steps at least 1")
    if config.gap_count < 0 or config.gap_count == 1:
        raise InputError("--gap_count must be 0, or at least 2 for a standard error")
    run = load_run(config.run, config.checkpoint, config.device, config.data_root, config.trust)
    x = run.data.evaluation(config.split)[: config.count]
    gap_count = min(config.gap_count, len(x))
    with tqdm(total=2 * gap_count, unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
        annealed = partial(
            evidence.annealed_importance_sampling, steps=config.ais_steps, seed=config.seed, progress=bar.update
        )
        found = diagnostics.diagnose(
            run.model,
            run.guide,
            x,
            gap_count=gap_count,
            log_evidence=annealed,
            seed=config.seed,
            progress=bar.update,
        )
    told = {**_header(run, config, len(x)), **numbers(found)}
    print(json_format.dumps(told, indent=2) if config.json else table(told, run.title))
    written = write(told, found, run, config.out)
    if not config.json:
        print("\n".join(map(str, written)))


def write(told: dict[str, Any], found: Diagnostics, run: Run, out: str | None) -> list[Path]:
    """``diagnostics.json`` and ``diagnostics.png``, which replace those of an earlier call; returns their paths."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    folder = Path(out) if out else run.path
    picture = folder / "diagnostics.png" if out else run.folder.figure("diagnostics")
    with replaced(folder / "diagnostics.json") as file:
        file.write((json_format.dumps(told, indent=2) + "\n").encode())
    with replaced(picture) as file:
        draw_diagnostics(found, run.title).savefig(file, dpi=110, format="png")
    return [folder / "diagnostics.json", picture]


def numbers(found: Diagnostics) -> dict[str, Any]:
    """Everything in plain numbers, means with standard errors over data, nats per datum."""
    kl = found.kl
    aggregate = _aggregate(found)
    return {
        "kl": mean_of(kl.total)._asdict(),
        "active_units": int(kl.active.sum()),
        "mutual_information": _told(aggregate.mutual_information),
        "mutual_information_ceiling": aggregate.ceiling,
        "marginal_kl": _told(aggregate.marginal_kl),
        "decoder_use": _told(found.decoder_use),
        "gaps": _gaps(found),
        "dimensions": [_dimension(found, k) for k in range(len(kl.active))],
        "notes": found.notes,
        "warnings": found.warnings,
    }


def _aggregate(found: Diagnostics) -> AggregatePosterior:
    """The aggregate posterior, which every pair has that the command line trains: its prior is one for all data."""
    if found.aggregate is None:
        raise InputError("; ".join(found.notes))
    return found.aggregate


def _told(values: Any) -> dict[str, float] | None:
    return None if values is None else mean_of(values)._asdict()


def _gaps(found: Diagnostics) -> dict[str, Any] | None:
    gaps = found.gaps
    if gaps is None:
        return None
    size = len(gaps.bound)
    estimates = {
        "bound": (gaps.bound, gaps.bound_error),
        "optimised_bound": (gaps.optimised_bound, gaps.optimised_bound_error),
        "log_likelihood": (gaps.log_likelihood, gaps.log_likelihood_error),
        "amortisation": (gaps.amortisation, gaps.amortisation_error),
        "approximation": (gaps.approximation, gaps.approximation_error),
    }
    told = {
        name: {**mean_of(values)._asdict(), "monte_carlo_se": (errors**2).sum().sqrt().item() / size}
        for name, (values, errors) in estimates.items()
    }
    return {"count": size, "converged": gaps.converged, **told}


def _dimension(found: Diagnostics, k: int) -> dict[str, Any]:
    kl = found.kl
    aggregate = _aggregate(found)
    q = aggregate.draws[:, k].double()
    p = aggregate.prior_draws[:, k].double()
    return {
        "dimension": k,
        "kl": None if kl.per_dimension is None else mean_of(kl.per_dimension[:, k])._asdict(),
        "activity": kl.activity[k].item(),
        "active": bool(kl.active[k]),
        "aggregate_mean": q.mean().item(),
        "aggregate_variance": q.var().item(),
        "prior_mean": p.mean().item(),
        "prior_variance": p.var().item(),
        "distance": aggregate.distances[k].item(),
    }


def _header(run: Run, config: DiagnoseOptions, count: int) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "checkpoint": config.checkpoint,
        "samples_seen": run.samples_seen,
        "data": run.data.name,
        "split": config.split,
        "count": count,
        "binarize": run.data.binarize,
        "latent_dim": run.config.latent_dim,
        "seed": config.seed,
        "unit": "nats per datum",
    }


def table(told: dict[str, Any], title: str) -> str:
    """Aligned lines for a reader, of what :func:`numbers` made and a header."""
    lines = [
        f"{title}, {told['checkpoint']}.pt",
        f"{told['count']:,} {told['split']} data; nats per datum",
        f"{'':<42}{'mean':>10}{'s.e.':>9}",
        _row("KL(q(z|x) || p(z))", told["kl"]),
        _row("  mutual information I(x; z)", told["mutual_information"], _ceiling(told)),
        _row("  KL(q(z) || p(z))", told["marginal_kl"]),
        _row("log p(x|z) less that with others' z", told["decoder_use"]),
        *_gap_rows(told["gaps"]),
        f"active units: {told['active_units']} of {told['latent_dim']}",
        "",
        *_dimension_rows(told["dimensions"]),
    ]
    lines += ["", *(f"note: {note}" for note in told["notes"])] if told["notes"] else []
    lines += ["", *(f"warning: {warning}" for warning in told["warnings"] or ["none"])]
    return "\n".join(lines)


def _ceiling(told: dict[str, Any]) -> str:
    return f"at most log N = {told['mutual_information_ceiling']:.2f}"


def _gap_rows(gaps: dict[str, Any] | None) -> list[str]:
    if gaps is None:
        return []
    names = {
        "bound": "bound",
        "amortisation": "  + amortisation gap",
        "optimised_bound": "bound, q optimised for each datum",
        "approximation": "  + approximation gap",
        "log_likelihood": "log p(x), annealed importance sampling",
    }
    rows = [_row(label, gaps[key], f"Monte Carlo ± {gaps[key]['monte_carlo_se']:.3f}") for key, label in names.items()]
    return [f"the first {gaps['count']} of them:", *rows]


def _row(label: str, number: dict[str, float] | None, extra: str = "") -> str:
    if number is None:
        return f"{label:<42}{'not known':>10}"
    value = Mean(number["mean"], number["se"])
    return f"{label:<42}{value.mean:>10.2f}{value.se:>9.2f}" + (f"   ({extra})" if extra else "")


def _dimension_rows(dimensions: list[dict[str, Any]]) -> list[str]:
    """A line for each dimension, that with the largest KL first."""
    rows = sorted(dimensions, key=lambda d: -(d["kl"] or {"mean": d["activity"]})["mean"])
    lines = [f"{'dimension':>9}{'KL':>9}{'s.e.':>7}{'active':>8}{'mean of q(z)':>14}{'variance':>10}{'distance':>10}"]
    for d in rows:
        kl = f"{d['kl']['mean']:>9.3f}{d['kl']['se']:>7.3f}" if d["kl"] else f"{'-':>9}{'-':>7}"
        lines.append(
            f"{d['dimension']:>9}{kl}{'yes' if d['active'] else 'no':>8}{d['aggregate_mean']:>14.3f}"
            f"{d['aggregate_variance']:>10.3f}{d['distance']:>10.3f}"
        )
    return lines
