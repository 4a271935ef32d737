"""Runs of this project's own command line, several at once, each on one core; interrupted, they are gone on with."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyro_aevb.checkpoints import Run


class RunFailedError(Exception):
    """The command line ended with an error: its words."""


def arguments(doc: str, name: str, samples: float, smoke: str) -> argparse.ArgumentParser:
    """What every figure takes.

    Arguments:
        doc: The script's docstring, of which the first line is shown.
        name: The script's; its runs are kept in the folder of that name.
        samples: By default.
        smoke: What ``--smoke`` does.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--samples", type=float, default=samples)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="where runs are kept")
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser


def train(path: Path, options: list[str], samples: int, every: int) -> list[dict]:
    """Begin a run, or go on with it, up to so many samples; its metrics."""
    run = Run(path) if path.exists() else None
    if run is None or max((m["samples_seen"] for m in run.metrics()), default=0) < samples:
        begin = [f"--resume={path}"] if run else [f"--out={path}", *options]
        call("train", *begin, f"--samples={samples}", f"--evaluate_every={every}", f"--save_every={every}")
    return Run(path).metrics()


def call(*words: str) -> str:
    """What ``pyro-aevb`` printed, in a process of its own with one thread: two such do more than one with two."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pyro_aevb", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RunFailedError(f"pyro-aevb {' '.join(words)}\n{done.stderr}")
    return done.stdout


def all_of(function: Callable[..., Any], cases: Iterable[tuple], jobs: int) -> list[Any]:
    """A function of each case, so many at once; results in the cases' order."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda case: function(*case), cases))


def minutes_of(metrics: list[dict]) -> float:
    """Of training, all sessions of a run together: the clock in ``metrics.jsonl`` starts anew with each."""
    seconds = [m["seconds"] for m in metrics if "seconds" in m]
    sessions = (now for now, following in zip(seconds, [*seconds[1:], 0.0], strict=True) if following < now)
    return round(sum(sessions) / 60, 1)


def training_bound(metrics: list[dict], since: int = 0) -> float:
    """Mean of the training bounds reported after so many samples."""
    bounds = [m["bound"] for m in metrics if "bound" in m and m["samples_seen"] > since]
    return sum(bounds) / len(bounds)
