"""What a step costs each of several members, trained at once or apart: ``python experiments/members.py``, 8 minutes.

Four ways to train several seeds of one network on a machine's cores: one after another; in two processes side by side,
as the figures are made; as one ``Ensemble``; as two ensembles of half the members, side by side. Each way compiled, for
long trainings, and not, for short ones: the eager engine against an ensemble replayed operation by operation. The
figures' Adagrad and estimator B; random data, in memory. Rounds of all ways are interleaved, a hundred steps of each
member in a round; a number is the median over rounds of the time that passed, for each member and step, beside the
least. The processors' own time, of all threads, is less disturbed by other work on the machine. Results are in
``experiments/members/``: ``members.csv``, ``table.md``, ``settings.json``, written anew after each shape.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from shared.results import provenance, write_csv

import pyro_aevb as aevb
from pyro_aevb.training.ensemble import Ensemble

FOLDER = Path(__file__).parent / "members"
BATCH = 100
STEPS = 100  # of each member in a round
MEMBERS = (2, 4, 8)


@dataclass(frozen=True)
class Shape:
    """Data, hidden and latent dimensions, number of data and likelihood."""

    data_dim: int
    hidden: int
    latent_dim: int
    size: int
    likelihood: str = "Bernoulli"

    def __str__(self) -> str:
        """The sizes of the layers from data to latents, 784-100-3 say."""
        return f"{self.data_dim}-{self.hidden}-{self.latent_dim}"


SHAPES = (
    Shape(64, 200, 2, 1500),
    Shape(784, 100, 3, 60_000),
    Shape(560, 200, 2, 2000, "Gaussian"),
    Shape(784, 500, 20, 60_000),
)


def trainer(shape: Shape, seed: int, data: torch.Tensor, captured: bool) -> aevb.Trainer:
    """A trainer of one member, its seed that of weights and order."""
    dims = shape.latent_dim, shape.data_dim
    with aevb.seeded(seed):
        likelihood = getattr(aevb.likelihoods, shape.likelihood)(*dims, hidden=shape.hidden)
        guide = aevb.guides.DiagonalNormal(*reversed(dims), hidden=shape.hidden)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(shape.latent_dim), likelihood, shape.size)
    pair = model, aevb.RecognitionModel(guide, shape.size)
    optimizer = partial(aevb.optimizers.Adagrad, lr=0.02, weight_decay=1.0)
    options = {"engine": "captured" if captured else "eager", "device": "cpu", "report_every": STEPS * BATCH}
    return aevb.Trainer(*pair, data, aevb.estimators.SGVBAnalyticKL(), optimizer, BATCH, seed, **options)


def training(shape: Shape, members: int, compiled: bool) -> Iterator[object]:
    """A training that takes ``STEPS`` steps of each member whenever it is asked for the next report."""
    generator = torch.Generator().manual_seed(0)
    data = (torch.rand(shape.size, shape.data_dim, generator=generator) < 0.13).float()
    if members == 1:
        return trainer(shape, 0, data, compiled).run(10**12)
    each = [trainer(shape, seed, data, False) for seed in range(members)]
    return Ensemble(each, compiled=compiled).run(10**12)


def serve(pipe: Connection, threads: int) -> None:
    """In a process of its own: make a training, or take the steps of one; the seconds of its processor."""
    torch.set_num_threads(threads)
    trainings: dict[int, Iterator[object]] = {}
    with suppress(EOFError):  # the pipe's other end is gone
        while True:
            members, make = pipe.recv()
            if make is not None:
                trainings[members] = training(make[0], members, make[1])
            start = time.process_time()
            next(trainings[members])
            pipe.send(time.process_time() - start)


class Workers:
    """Processes side by side that share the machine's threads."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes = processes
        self.threads = max(1, torch.get_num_threads() // processes)
        self.pipes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, self.threads), daemon=True).start()
            self.pipes.append(ours)

    def take(self, members: int, make: tuple[Shape, bool] | None = None) -> tuple[float, float]:
        """Seconds that passed and seconds of processors, for ``STEPS`` steps of so many members in each process."""
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send((members, make))
        processor = sum(pipe.recv() for pipe in self.pipes)
        return time.perf_counter() - start, processor


def measure(shape: Shape, workers: list[Workers], members: tuple[int, ...], rounds: int, compiled: bool) -> list[dict]:
    """A row for each number of processes and of members in each."""
    ways = [(w, m // w.processes) for w in workers for m in sorted({w.processes, *members})]
    first = [w.take(m, (shape, compiled))[0] for w, m in ways]
    taken: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(rounds):
        for (w, m), times in zip(ways, taken, strict=True):
            times.append(w.take(m))
    about = {"shape": str(shape), "compiled": compiled}
    return [about | row(*way, times, start) for way, times, start in zip(ways, taken, first, strict=True)]


def row(workers: Workers, members: int, times: list[tuple[float, float]], first: float) -> dict:
    """Milliseconds for each member and step."""
    scale = 1e3 / (STEPS * members * workers.processes)
    passed, processor = zip(*times, strict=True)
    return {
        "processes": workers.processes,
        "threads": workers.threads,
        "members": members * workers.processes,
        "batched": members > 1,
        "ms": round(scale * statistics.median(passed), 4),
        "least_ms": round(scale * min(passed), 4),
        "processor_ms": round(scale * min(processor), 4),
        "first_s": round(first, 1),
    }


def table(rows: list[dict]) -> str:
    """Markdown: a row for each shape and number of members; median (least; least of processors) ms."""
    ways = {
        "one after another": (1, False),
        "two processes": (2, False),
        "one ensemble": (1, True),
        "two ensembles": (2, True),
    }
    lines = ["| ms a member and step | " + " | ".join(ways) + " |", "|---" * 5 + "|"]
    for shape, compiled, members in dict.fromkeys((r["shape"], r["compiled"], r["members"]) for r in rows):
        alike = [r for r in rows if (r["shape"], r["compiled"]) == (shape, compiled)]
        cells = {
            (r["processes"], r["batched"]): f"{r['ms']:.2f} ({r['least_ms']:.2f}; {r['processor_ms']:.2f})"
            for r in alike
            if r["members"] == members or not r["batched"]
        }
        if members > 1:
            how = "compiled" if compiled else "not compiled"
            lines.append(f"| {shape}, {how}, {members} | " + " | ".join(cells.get(w, "") for w in ways.values()) + " |")
    return "\n".join(lines) + "\n"


def keep(rows: list[dict], rounds: int, folder: Path) -> None:
    """Write the rows, the table, and where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "members.csv", rows)
    (folder / "table.md").write_text(table(rows))
    about = provenance(batch_size=BATCH, steps_a_round=STEPS, rounds=rounds, load_average=os.getloadavg())
    (folder / "settings.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", help="shapes, such as 784-100-3; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are kept")
    parser.add_argument("--smoke", action="store_true", help="two members, one short round, nothing compiled or kept")
    chosen = parser.parse_args()
    workers = [Workers(processes) for processes in (1, 2)]
    if chosen.smoke:
        SHAPES = (Shape(16, 4, 2, 200),)
        MEMBERS = (2,)
        chosen.rounds = 1
    rows: list[dict] = []
    for shape in SHAPES:
        if not chosen.only or str(shape) in chosen.only:
            for compiled in (False,) if chosen.smoke else (True, False):
                rows += measure(shape, workers, MEMBERS, chosen.rounds, compiled)
            print(table(rows), flush=True)
            if not chosen.smoke:
                keep(rows, chosen.rounds, chosen.folder)
    print(len(rows), "ways measured")
