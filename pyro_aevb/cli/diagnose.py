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
from pyro_aevb.cli.options import COLUMNS, RunOptions, check_count, header_of, opened, place_of, row
from pyro_aevb.diagnostics import AggregatePosterior, Diagnostics, mean_of
from pyro_aevb.errors import InputError
from pyro_aevb.files import replaced
from pyro_aevb.plots.diagnostics import draw_diagnostics
from pyro_aevb.plots.style import DPI
from pyro_aevb.runs.parser import FLAG, read_options
from pyro_aevb.runs.run import Run

__all__ = ["DiagnoseOptions", "diagnose", "numbers", "table", "write"]


FILES = ("diagnostics.json", "diagnostics.png")


@dataclass(frozen=True)
class DiagnoseOptions(RunOptions):
    """Diagnose a saved run: KL by latent dimension, the aggregate posterior, gaps of the bound, signs of collapse.

    Arguments:
        count: Number of data, the first ones.
        gap_count: Number of them, the first ones, that the gaps of the bound are measured on; 0 leaves the gaps out.
        ais_steps: Steps of annealed importance sampling, which estimates the log p(x) of the gaps.
        split: Which of the run's data sets to look at.
        out: Folder for diagnostics.json and diagnostics.png, which it must not have yet; by default the run's folder
            and its figures, where they replace those of an earlier call.
        json: Print JSON instead of a table.
    """

    count: int = 1000
    gap_count: int = 100
    ais_steps: int = 200
    split: Literal["test", "train"] = "test"
    out: str | None = None
    json: bool = field(default=False, metadata=FLAG)


def diagnose(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb diagnose``.

    Raises:
        InputError: If an option does not fit.
    """
    config = read_options(DiagnoseOptions, "diagnose", arguments)
    check_count("count", config.count, least=2)
    check_count("ais_steps", config.ais_steps)
    if config.gap_count < 0 or config.gap_count == 1:
        raise InputError("--gap_count must be 0, or at least 2 for a standard error")
    out = place_of(config.out, FILES)
    run = opened(config)
    rows = run.data.rows(config.split).first(config.count)
    x = rows.arguments
    gap_count = min(config.gap_count, len(rows.x))
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
    told = {**header_of(run, config, config.split, len(rows.x)), **numbers(found)}
    print(json_format.dumps(told, indent=2) if config.json else table(told, run.title))
    written = write(told, found, run, out)
    if not config.json:
        print("\n".join(map(str, written)))


def write(told: dict[str, Any], found: Diagnostics, run: Run, out: Path | None) -> list[Path]:
    """``diagnostics.json`` and ``diagnostics.png``, in the user's folder or in the run's own; returns their paths."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    numbers_path = (out or run.path) / FILES[0]
    picture = run.folder.figure("diagnostics") if out is None else out / FILES[1]
    with replaced(numbers_path) as file:
        file.write((json_format.dumps(told, indent=2) + "\n").encode())
    with replaced(picture) as file:
        draw_diagnostics(found, run.title).savefig(file, dpi=DPI, format="png")
    return [numbers_path, picture]


def numbers(found: Diagnostics) -> dict[str, Any]:
    """Everything in plain numbers, means with standard errors over data, in nats per datum; dimensions from 0 on."""
    kl = found.kl
    aggregate = found.aggregate
    return {
        "kl": mean_of(kl.total)._asdict(),
        "active_units": int(kl.active.sum()),
        "mutual_information": None if aggregate is None else _told(aggregate.mutual_information),
        "mutual_information_ceiling": None if aggregate is None else aggregate.ceiling,
        "marginal_kl": None if aggregate is None else _told(aggregate.marginal_kl),
        "decoder_use": _told(found.decoder_use),
        "gaps": _gaps(found),
        "dimensions": [_dimension(found, k) for k in range(len(kl.active))],
        "notes": found.notes,
        "warnings": found.warnings,
    }


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
        "log_px": (gaps.log_likelihood, gaps.log_likelihood_error),
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
    return {
        "dimension": k,
        "name": kl.dimensions[k],
        "kl": None if kl.per_dimension is None else mean_of(kl.per_dimension[:, k])._asdict(),
        "activity": kl.activity[k].item(),
        "active": bool(kl.active[k]),
        **_of_aggregate(found.aggregate, k),
    }


def _of_aggregate(aggregate: AggregatePosterior | None, k: int) -> dict[str, float]:
    """A dimension of the aggregate posterior beside the prior; nothing where the prior is another for each datum."""
    if aggregate is None:
        return {}
    q = aggregate.draws[:, k].double()
    p = aggregate.prior_draws[:, k].double()
    return {
        "aggregate_mean": q.mean().item(),
        "aggregate_variance": q.var().item(),
        "prior_mean": p.mean().item(),
        "prior_variance": p.var().item(),
        "distance": aggregate.distances[k].item(),
    }


def table(told: dict[str, Any], title: str) -> str:
    """Aligned lines for a reader, of what :func:`numbers` made and a header."""
    lines = [
        f"{title}, {told['checkpoint']}.pt",
        f"{told['count']:,} {told['split']} data; nats per datum; s.e.: standard error over data",
        COLUMNS,
        row("KL(q(z|x) || p(z))", told["kl"]),
        row("  mutual information I(x; z)", told["mutual_information"], _ceiling(told)),
        row("  KL(q(z) || p(z))", told["marginal_kl"]),
        row("log p(x|z) lost with another datum's z", told["decoder_use"]),
        *_gap_rows(told["gaps"]),
        f"active units: {told['active_units']} of {told['latent_dim']}",
        "",
        *_dimension_rows(told["dimensions"]),
    ]
    lines += ["", *(f"note: {note}" for note in told["notes"])] if told["notes"] else []
    lines += ["", *(f"warning: {warning}" for warning in told["warnings"] or ["none"])]
    return "\n".join(lines)


def _ceiling(told: dict[str, Any]) -> str:
    if told["mutual_information_ceiling"] is None:
        return ""
    return f"at most log N = {told['mutual_information_ceiling']:.2f}"


def _gap_rows(gaps: dict[str, Any] | None) -> list[str]:
    if gaps is None:
        return []
    names = {
        "bound": "bound",
        "amortisation": "  + amortisation gap",
        "optimised_bound": "bound, q optimised for each datum",
        "approximation": "  + approximation gap",
        "log_px": "log p(x), AIS (annealed importance sampling)",
    }
    return [f"the first {gaps['count']} of them:", *(row(label, gaps[key]) for key, label in names.items())]


def _dimension_rows(dimensions: list[dict[str, Any]]) -> list[str]:
    """A line for each dimension, that with the largest KL first."""
    rows = sorted(dimensions, key=lambda d: -(d["kl"] or {"mean": d["activity"]})["mean"])
    width = max(9, *(len(d["name"]) for d in rows))
    heads = f"{'KL':>9}{'s.e.':>7}{'active':>8}{'mean of q(z)':>14}{'variance':>10}{'KS distance':>13}"
    lines = [f"{'dimension':>{width}}{heads}"]
    if "distance" not in dimensions[0]:
        lines = [lines[0][: lines[0].index("active") + len("active")]]
    for d in rows:
        kl = f"{d['kl']['mean']:>9.3f}{d['kl']['se']:>7.3f}" if d["kl"] else f"{'-':>9}{'-':>7}"
        line = f"{d['name']:>{width}}{kl}{'yes' if d['active'] else 'no':>8}"
        if "distance" in d:
            line += f"{d['aggregate_mean']:>14.3f}{d['aggregate_variance']:>10.3f}{d['distance']:>13.3f}"
        lines.append(line)
    return lines
