"""Programs that others wrote, through everything: ``python experiments/clients.py``, 15 minutes.

Each program of ``shared/programs.py``, Pyro's examples and tutorials in their essential lines, is tried on every
estimator and every evaluator, eagerly and recorded. A cell is a number, ``yes``, ``equal``, or the refusal in its own
words; anything else that was raised is a ``CRASH``, and makes the script fail. Results are in ``experiments/clients/``:
``table.md`` and ``cells.json``.
"""

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer import Trace_ELBO as PyrosTraceELBO
from shared.programs import PROGRAMS, Program
from shared.results import note, provenance, write
from torch import Tensor

import pyro_aevb as aevb
from pyro_aevb import diagnostics, estimators, evidence

FOLDER = Path(__file__).parent / "clients"
EQUAL = 1e-4  # relative, of a loss or a gradient in float32 at one noise: rounding is a thousandth of it
MULTI = ("IWAE", "StickingTheLanding", "DoublyReparameterized", "Renyi", "VIMCO", "ScoreFunction", "WakeSleep")

Cell = str


def main() -> None:
    """Try them all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PROGRAMS), help="names of programs")
    parser.add_argument("--steps", type=int, default=200, help="training steps of a timing")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="two programs, a few steps, results in the current folder")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.only = ["vae", "gmm"]
        chosen.steps = 10
        chosen.results = Path("clients")
    warnings.simplefilter("ignore")
    kept = chosen.results / "cells.json"  # rows of programs that are not tried stay
    cells = json.loads(kept.read_text()) if kept.exists() else {}
    for name in chosen.only:
        cells[name] = dict(tried(PROGRAMS[name], chosen.steps))
        print(f"{name}: " + "; ".join(f"{column} {cell}" for column, cell in cells[name].items()), flush=True)
    cells = {name: cells[name] for name in PROGRAMS if name in cells}
    write(kept, json.dumps(cells, indent=1) + "\n")
    write(chosen.results / "table.md", "\n".join(lines(cells)) + "\n")
    note(chosen.results / "settings.json", clients=provenance(1, steps=chosen.steps))
    print(f"{len(cells)} programs tried")
    if crashes := [f"{n}, {c}" for n, row in cells.items() for c, cell in row.items() if cell.startswith("CRASH")]:
        sys.exit(f"{len(crashes)} crashes: {'; '.join(crashes)}")


def tried(make: Callable[[], Program], steps: int) -> Iterator[tuple[str, Cell]]:
    """A program's cells, by column."""
    yield "SGVB", outcome(make, partial(same, ours=estimators.SGVB, theirs=PyrosTraceELBO))
    yield "downstream", outcome(make, partial(same, ours=Downstream, theirs=TraceGraph_ELBO))
    yield "analytic KL", outcome(make, partial(same, ours=estimators.SGVBAnalyticKL, theirs=TraceMeanField_ELBO))
    for name in MULTI:
        yield name, outcome(make, partial(finite, name=name))
    yield "eager", outcome(make, partial(trains, engine="eager"))
    yield "captured", outcome(make, partial(trains, engine="captured"))
    yield "captured / SVI", outcome(make, partial(ratio, steps=steps))
    yield "importance", outcome(make, importance)
    yield "bound", outcome(make, bound)
    yield "diagnose", outcome(make, diagnose)


class Downstream(estimators.SGVB):
    """``SGVB(downstream=True)``."""

    def __init__(self, num_particles: int = 1, **elbo_arguments: Any) -> None:
        super().__init__(num_particles, downstream=True, **elbo_arguments)


def outcome(make: Callable[[], Program], cell: Callable[[Program], Cell]) -> Cell:
    """A cell, or the refusal, or the crash, in one line; on a program made anew, in a parameter store of its own."""
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        try:
            return cell(make())
        except aevb.InputError as error:
            return f"refused: {error}"
        except Exception as error:
            return f"CRASH {type(error).__name__}: {' '.join(str(error).split())[:200]}"


HERE = f"{Path(__file__).parent}/"


# ---------------------------------------------------------------- estimators


def same(program: Program, ours: Callable[..., Any], theirs: Callable[..., Any]) -> Cell:
    """Whether loss and all gradients are those of Pyro's estimator at one noise."""
    program.guide(*program.data)  # an AutoGuide is made by its first run
    found = []
    for make in (ours, theirs):
        pyro.set_rng_seed(1)
        try:
            loss = make().loss_and_grads(program.model, program.guide, *program.data)
        except Exception as error:
            if make is ours:
                raise
            return f"yes; Pyro's raises {type(error).__name__}"
        parameters = dict(pyro.get_param_store().named_parameters())
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        found.append({"loss": torch.tensor(loss), **gradients})
        for parameter in parameters.values():
            parameter.grad = None
    own, pyros = found
    if own.keys() - pyros.keys() and theirs is PyrosTraceELBO:  # a baseline's, which Trace_ELBO does not know
        return f"{same(program, ours, TraceGraph_ELBO)} to TraceGraph_ELBO"
    apart = max(distance(own[name], pyros[name]) for name in own.keys() & pyros.keys())
    return "equal" if own.keys() == pyros.keys() and apart < EQUAL else f"apart by {apart:.2g}"


