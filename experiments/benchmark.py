"""What a training step costs: ``python experiments/benchmark.py`` (``make bench``), about 25 minutes on two cores.

Every contestant, in a process of its own, trains the same variational auto-encoder (Bernoulli likelihood, tanh, Adam)
on the same binary data in memory, one at a time. Rounds are interleaved, a contestant's number is the median over
rounds, and only ratios within one run mean anything: these machines are noisy. Results are in
``experiments/benchmark/``: JSON, a table, charts; with ``--device cuda``, of the steps alone, in its folder ``cuda``.
"""

import argparse
import json
import multiprocessing
import multiprocessing.dummy
import resource
import statistics
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
from shared.contestants import CONTESTANTS, Shape, Step  # the file beside this one
from shared.results import provenance, write

from pyro_aevb.plots import save
from pyro_aevb.plots.style import COLORS, SMALL, WIDEST, blank, entitle, in_style, mark, panels_of, plain_numbers

FOLDER = Path(__file__).parent / "benchmark"

SHAPES = {
    "784-500-20": Shape(784, (500,), 20),
    "784-100-3": Shape(784, (100,), 3),
    "560-200-10": Shape(560, (200,), 10),
    "784-1000-1000-50": Shape(784, (1000, 1000), 50),
}
BATCHES = (100, 1000)
LEAST = 50  # steps a round: Trainer.run begins with a comparison that costs about as much as one step
REFERENCE = "pyro.infer.SVI, Trace_ELBO"
OURS = "captured engine"

# How step time grows: one quantity varied at a time around 784-500-20, M=100, one particle.
GROWTH = {
    "batch size": [(m, Shape(784, (500,), 20), m, 1) for m in (10, 30, 100, 300, 1000)],
    "hidden units": [(h, Shape(784, (h,), 20), 100, 1) for h in (50, 100, 200, 500, 1000)],
    "latents": [(k, Shape(784, (500,), k), 100, 1) for k in (2, 5, 20, 50, 200)],
    "particles": [(s, Shape(784, (500,), 20), 100, s) for s in (1, 2, 5, 10)],
}
GROWTH_CONTESTANTS = (REFERENCE, "eager engine", OURS)
# What a contestant is called in tables and charts, where its name in the results is short.
SHOWN = {
    "matrix products alone": "the step's matrix products alone",
    "captured engine, neither data nor reports": "captured engine, without minibatches and reports",
    "captured engine, binarising": "captured engine, binarising each minibatch",
    "NumPyro, fori_loop": "NumPyro, all steps in one fori_loop",
    "sgvb.py, torch.compile": "PyTorch by hand, torch.compile",
    "sgvb.py, eager, fused Adam": "PyTorch by hand, eager, fused Adam",
    "sgvb.py, eager, our matrix products": "PyTorch by hand, with the captured engine's matrix products",
    "pytorch/examples style": "PyTorch as in pytorch/examples, with a DataLoader",
    "JitTrace_ELBO": "pyro.infer.SVI, JitTrace_ELBO",
    "SVI, validation off": "pyro.infer.SVI, Trace_ELBO, validation off",
    "SVI, our matrix products": "pyro.infer.SVI, with the captured engine's matrix products",
}
SMOKE = ("matrix products alone", OURS, "sgvb.py, eager, fused Adam", REFERENCE)


class Worker:
    """A contestant in a process of its own, where no other's threads, caches or heap can slow it; idle until asked.

    In one process with all others the captured engine took 74 ms at 784-1000-1000-50, M=1000, alone 53. Where no number
    counts (``apart=False``) it is a thread, which need not load torch anew.
    """

    def __init__(self, name: str, apart: bool = True) -> None:
        context = multiprocessing.get_context("spawn") if apart else multiprocessing.dummy
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs))
        self.process.daemon = not apart
        self.process.start()
        theirs.close()  # so that it sees the end of this process

    def prepare(self, shape: Shape, batch_size: int, particles: int) -> float:
        """Seconds until the first step was done, compiling included."""
        return self._ask((shape, batch_size, particles))

    def seconds(self, steps: int) -> float:
        """Seconds that so many steps take."""
        return self._ask(steps)

    def _ask(self, question: object) -> float:
        self.pipe.send(question)
        return self.pipe.recv()


