"""What a training on a mapped file takes of memory and time: ``python experiments/larger_than_memory.py``, 15 minutes.

Memory: a process of its own for each file of 784 float32 a row, from 20 MB to 6 GB, made in the folder ``--files`` and
deleted afterwards. It says how long ``Trainer`` takes to begin, which reads the file once, and the anonymous memory of
the process then and while it trains (RssAnon of ``/proc/self/status``, looked at every 2 ms; the mapped file is not in
it). In memory: the same with the data as a tensor, whose own size is told apart.

Speed: 784-500-20, M=100, on one thread, from a warm page cache. Rounds of all ways are interleaved, fifty steps of
each in a round; told is the speed relative to that with the same data in memory: the median over rounds of the ratio
of times, and the ratio of the least times, which other work on the machine disturbs less. Results are in
``experiments/larger_than_memory/``: ``table.md``, ``settings.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from shared.results import note, provenance, write

import pyro_aevb as aevb
from pyro_aevb.data.streamed import Streamed

FOLDER = Path(__file__).parent / "larger_than_memory"
ROWS = 2_000_000
DATA_DIM = 784
BATCH = 100
STEPS = 50  # in a round
WAYS = ("in memory", "mapped", "streamed, no workers", "streamed, 2 workers")
HEADS = "| rows | data, MB | way | begin, s | begin, RssAnon MB | training, RssAnon MB |\n|---|---|---|---|---|---|"


def written(folder: Path, rows: int) -> Path:
    """A file of so many rows of zeros and ones, made a part at a time."""
    path = folder / f"{rows}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DATA_DIM))
    for start in range(0, rows, 20_000):
        part = array[start : start + 20_000]
        part[:] = np.random.default_rng(start).random(part.shape, dtype=np.float32) < 0.13
    array.flush()
    return path


def data_of(path: Path, way: str) -> object:
    """The file's rows, as a way takes them."""
    array = np.load(path, mmap_mode="r")
    made = {
        "in memory": lambda: torch.from_numpy(np.array(array)),
        "mapped": lambda: array,
        "streamed, no workers": lambda: Streamed(array, workers=0),
        "streamed, 2 workers": lambda: Streamed(array, workers=2),
    }
    return made[way]()


def trainer(data: object, size: int, engine: str) -> aevb.Trainer:
    """784-500-20."""
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(20, DATA_DIM, hidden=[500])
        guide = aevb.guides.DiagonalNormal(DATA_DIM, 20, hidden=[500])
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(20), likelihood, size)
    pair = model, aevb.RecognitionModel(guide, size)
    return aevb.Trainer(*pair, data, batch_size=BATCH, engine=engine, device="cpu", report_every=STEPS * BATCH)


# ---------------------------------------------------------------- memory


def anonymous() -> float:
    """Memory of this process that no file is behind, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


@contextmanager
def peak() -> Iterator[list[float]]:
    """The most anonymous memory while a block runs, MB, as the list's one entry."""
    found = [anonymous()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            found[0] = max(found[0], anonymous())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def child(path: Path, way: str, steps: int) -> None:
    """In a process of its own: begin, train, and print what that took as JSON."""
    for _ in trainer(torch.zeros(BATCH, DATA_DIM), BATCH, "eager").run(2 * BATCH):
        pass  # what libraries take once is not the data's
    data = data_of(path, way)
    before = anonymous()
    start = time.perf_counter()
    with peak() as beginning:
        made = trainer(data, len(data), "eager")
    seconds = time.perf_counter() - start
    with peak() as training:
        for _ in made.run(steps * BATCH):
            pass
    row = {"seconds": seconds, "begin": beginning[0] - before, "training": training[0] - before}
    print(json.dumps(row))


def memory(folder: Path, ways: list[tuple[int, str]], steps: int) -> list[str]:
    """Lines of a table: a file's rows and a way."""
    lines = [HEADS]
    for rows, way in ways:
        path = folder / f"{rows}.npy"
        path = path if path.exists() else written(folder, rows)
        command = [sys.executable, __file__, "--child", str(path), way, str(steps)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        size = rows * DATA_DIM * 4 / 1e6
        told = f"{row['seconds']:.1f} | {row['begin']:.0f} | {row['training']:.0f}"
        lines.append(f"| {rows:,} | {size:.0f} | {way} | {told} |")
        print(lines[-1], flush=True)
    return lines


# ---------------------------------------------------------------- speed


def speed(path: Path, rows: int, engines: tuple[str, ...], rounds: int) -> list[str]:
    """Lines of a table: an engine and a way."""
    lines = ["| engine | way | ms a step, least | speed, median | speed, of least times |", "|---|---|---|---|---|"]
    for engine in engines:
        runs = {way: trainer(data_of(path, way), rows, engine).run(10**12) for way in WAYS}
        for run in runs.values():
            next(run)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, run in runs.items():
                start = time.perf_counter()
                next(run)
                times[way].append((time.perf_counter() - start) / STEPS * 1000)
        for run in runs.values():
            run.close()
        own = times["in memory"]
        for way, found in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, found, strict=True))
            lines.append(f"| {engine} | {way} | {min(found):.2f} | {ratio:.2f} | {min(own) / min(found):.2f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small files and few steps, in seconds; keeps nothing")
    parser.add_argument("--files", type=Path, help="folder to make the files in, 7 GB; else a temporary one")
    parser.add_argument("--only", choices=("memory", "speed"), help="one of the two tables, to be shown alone")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(Path(chosen.child[0]), chosen.child[1], int(chosen.child[2]))
        return
    torch.set_num_threads(1)
    smoke = chosen.smoke
    few = 500 if smoke else ROWS // 320
    ways = [(few, "in memory"), (few, "mapped"), (few, "streamed, 2 workers")]
    if not smoke:
        ways += [(ROWS // 10, way) for way in ("in memory", "mapped")]
        ways += [(ROWS, way) for way in ("mapped", "streamed, 2 workers")]
    with tempfile.TemporaryDirectory(dir=chosen.files) as folder:
        lines = [] if chosen.only == "speed" else memory(Path(folder), ways, 4 if smoke else 500)
        if chosen.only != "memory":
            rows = 500 if smoke else ROWS // 10
            engines = ("eager",) if smoke else ("eager", "captured")
            lines += ["", *speed(written(Path(folder), rows), rows, engines, 1 if smoke else 20)]
    if not smoke and not chosen.only:
        write(FOLDER / "table.md", "\n".join(lines) + "\n")
        note(FOLDER / "settings.json", all=provenance(rows=ROWS, batch_size=BATCH))
    print(f"{len(ways)} files measured")


if __name__ == "__main__":
    main()