def distance(a: Tensor, b: Tensor) -> float:
    """Of two tensors, relative to the larger."""
    return float((a - b).norm() / max(float(a.norm()), float(b.norm()), 1e-6))


def finite(program: Program, name: str) -> Cell:
    """An estimator's loss and gradients for three samples, or as many as it needs."""
    estimator = getattr(estimators, name)(3)
    program.guide(*program.data)  # an AutoGuide is made by its first run
    loss = estimator.loss_and_grads(program.model, program.guide, *program.data)
    gradients = [p.grad for _, p in pyro.get_param_store().named_parameters() if p.grad is not None]
    right = torch.tensor(loss).isfinite() and gradients and all(g.isfinite().all() for g in gradients)
    return "yes" if right else "not finite"


# ---------------------------------------------------------------- training


def trainer_of(program: Program, engine: str) -> aevb.Trainer:
    """Adam, minibatches as the program takes them."""
    data: Any = program.data if len(program.data) > 1 else program.data[0]
    adam = partial(torch.optim.Adam, lr=1e-3)
    how = {"optimizer": adam, "batch_size": program.batch_size, "engine": engine, "device": "cpu"}
    return aevb.Trainer(program.model, program.guide, data, seed=0, report_every=10 * program.batch_size, **how)


@contextmanager
def told() -> Iterator[list[str]]:
    """What the engines log."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("pyro_aevb")
    handler = Kept()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def trains(program: Program, engine: str) -> Cell:
    """Thirty steps; whether they were recorded, or why not."""
    trainer = trainer_of(program, engine)
    with told() as said:
        *_, last = trainer.run(30 * program.batch_size)
    eagerly = [line for line in said if "runs eagerly" in line]
    if eagerly:
        return f"eagerly: {eagerly[0].replace(HERE, '')}"
    return f"yes ({last.bound:.4g} nats per datum)" if torch.tensor(last.bound).isfinite() else "not finite"


def ratio(program: Program, steps: int) -> Cell:
    """Time of a captured step over that of ``SVI``'s, medians of five rounds, interleaved."""
    trainer = trainer_of(program, "captured")
    size = program.batch_size
    list(trainer.run(20 * size))
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-3}), PyrosTraceELBO())
    batch = tuple(part[:size] for part in program.data)
    ratios = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(steps // 5):
            svi.step(*batch)
        between = time.perf_counter()
        list(trainer.run(steps // 5 * size))
        ratios.append((time.perf_counter() - between) / (between - started))
    return f"{statistics.median(ratios):.2f}"


# ---------------------------------------------------------------- evidence and diagnosis


def evaluated(program: Program) -> Any:
    """The data, of a pair that has been run once."""
    program.guide(*program.data)
    return program.data if len(program.data) > 1 else program.data[0]


def importance(program: Program) -> Cell:
    """log p(x) by importance sampling, the mean over data or that of all."""
    data = evaluated(program)
    found = evidence.importance_sampling(program.model, program.guide, data, 50)
    of = "data" if len(found) > 1 else "all together"
    return f"{float(found.sum()) / len(program.data[0]):.4g} ({of})"


def bound(program: Program) -> Cell:
    """The evidence lower bound."""
    found = evidence.bound(program.model, program.guide, evaluated(program), 20).bound
    return f"{float(found.sum()) / len(program.data[0]):.4g}"


def diagnose(program: Program) -> Cell:
    """The whole diagnosis."""
    diagnostics.diagnose(program.model, program.guide, evaluated(program))
    return "yes"


# ---------------------------------------------------------------- the table


def lines(cells: dict[str, dict[str, Cell]]) -> Iterator[str]:
    """A row for each program; what is refused, or not recorded, is numbered and told below."""
    columns = list(next(iter(cells.values())))
    reasons: dict[str, int] = {}
    yield f"| program | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in cells.items():
        yield f"| {name} | {' | '.join(short(row[column], reasons) for column in columns)} |"
    yield ""
    for reason, number in reasons.items():
        yield f"{number}. {reason}"


def short(cell: Cell, reasons: dict[str, int]) -> Cell:
    """A cell, with the number of its reason in place of the reason."""
    for kind in ("refused", "eagerly"):
        if cell.startswith(f"{kind}: "):
            return f"{kind} ({reasons.setdefault(cell.removeprefix(f'{kind}: '), len(reasons) + 1)})"
    return cell


if __name__ == "__main__":
    main()