def serve(name: str, pipe: Connection) -> None:
    """Answer a :class:`Worker`, in its process: make the contestant anew, or take steps."""
    step: Step | None = None
    with suppress(EOFError):  # the pipe's other end is gone
        while question := pipe.recv():
            start = time.perf_counter()
            if isinstance(question, int):
                step(question)
            else:
                step = None  # its memory is free before the next one's is taken
                step = CONTESTANTS[name](*question)
                step(1)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            pipe.send(time.perf_counter() - start)


def interleaved(workers: dict[str, Worker], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds a step of each contestant in each round; a round gives each about ``seconds``."""
    counts = {}
    for name, worker in workers.items():
        worker.seconds(5)  # warm
        counts[name] = max(LEAST if seconds > 0.1 else 3, int(seconds / (worker.seconds(5) / 5)))
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            times[name].append(worker.seconds(counts[name]) / counts[name] * 1e3)
    return times


def measure(shape: Shape, batch_size: int, workers: dict[str, Worker], rounds: int, seconds: float) -> dict:
    """Median milliseconds, ratios to the reference, seconds to the first step, steps to break even with it."""
    names = list(workers)
    first = {name: worker.prepare(shape, batch_size, 1) for name, worker in workers.items()}
    times = interleaved(workers, rounds, seconds)
    median = {name: statistics.median(t) for name, t in times.items()}
    row = {}
    for name in names:
        saved = median[REFERENCE] - median[name]
        delay = 1e3 * (first[name] - first[REFERENCE])
        row[name] = {
            "ms": median[name],
            "rounds": times[name],
            "ratio": statistics.median(a / b for a, b in zip(times[name], times[REFERENCE], strict=True)),
            "first_step_s": first[name],
            "break_even_steps": None if saved <= 0 else max(0, round(delay / saved)),
        }
    return row


def measure_growth(workers: dict[str, Worker], rounds: int, seconds: float) -> dict:
    """Milliseconds of a few contestants as one quantity grows."""
    workers = {name: workers[name] for name in GROWTH_CONTESTANTS}
    grown: dict[str, dict] = {}
    for quantity, cases in GROWTH.items():
        grown[quantity] = {name: [] for name in GROWTH_CONTESTANTS} | {"values": [case[0] for case in cases]}
        for _, shape, batch_size, particles in cases:
            for worker in workers.values():
                worker.prepare(shape, batch_size, particles)
            for name, times in interleaved(workers, rounds, seconds).items():
                grown[quantity][name].append(statistics.median(times))
    return grown


def measure_memory(name: str, steps: tuple[int, int] = (2_000, 20_000)) -> dict:
    """Peak and resident memory of one contestant in a process of its own, MiB, after some steps and after many."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import benchmark; "
        f"benchmark.print_memory({name!r}, {steps!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_memory(name: str, steps: tuple[int, int]) -> None:
    """In a process of its own: take the steps, print what is resident."""
    step = CONTESTANTS[name](SHAPES["784-500-20"], 100, 1)
    step(steps[0])
    some = resident()
    step(steps[1] - steps[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"some": some, "many": resident(), "peak": peak, "ratio": resident() / some}))


def resident() -> float:
    """Resident memory of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


# ---------------------------------------------------------------- table and charts


def table(results: dict) -> str:
    """Markdown: a row for each contestant, a column for each size; milliseconds a step, and the ratio to SVI."""
    keys = list(results["steps"])
    lines = [
        "| milliseconds a step (divided by those of pyro.infer.SVI, Trace_ELBO) | " + " | ".join(keys) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]
    for name in results["contestants"]:
        cells = (results["steps"][key][name] for key in keys)
        lines.append(
            f"| {SHOWN.get(name, name)} | " + " | ".join(f"{c['ms']:.2f} ({c['ratio']:.2f})" for c in cells) + " |"
        )
    return "\n".join(lines) + "\n"


@in_style
def draw_bars(results: dict) -> Figure:
    """Milliseconds a step at the first size, a bar for each contestant."""
    key = next(iter(results["steps"]))
    row = results["steps"][key]
    names = sorted(row, key=lambda name: row[name]["ms"], reverse=True)
    figure, axes = blank(WIDEST, 0.34 * len(names) + 1.3)
    shown = [textwrap.fill(SHOWN.get(name, name), 36) for name in names]
    bars = axes.barh(shown, [row[n]["ms"] for n in names], color=[COLORS[n == OURS] for n in names])
    axes.bar_label(bars, [f"{row[n]['ms']:.2f}" for n in names], padding=3, fontsize=SMALL)
    axes.set(xlabel="milliseconds a step, median over rounds", xlim=(0, 1.1 * max(row[n]["ms"] for n in names)))
    network, _, batch = key.partition(", M=")
    entitle(figure, f"network {network}, minibatches of {batch}, {results['device']}; vermilion: {OURS}", WIDEST)
    return figure


@in_style
def draw_growth(results: dict) -> Figure:
    """Milliseconds as batch size, hidden units, latents and particles grow."""
    figure = Figure(figsize=(WIDEST, 5.6), layout="constrained")
    for axes, (quantity, rows) in zip(panels_of(figure, 2, 2), results["growth"].items(), strict=True):
        for place, name in enumerate(GROWTH_CONTESTANTS):
            axes.loglog(rows["values"], rows[name], label=name, **mark(place))
        axes.set(xlabel=quantity, ylabel="milliseconds a step")
        axes.set_xticks(rows["values"], map(str, rows["values"]))
        axes.set_xticks([], minor=True)
        plain_numbers(axes.yaxis)
        axes.grid()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def keep(results: dict, folder: Path) -> None:
    """Write JSON, table and charts."""
    write(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write(folder / "table.md", table(results))
    draw(results, folder)


def draw(results: dict, folder: Path) -> None:
    """Charts of what was measured."""
    save(draw_bars(results), folder / "steps.png")
    if results["growth"]:
        save(draw_growth(results), folder / "growth.png")


def run(options: argparse.Namespace) -> dict:
    """Take all measurements; the results as they are kept in JSON."""
    names = [name for name in (SMOKE if options.smoke else CONTESTANTS) if name not in options.without]
    workers = {name: Worker(name, apart=not options.smoke) for name in names}
    shapes = {key: replace(SHAPES[key], device=options.device) for key in options.shapes}
    started = time.perf_counter()
    results: dict = {"contestants": names, "steps": {}, "memory": {}, "growth": {}}
    for key, shape in shapes.items():
        for batch_size in options.batches:
            row = measure(shape, batch_size, workers, options.rounds, options.seconds)
            results["steps"][f"{key}, M={batch_size}"] = row
            print(f"{key}, M={batch_size}:", {n: round(row[n]["ms"], 2) for n in names}, flush=True)
    if not options.smoke and options.device == "cpu":
        results["memory"] = {name: measure_memory(name) for name in (REFERENCE, "eager engine", OURS)}
        results["growth"] = measure_growth(workers, max(3, options.rounds // 3), options.seconds)
    return results | provenance(device=options.device, minutes=round((time.perf_counter() - started) / 60, 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each contestant in each round")
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", nargs="*", default=[*SHAPES], choices=[*SHAPES])
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES)
    parser.add_argument("--smoke", action="store_true", help="one small size, one short round in one process")
    parser.add_argument("--redraw", action="store_true", help="charts from the results there")
    chosen = parser.parse_args()
    if chosen.redraw:
        for kept in (FOLDER, FOLDER / "cuda"):
            draw(json.loads((kept / "results.json").read_text()), kept)
        raise SystemExit
    if chosen.smoke:
        chosen.rounds = 1
        chosen.seconds = 0.02
        chosen.shapes = ["784-100-3"]
        chosen.batches = [100]
    measured = run(chosen)
    print(table(measured))
    if not chosen.smoke and (chosen.device != "cpu" or set(chosen.shapes) == set(SHAPES)):
        keep(measured, FOLDER if chosen.device == "cpu" else FOLDER / torch.device(chosen.device).type)
